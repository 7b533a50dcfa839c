"""Deployments and ReplicaSets as whole controllers on the in-memory store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cluster.api.errors import forbidden, internal
from cluster.api.scheme import SCHEME
from cluster.controllers.deployment import DeploymentController
from cluster.controllers.pod_control import PodControl
from cluster.controllers.replicaset import ReplicaSetController
from cluster.machinery.client import Created, Obj, clone
from cluster.machinery.informer import Informer
from cluster.machinery.registry_client import RegistryClient
from cluster.registry.context import MASTERS, RequestContext
from tests.support.controller_world import World, deployment
from tests.support.fake_clock import FakeClock

BOTH = (DeploymentController, ReplicaSetController)


async def start(w: World) -> None:
    await w.namespace()
    await w.node("n1")


async def get(w: World, name: str = "web") -> Obj:
    return await w.client.get("deployments.apps", name, "default")


async def set_spec(w: World, name: str = "web", **spec: Any) -> None:
    await w.client.patch("deployments.apps", name, {"spec": spec}, "default")


async def set_image(w: World, image: str) -> None:
    patch = {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}
    await w.client.patch("deployments.apps", "web", {"spec": patch}, "default", kind="strategic")


async def test_counts_that_are_zero_are_not_written() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment())
        await w.settle()
        status = (await get(w))["status"]
        assert status["unavailableReplicas"] == 3 and "readyReplicas" not in status
        status = (await w.items("replicasets.apps"))[0]["status"]
        assert status["replicas"] == 3 and "availableReplicas" not in status


async def test_a_deployment_makes_a_replica_set_and_its_pods() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        sets = await w.items("replicasets.apps")
        pods = await w.items("pods")
        d = await get(w)
        assert len(sets) == 1 and len(pods) == 3
        assert sets[0]["metadata"]["name"].startswith("web-")
        assert all(p["metadata"]["name"].startswith(sets[0]["metadata"]["name"] + "-") for p in pods)
        assert d["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
        status = d["status"]
        assert (status["replicas"], status["readyReplicas"], status["availableReplicas"]) == (3, 3, 3)
        assert status["observedGeneration"] == d["metadata"]["generation"]
        reasons = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
        assert reasons == {
            "Available": ("True", "MinimumReplicasAvailable"),
            "Progressing": ("True", "NewReplicaSetAvailable"),
        }
        events = {(e["reason"], e["message"]) for e in await w.items("events")}
        assert ("ScalingReplicaSet", f"Scaled up replica set {sets[0]['metadata']['name']} from 0 to 3") in events
        assert sum(1 for r, _ in events if r == "SuccessfulCreate") == 3


async def test_a_settled_deployment_writes_nothing() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        before = await w.revision()
        for c in w.controllers:
            c.resync()
        await w.settle()
        assert w.store.revision == before


async def test_a_rolling_update_keeps_its_bounds_and_ends_with_the_new_template() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment(replicas=4))
        await w.settle_with_kubelet()
        await set_image(w, "nginx:2")
        for _ in range(30):
            await w.settle()
            pods = [p for p in await w.items("pods") if "deletionTimestamp" not in p["metadata"]]
            ready = [p for p in pods if (p.get("status") or {}).get("phase") == "Running"]
            assert len(pods) <= 5 and len(ready) >= 3
            await w.kubelet()
        await w.settle()
        pods = await w.items("pods")
        assert [p["spec"]["containers"][0]["image"] for p in pods] == ["nginx:2"] * 4
        d = await get(w)
        assert d["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
        assert (d["status"]["updatedReplicas"] == 4 and "unavailableReplicas" not in d["status"]) or (
            d["status"]["unavailableReplicas"] == 0
        )


async def test_recreate_never_runs_old_and_new_together() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment(strategy={"type": "Recreate"}))
        await w.settle_with_kubelet()
        await set_image(w, "nginx:2")
        for _ in range(8):
            await w.settle()
            images = {p["spec"]["containers"][0]["image"] for p in await w.items("pods")}
            assert len(images) <= 1
            await w.kubelet()
        assert {p["spec"]["containers"][0]["image"] for p in await w.items("pods")} == {"nginx:2"}


async def test_scaling_up_and_down() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        await set_spec(w, replicas=5)
        await w.settle_with_kubelet()
        assert len(await w.items("pods")) == 5
        await set_spec(w, replicas=1)
        await w.settle_with_kubelet()
        assert len(await w.items("pods")) == 1
        assert (await get(w))["status"]["replicas"] == 1
        await set_spec(w, replicas=0)
        await w.settle_with_kubelet()
        assert await w.items("pods") == []


async def test_what_happens_to_a_crowd_that_ends_gathers() -> None:
    """Each look goes through all that are still ending."""
    async with World(ReplicaSetController) as w:
        await start(w)
        crowd = {**deployment(replicas=120), "kind": "ReplicaSet"}
        await w.create("replicasets.apps", crowd)
        (controller,) = w.controllers
        assert isinstance(controller, ReplicaSetController)
        await w.churn()
        await w.kubelet()
        await w.client.patch("replicasets.apps", "web", {"spec": {"replicas": 0}}, "default")
        await w.churn()
        await controller._reconcile("default/web")
        again = await controller._reconcile("default/web")
        assert ["deletionTimestamp" in p["metadata"] for p in await w.items("pods")] == [True] * 120
        assert again is not None and again.rest_s > 0


async def test_a_deleted_or_failed_pod_is_replaced() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        first, second, _ = await w.items("pods")
        await w.client.delete("pods", first["metadata"]["name"], "default")
        await w.pod_status(second, ready=False, phase="Failed")
        await w.settle_with_kubelet()
        pods = [p for p in await w.items("pods") if p["status"]["phase"] == "Running"]
        assert len(pods) == 3
        assert first["metadata"]["uid"] not in {p["metadata"]["uid"] for p in pods}


async def test_rollback_by_patching_the_old_template_reuses_its_replica_set() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        await set_image(w, "nginx:2")
        await w.settle_with_kubelet()
        await set_image(w, "nginx:1.21")
        await w.settle_with_kubelet()
        sets = {s["spec"]["template"]["spec"]["containers"][0]["image"]: s for s in await w.items("replicasets.apps")}
        assert len(sets) == 2
        old = sets["nginx:1.21"]
        assert old["spec"]["replicas"] == 3
        assert old["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
        assert old["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"


async def test_paused_does_not_roll_but_scales() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        await set_spec(w, paused=True)
        await set_image(w, "nginx:2")
        await set_spec(w, replicas=4)
        await w.settle_with_kubelet()
        images = [p["spec"]["containers"][0]["image"] for p in await w.items("pods")]
        assert images == ["nginx:1.21"] * 4
        await set_spec(w, paused=False)
        await w.settle_with_kubelet()
        images = [p["spec"]["containers"][0]["image"] for p in await w.items("pods")]
        assert images == ["nginx:2"] * 4


async def test_history_is_trimmed() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment(replicas=1, revisionHistoryLimit=1))
        for i in range(4):
            await w.settle_with_kubelet()
            await set_image(w, f"nginx:{i}")
        await w.settle_with_kubelet()
        assert len(await w.items("replicasets.apps")) == 2


async def test_a_rollout_that_makes_no_progress_times_out() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment(progressDeadlineSeconds=60))
        await w.settle()
        await w.kubelet(ready=False)
        await w.settle()
        await w.tick(70)
        conditions = {c["type"]: c for c in (await get(w))["status"]["conditions"]}
        assert conditions["Progressing"]["reason"] == "ProgressDeadlineExceeded"
        assert conditions["Progressing"]["status"] == "False"
        assert conditions["Available"]["status"] == "False"
        await w.kubelet()
        await w.settle()
        conditions = {c["type"]: c for c in (await get(w))["status"]["conditions"]}
        assert conditions["Progressing"]["reason"] == "NewReplicaSetAvailable"


async def test_min_ready_seconds_delays_availability() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment(minReadySeconds=10))
        await w.settle_with_kubelet()
        assert not (await get(w))["status"].get("availableReplicas")
        await w.tick(11)
        assert (await get(w))["status"]["availableReplicas"] == 3


async def test_orphans_are_adopted_and_strays_released() -> None:
    async with World(*BOTH) as w:
        await start(w)
        orphan = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "orphan", "namespace": "default", "labels": {"app": "solo"}},
            "spec": {"containers": [{"name": "main", "image": "x"}]},
        }
        await w.create("pods", orphan)
        rs = deployment("solo", replicas=2)
        rs["kind"] = "ReplicaSet"
        await w.create("replicasets.apps", rs)
        await w.settle_with_kubelet()
        pods = await w.items("pods")
        assert len(pods) == 2 and "orphan" in {p["metadata"]["name"] for p in pods}
        await w.client.patch("pods", "orphan", {"metadata": {"labels": {"app": "other"}}}, "default")
        await w.settle_with_kubelet()
        pods = {p["metadata"]["name"]: p for p in await w.items("pods")}
        assert len(pods) == 3 and not pods["orphan"]["metadata"].get("ownerReferences")


class Dies(Exception):
    """The controller's process ends here."""


class DiesAfter:
    """A client that works for `writes` writes and then stops answering, as a killed process would."""

    def __init__(self, client: Any, writes: int) -> None:
        self._client = client
        self.left = writes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name not in ("create", "update", "patch", "delete"):
            return method

        async def counted(resource: str, *args: Any, **kwargs: Any) -> Any:
            if resource == "events":
                return await method(resource, *args, **kwargs)
            if self.left <= 0:
                raise internal("the process is dead")
            self.left -= 1
            return await method(resource, *args, **kwargs)

        return counted


@pytest.mark.parametrize("writes", range(1, 14))
async def test_killed_after_any_write_a_restart_converges(writes: int) -> None:
    """A rollout; the controllers die after `writes` writes; new ones, with empty memories, finish it."""
    async with World(*BOTH) as w:
        await start(w)
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        await set_image(w, "nginx:2")
        await set_spec(w, replicas=4)
        store, clock = w.store, w.clock
    dying: list[DiesAfter] = []

    def wrap(client: Any) -> Any:
        dying.append(DiesAfter(client, writes))
        return dying[0]

    async with World(*BOTH, store=store, clock=clock, wrap=wrap) as w:
        for _ in range(60):
            for _ in range(5):
                await asyncio.sleep(0)
            for reconciler in w.reconcilers():
                for _ in range(len(reconciler.queue)):
                    await reconciler.step()
            if dying[0].left <= 0:
                break
            await w.kubelet()
        for reconciler in w.reconcilers():
            reconciler.queue.shut_down()
    async with World(*BOTH, store=store, clock=clock) as w:
        await w.settle_with_kubelet()
        pods = await w.items("pods")
        assert [p["spec"]["containers"][0]["image"] for p in pods] == ["nginx:2"] * 4
        sets = await w.items("replicasets.apps")
        assert sorted(s["spec"]["replicas"] for s in sets) == [0, 4]
        assert clone(await get(w))["status"]["availableReplicas"] == 4


async def test_what_one_action_caused_carries_its_id() -> None:
    async with World(*BOTH) as w:
        await start(w)
        context = RequestContext(user=MASTERS, field_manager="kubectl", audit_id="scale-1", cause_id="scale-1")
        await RegistryClient(w.registry, lambda: context).create("deployments.apps", deployment(), "default")
        await w.settle()
        ctx = RequestContext(user=MASTERS)
        for resource, count in (("replicasets.apps", 1), ("pods", 3)):
            found = (await w.registry.list(ctx, SCHEME.named(resource), "default")).items
            assert [stored.cause for stored in found] == ["scale-1"] * count


async def test_scaling_in_the_middle_of_a_rollout_is_proportional() -> None:
    """The example of Kubernetes' documentation: 8 old and 5 new of 10 become 11 and 7 of 15."""
    async with World(*BOTH) as w:
        await w.namespace()
        await w.node("n1")
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}
        await w.create("deployments.apps", deployment(replicas=10, strategy=rolling))
        await w.settle_with_kubelet()
        change = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "nginx:sometag"}]}}}}
        await w.client.patch("deployments.apps", "web", change, "default")
        await w.settle()  # no kubelet: nothing new becomes ready
        assert await _sizes(w) == {"nginx:1.21": 8, "nginx:sometag": 5}
        await w.client.patch("deployments.apps", "web", {"spec": {"replicas": 15}}, "default")
        await w.settle()
        assert await _sizes(w) == {"nginx:1.21": 11, "nginx:sometag": 7}


async def _sizes(w: World) -> dict[str, int]:
    sets = await w.items("replicasets.apps")
    return {s["spec"]["template"]["spec"]["containers"][0]["image"]: s["spec"]["replicas"] for s in sets}


@pytest.mark.parametrize(("refused_after", "tried"), [(0, 1), (1, 3), (3, 7), (100, 100)])
async def test_pods_are_made_in_batches_that_double(refused_after: int, tried: int) -> None:
    """What no admission accepts costs a few refusals, not as many as there are replicas."""
    calls = 0

    class Refusing:
        async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
            nonlocal calls
            first, calls = calls, calls + len(objects)
            full = forbidden(SCHEME.named("pods"), "p", "exceeded quota")
            return [pod if first + i < refused_after else full for i, pod in enumerate(objects)]

    client, events = Refusing(), Told()
    control = PodControl(client, Informer(client, "pods"), events, FakeClock())  # type: ignore[arg-type]
    pods: list[Obj] = [{"metadata": {"name": f"p{i}"}} for i in range(100)]
    owner = deployment()
    owner["metadata"]["uid"] = "u"
    made, error = await control.create(owner, pods)
    assert (calls, made) == (tried, pods[: min(refused_after, 100)])
    assert (error is None) == (refused_after == 100)
    assert events.reasons == ["SuccessfulCreate"] * len(made) + ["FailedCreate"] * (calls - len(made))


class Told:
    """An EventRecorder that writes nothing."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def event(self, obj: Obj, type_: str, reason: str, message: str) -> None:
        self.reasons.append(reason)
