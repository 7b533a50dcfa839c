"""ReplicationControllers: what Kubernetes' conformance tests ask of them, on the in-memory store."""

from __future__ import annotations

from typing import Any

from cluster.api.meta import controller_of
from cluster.controllers.disruption import DisruptionController
from cluster.controllers.replicaset import ReplicaSetController, replication_controllers
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World, template

RCS = "replicationcontrollers"


def rc(name: str = "web", replicas: int = 3, **spec: Any) -> Obj:
    """Without a selector: the API takes the template's labels."""
    meta = {"name": name, "namespace": "default"}
    spec = {"replicas": replicas, "template": template(name), **spec}
    return {"apiVersion": "v1", "kind": "ReplicationController", "metadata": meta, "spec": spec}


async def start(w: World) -> None:
    await w.namespace()
    await w.node("n1")


async def get(w: World) -> Obj:
    return await w.client.get(RCS, "web", "default")


async def test_pods_are_made_and_the_status_counts_them() -> None:
    async with World(replication_controllers) as w:
        await start(w)
        await w.create(RCS, rc())
        await w.settle_with_kubelet()
        pods = await w.items("pods")
        owner = await get(w)
        status = owner["status"]
        assert (status["replicas"], status["fullyLabeledReplicas"]) == (3, 3)
        assert (status["readyReplicas"], status["availableReplicas"]) == (3, 3)
        assert status["observedGeneration"] == owner["metadata"]["generation"]
        refs = [controller_of(p) for p in pods]
        assert {(r["apiVersion"], r["kind"], r["uid"]) for r in refs if r} == {
            ("v1", "ReplicationController", owner["metadata"]["uid"])
        }
        events = [e for e in await w.items("events") if e["reason"] == "SuccessfulCreate"]
        assert {e["source"]["component"] for e in events} == {"replication-controller"} and len(events) == 3


async def test_scaling_through_the_subresource() -> None:
    async with World(replication_controllers) as w:
        await start(w)
        await w.create(RCS, rc(replicas=1))
        await w.settle_with_kubelet()
        await w.client.patch(RCS, "web", {"spec": {"replicas": 4}}, "default", subresource="scale")
        await w.settle_with_kubelet()
        assert len(await w.items("pods")) == 4
        await w.client.patch(RCS, "web", {"spec": {"replicas": 0}}, "default", subresource="scale")
        await w.settle_with_kubelet()
        assert not await w.items("pods") and (await get(w))["status"]["replicas"] == 0


async def test_a_matching_pod_is_adopted_and_one_relabelled_is_released() -> None:
    async with World(replication_controllers) as w:
        await start(w)
        bare = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": "default"}}
        made = template()
        bare["metadata"]["labels"] = made["metadata"]["labels"]  # type: ignore[index]
        await w.create("pods", {**bare, "spec": made["spec"]})
        await w.create(RCS, rc(replicas=1))
        await w.settle_with_kubelet()
        (pod,) = await w.items("pods")
        ref = controller_of(pod)
        assert pod["metadata"]["name"] == "bare" and ref is not None and ref["name"] == "web"
        await w.client.patch("pods", "bare", {"metadata": {"labels": {"app": "other"}}}, "default")
        await w.settle_with_kubelet()
        assert controller_of(await w.client.get("pods", "bare", "default")) is None
        assert len(await w.items("pods")) == 2


async def test_a_quota_shows_as_replica_failure_until_the_wish_fits() -> None:
    async with World(replication_controllers) as w:
        await start(w)
        quota = {"metadata": {"name": "two", "namespace": "default"}, "spec": {"hard": {"pods": "2"}}}
        await w.create("resourcequotas", quota)
        await w.create(RCS, rc(replicas=3))
        for _ in range(5):
            await w.kubelet()
            await w.churn()
        failed = [c for c in (await get(w))["status"]["conditions"] if c["type"] == "ReplicaFailure"]
        assert [(c["status"], c["reason"]) for c in failed] == [("True", "FailedCreate")]
        assert "exceeded quota: two" in failed[0]["message"]
        await w.client.patch(RCS, "web", {"spec": {"replicas": 2}}, "default")
        await w.settle_with_kubelet()
        assert not (await get(w))["status"].get("conditions")
        assert len(await w.items("pods")) == 2


async def test_a_replica_set_of_the_same_labels_and_name_keeps_to_its_own_pods() -> None:
    async with World(replication_controllers, ReplicaSetController) as w:
        await start(w)
        await w.create(RCS, rc(replicas=2))
        await w.settle_with_kubelet()
        other = clone(rc(replicas=1))
        other |= {"apiVersion": "apps/v1", "kind": "ReplicaSet"}
        other["spec"]["selector"] = {"matchLabels": {"app": "web"}}
        await w.create("replicasets.apps", other)
        await w.settle_with_kubelet()
        kinds = sorted(ref["kind"] for p in await w.items("pods") if (ref := controller_of(p)))
        assert kinds == ["ReplicaSet", "ReplicationController", "ReplicationController"]


async def test_a_budget_in_percent_counts_what_the_controller_wants() -> None:
    async with World(replication_controllers, DisruptionController) as w:
        await start(w)
        spec = {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}}
        await w.create(
            "poddisruptionbudgets.policy", {"metadata": {"name": "half", "namespace": "default"}, "spec": spec}
        )
        await w.create(RCS, rc(replicas=4))
        await w.settle_with_kubelet()
        (budget,) = await w.items("poddisruptionbudgets.policy")
        assert (budget["status"]["expectedPods"], budget["status"]["disruptionsAllowed"]) == (4, 2)
