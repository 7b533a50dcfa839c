"""StatefulSets as a whole controller on the in-memory store."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.controllers.garbage_collector import GarbageCollector
from cluster.controllers.statefulset import StatefulSetController
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World, template


def stateful_set(name: str = "db", replicas: int = 3, image: str = "postgres:16", **spec: Any) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, image),
            **spec,
        },
    }


def claim_template(name: str = "data") -> Obj:
    return {
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


async def start(w: World) -> None:
    await w.namespace()
    await w.node("n1")


async def get(w: World, name: str = "db") -> Obj:
    return await w.client.get("statefulsets.apps", name, "default")


async def patch(w: World, **spec: Any) -> None:
    await w.client.patch("statefulsets.apps", "db", {"spec": spec}, "default")


async def set_image(w: World, image: str) -> None:
    await patch(w, template={"spec": {"containers": [{"name": "main", "image": image}]}})


async def names(w: World) -> list[str]:
    return sorted(p["metadata"]["name"] for p in await w.items("pods"))


async def standing(w: World) -> list[str]:
    return sorted(p["metadata"]["name"] for p in await w.items("pods") if "deletionTimestamp" not in p["metadata"])


async def images(w: World) -> dict[str, str]:
    return {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in await w.items("pods")}


async def finish_deletions(w: World) -> None:
    for pod in await w.items("pods"):
        meta = pod["metadata"]
        if "deletionTimestamp" in meta:
            await w.client.delete("pods", meta["name"], meta["namespace"], grace_period_s=0)
    await w.settle()


async def test_pods_come_in_order_and_each_waits_for_the_one_before() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set())
        seen = []
        for _ in range(3):
            await w.settle()
            seen.append(await names(w))
            await w.kubelet()
        await w.settle()
        assert seen == [["db-0"], ["db-0", "db-1"], ["db-0", "db-1", "db-2"]]
        pod = await w.client.get("pods", "db-1", "default")
        set_ = await get(w)
        revision = set_["status"]["currentRevision"]
        assert pod["metadata"]["labels"] == {
            "app": "db",
            "statefulset.kubernetes.io/pod-name": "db-1",
            "apps.kubernetes.io/pod-index": "1",
            "controller-revision-hash": revision,
        }
        assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-1", "db")
        status = set_["status"]
        assert {k: status[k] for k in status if k.endswith("eplicas")} == {
            "replicas": 3, "readyReplicas": 3, "availableReplicas": 3, "currentReplicas": 3, "updatedReplicas": 3,
        }  # fmt: skip
        assert status["currentRevision"] == status["updateRevision"] == revision and revision.startswith("db-")
        events = [(e["reason"], e["message"]) for e in await w.items("events")]
        assert ("SuccessfulCreate", "create Pod db-2 in StatefulSet db successful") in events


async def test_parallel_makes_and_removes_all_at_once() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(podManagementPolicy="Parallel"))
        await w.settle()
        assert await names(w) == ["db-0", "db-1", "db-2"]
        await w.settle_with_kubelet()
        await patch(w, replicas=0)
        await w.settle()
        assert all("deletionTimestamp" in p["metadata"] for p in await w.items("pods"))


async def test_parallel_pods_do_not_wait_for_one_that_cannot_be_made_anew_yet() -> None:
    """It ended on a machine that does not say so: its object stays, and the others have nothing to do with that."""
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(podManagementPolicy="Parallel"))
        await w.settle_with_kubelet()
        await w.pod_status(await w.client.get("pods", "db-0", "default"), ready=False, phase="Failed")
        await w.client.patch("pods", "db-0", {"metadata": {"finalizers": ["example.com/held"]}}, "default")
        await w.client.delete("pods", "db-2", "default", grace_period_s=0)
        await w.settle()
        assert await names(w) == ["db-0", "db-1", "db-2"]
        await w.settle_with_kubelet()
        await set_image(w, "postgres:17")
        await w.settle()
        assert await standing(w) == ["db-1"], "the highest is updated"
        await patch(w, replicas=1)
        await w.settle()
        assert await standing(w) == [], "all too many are scaled down"


async def test_parallel_pods_do_not_wait_for_a_claim_that_is_going_away() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        policy = {"whenDeleted": "Retain", "whenScaled": "Delete"}
        spec = {"volumeClaimTemplates": [claim_template()], "persistentVolumeClaimRetentionPolicy": policy}
        await w.create("statefulsets.apps", stateful_set(podManagementPolicy="Parallel", **spec))
        await w.settle_with_kubelet()
        refs = [{"apiVersion": "v1", "kind": "Pod", "name": "db-0", "uid": "of-the-one-before"}]
        held = {"metadata": {"ownerReferences": refs, "finalizers": ["example.com/held"]}}
        await w.client.patch("persistentvolumeclaims", "data-db-0", held, "default")
        await w.client.delete("persistentvolumeclaims", "data-db-0", "default")
        await w.client.delete("pods", "db-0", "default", grace_period_s=0)
        await patch(w, replicas=2)
        await w.settle()
        assert await standing(w) == ["db-1"]


async def test_scaling_down_goes_from_the_top_one_by_one() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set())
        await w.settle_with_kubelet()
        await patch(w, replicas=1)
        await w.settle()
        going = [p["metadata"]["name"] for p in await w.items("pods") if "deletionTimestamp" in p["metadata"]]
        assert going == ["db-2"]
        await w.settle_with_kubelet()
        assert await names(w) == ["db-0"]


async def test_never_a_second_pod_of_an_identity_while_the_first_object_exists() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set())
        await w.settle_with_kubelet()
        before = await w.client.get("pods", "db-1", "default")
        await w.client.delete("pods", "db-1", "default")
        await w.settle()
        still = await w.client.get("pods", "db-1", "default")
        assert still["metadata"]["uid"] == before["metadata"]["uid"]
        await finish_deletions(w)
        after = await w.client.get("pods", "db-1", "default")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]


async def test_a_failed_pod_is_made_anew_under_its_name() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(replicas=2))
        await w.settle_with_kubelet()
        before = await w.client.get("pods", "db-0", "default")
        await w.pod_status(before, ready=False, phase="Failed")
        await w.settle_with_kubelet()
        after = await w.client.get("pods", "db-0", "default")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert ("RecreatingFailedPod") in {e["reason"] for e in await w.items("events")}


async def test_a_rolling_update_goes_down_from_the_top_and_moves_the_current_revision() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set())
        await w.settle_with_kubelet()
        old = (await get(w))["status"]["currentRevision"]
        await set_image(w, "postgres:17")
        await w.settle()
        status = (await get(w))["status"]
        assert status["currentRevision"] == old != status["updateRevision"]
        order = []
        for _ in range(30):
            for p in await w.items("pods"):
                if "deletionTimestamp" in p["metadata"] and p["metadata"]["uid"] not in order:
                    order.append(p["metadata"]["uid"])
                    assert p["metadata"]["name"] == f"db-{3 - len(order)}"
            await w.kubelet()
            await w.settle()
        assert len(order) == 3
        assert set((await images(w)).values()) == {"postgres:17"}
        status = (await get(w))["status"]
        assert status["currentRevision"] == status["updateRevision"] and status["updatedReplicas"] == 3


async def test_an_update_takes_as_many_pods_away_as_max_unavailable_says() -> None:
    for value, most in ((2, 2), ("50%", 2), (3, 3)):
        async with World(StatefulSetController) as w:
            await start(w)
            strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": value}}
            await w.create("statefulsets.apps", stateful_set(updateStrategy=strategy))
            await w.settle_with_kubelet()
            await set_image(w, "postgres:17")
            await w.settle()
            going = [p["metadata"]["name"] for p in await w.items("pods") if "deletionTimestamp" in p["metadata"]]
            assert sorted(going) == [f"db-{i}" for i in range(3 - most, 3)]
            await w.settle_with_kubelet()
            assert set((await images(w)).values()) == {"postgres:17"}


async def test_the_partition_keeps_lower_ordinals_also_when_they_are_made_anew() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set())
        await w.settle_with_kubelet()
        await patch(w, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})
        await set_image(w, "postgres:17")
        await w.settle_with_kubelet()
        want = {"db-0": "postgres:16", "db-1": "postgres:16", "db-2": "postgres:17"}
        assert await images(w) == want
        await w.client.delete("pods", "db-0", "default", grace_period_s=0)
        await w.settle_with_kubelet()
        assert await images(w) == want
        status = (await get(w))["status"]
        assert (status["currentReplicas"], status["updatedReplicas"]) == (2, 1)


async def test_on_delete_updates_only_what_a_user_deletes() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(updateStrategy={"type": "OnDelete"}))
        await w.settle_with_kubelet()
        await set_image(w, "postgres:17")
        await w.settle_with_kubelet()
        assert set((await images(w)).values()) == {"postgres:16"}
        await w.client.delete("pods", "db-1", "default", grace_period_s=0)
        await w.settle_with_kubelet()
        assert await images(w) == {"db-0": "postgres:16", "db-1": "postgres:17", "db-2": "postgres:16"}


async def test_revisions_are_kept_reused_and_trimmed() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(replicas=1, revisionHistoryLimit=2))
        for image in ("a:1", "b:1", "c:1", "d:1", "b:1"):
            await set_image(w, image)
            await w.settle_with_kubelet()
        revisions = await w.items("controllerrevisions.apps")
        numbers = {r["data"]["spec"]["template"]["spec"]["containers"][0]["image"]: r["revision"] for r in revisions}
        assert numbers["b:1"] == max(numbers.values()) and len(revisions) == 3
        assert revisions[0]["data"]["spec"]["template"]["$patch"] == "replace"
        assert revisions[0]["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet"


async def test_claims_are_made_once_and_stay_with_the_identity() -> None:
    async with World(StatefulSetController, GarbageCollector) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(replicas=2, volumeClaimTemplates=[claim_template()]))
        await w.settle_with_kubelet()
        claims = {c["metadata"]["name"]: c for c in await w.items("persistentvolumeclaims")}
        assert sorted(claims) == ["data-db-0", "data-db-1"]
        assert claims["data-db-0"]["metadata"]["labels"] == {"app": "db"}
        pod = await w.client.get("pods", "db-1", "default")
        volume = next(v for v in pod["spec"]["volumes"] if v["name"] == "data")
        assert volume["persistentVolumeClaim"]["claimName"] == "data-db-1"
        await patch(w, replicas=0)
        await w.settle_with_kubelet()
        await w.client.delete("statefulsets.apps", "db", "default")
        await w.settle_with_kubelet()
        kept = {c["metadata"]["name"]: c["metadata"]["uid"] for c in await w.items("persistentvolumeclaims")}
        assert kept == {n: c["metadata"]["uid"] for n, c in claims.items()}


async def remaining_claims(w: World) -> list[str]:
    """Those that nobody deletes (the protection finalizer's controller does not run in this world)."""
    claims = await w.items("persistentvolumeclaims")
    return sorted(c["metadata"]["name"] for c in claims if "deletionTimestamp" not in c["metadata"])


async def test_claims_go_with_a_scaled_away_pod_when_told_so() -> None:
    async with World(StatefulSetController, GarbageCollector) as w:
        await start(w)
        policy = {"whenDeleted": "Retain", "whenScaled": "Delete"}
        spec = {"volumeClaimTemplates": [claim_template()], "persistentVolumeClaimRetentionPolicy": policy}
        await w.create("statefulsets.apps", stateful_set(replicas=2, **spec))
        await w.settle_with_kubelet()
        await w.client.delete("pods", "db-1", "default")
        await w.settle_with_kubelet()
        assert await remaining_claims(w) == ["data-db-0", "data-db-1"]
        await patch(w, replicas=1)
        await w.settle_with_kubelet()
        assert await remaining_claims(w) == ["data-db-0"]


async def test_claims_go_with_the_set_when_told_so() -> None:
    async with World(StatefulSetController, GarbageCollector) as w:
        await start(w)
        policy = {"whenDeleted": "Delete", "whenScaled": "Retain"}
        spec = {"volumeClaimTemplates": [claim_template()], "persistentVolumeClaimRetentionPolicy": policy}
        await w.create("statefulsets.apps", stateful_set(replicas=2, **spec))
        await w.settle_with_kubelet()
        await patch(w, replicas=1)
        await w.settle_with_kubelet()
        assert await remaining_claims(w) == ["data-db-0", "data-db-1"]
        await w.client.delete("statefulsets.apps", "db", "default")
        await w.settle_with_kubelet()
        assert await remaining_claims(w) == [] and await names(w) == []


async def test_min_ready_seconds_hold_the_next_pod_back() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(replicas=2, minReadySeconds=10))
        await w.settle()
        await w.kubelet()
        await w.settle()
        assert await names(w) == ["db-0"]
        assert (await get(w))["status"].get("availableReplicas", 0) == 0
        await w.tick(11)
        assert await names(w) == ["db-0", "db-1"]


async def test_start_ordinals_shift_the_identities() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(replicas=2, ordinals={"start": 5}))
        await w.settle_with_kubelet()
        assert await names(w) == ["db-5", "db-6"]


async def test_an_orphan_of_the_right_name_is_adopted_and_gets_its_labels() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db-0", "namespace": "default"}}
        pod["metadata"]["labels"] = {"app": "db"}  # type: ignore[index]
        pod["spec"] = clone(template("db"))["spec"]
        made = await w.create("pods", pod)
        await w.create("statefulsets.apps", stateful_set(replicas=1, updateStrategy={"type": "OnDelete"}))
        await w.settle_with_kubelet()
        adopted = await w.client.get("pods", "db-0", "default")
        assert adopted["metadata"]["uid"] == made["metadata"]["uid"]
        assert adopted["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet"
        assert adopted["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "db-0"


async def test_a_settled_set_writes_nothing() -> None:
    async with World(StatefulSetController) as w:
        await start(w)
        await w.create("statefulsets.apps", stateful_set(volumeClaimTemplates=[claim_template()]))
        await w.settle_with_kubelet()
        before = await w.revision()
        for c in w.controllers:
            c.resync()
        await w.settle()
        assert w.store.revision == before


async def test_the_data_of_a_revision_cannot_change() -> None:
    async with World() as w:
        await w.namespace()
        obj = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1, "data": {"a": 1}}
        made = await w.create("controllerrevisions.apps", {**obj, "metadata": {"name": "r", "namespace": "default"}})
        with pytest.raises(ApiError, match="field is immutable"):
            await w.client.update("controllerrevisions.apps", {**made, "data": {"a": 2}})
