"""PodDisruptionBudgets: what is allowed, and that evictions and the controller agree."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.controllers.deployment import DeploymentController
from cluster.controllers.disruption import DisruptionController
from cluster.controllers.replicaset import ReplicaSetController
from cluster.controllers.statefulset import StatefulSetController
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World, deployment, template

ALL = (DeploymentController, ReplicaSetController, DisruptionController)


def budget(app: str = "web", **spec: Any) -> Obj:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}, **spec},
    }


async def start(w: World, **spec: Any) -> None:
    await w.namespace()
    await w.node("n1")
    await w.create("poddisruptionbudgets.policy", budget(**spec))
    await w.create("deployments.apps", deployment(replicas=5))
    await w.settle_with_kubelet()


async def get(w: World) -> Obj:
    return await w.client.get("poddisruptionbudgets.policy", "b", "default")


async def counts(w: World) -> tuple[int, ...]:
    status = (await get(w))["status"]
    return tuple(status[f] for f in ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"))


async def evict(w: World, name: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    await w.client.create("pods", body, "default", subresource="eviction", name=name)


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"minAvailable": 3}, (2, 5, 3, 5)),
        ({"minAvailable": "50%"}, (2, 5, 3, 5)),
        ({"maxUnavailable": 1}, (1, 5, 4, 5)),
        ({"maxUnavailable": "30%"}, (2, 5, 3, 5)),
        ({"minAvailable": 5}, (0, 5, 5, 5)),
        ({"minAvailable": 7}, (0, 5, 7, 5)),
    ],
)
async def test_what_is_allowed(spec: Obj, want: tuple[int, ...]) -> None:
    async with World(*ALL) as w:
        await start(w, **spec)
        assert await counts(w) == want
        condition = (await get(w))["status"]["conditions"][0]
        reason = ("True", "SufficientPods") if want[0] else ("False", "InsufficientPods")
        assert (condition["status"], condition["reason"]) == reason
        before = await w.revision()
        for c in w.controllers:
            c.resync()
        await w.settle()
        assert w.store.revision == before


async def test_evictions_are_granted_one_by_one_as_pods_come_back() -> None:
    async with World(*ALL) as w:
        await start(w, maxUnavailable=1)
        first, second = [p["metadata"]["name"] for p in (await w.items("pods"))[:2]]
        await evict(w, first)
        with pytest.raises(ApiError) as caught:
            await evict(w, second)
        assert caught.value.code == 429
        await w.settle()
        assert await counts(w) == (0, 4, 4, 5)
        assert "disruptedPods" not in (await get(w))["status"]
        await w.settle_with_kubelet()
        assert await counts(w) == (1, 5, 4, 5)
        await evict(w, second)


async def test_an_eviction_that_never_deletes_gives_its_disruption_back() -> None:
    async with World(*ALL) as w:
        await start(w, maxUnavailable=1)
        changed = clone(await get(w))
        name = (await w.items("pods"))[0]["metadata"]["name"]
        changed["status"]["disruptionsAllowed"] = 0
        changed["status"]["disruptedPods"] = {name: rfc3339(w.clock())}
        await w.client.update("poddisruptionbudgets.policy", changed, subresource="status")
        await w.settle()
        assert await counts(w) == (0, 4, 4, 5)
        await w.tick(121)
        assert await counts(w) == (1, 5, 4, 5)
        assert "NotDeleted" in {e["reason"] for e in await w.items("events")}


async def test_a_deployment_that_is_scaled_changes_what_is_expected() -> None:
    async with World(*ALL) as w:
        await start(w, minAvailable="50%")
        await w.client.patch("deployments.apps", "web", {"spec": {"replicas": 10}}, "default")
        await w.settle()
        assert (await counts(w))[3] == 10
        await w.settle_with_kubelet()
        assert await counts(w) == (5, 10, 5, 10)


async def test_stateful_sets_count_too() -> None:
    async with World(StatefulSetController, DisruptionController) as w:
        await w.namespace()
        await w.node("n1")
        spec = {"replicas": 3, "serviceName": "db", "template": template("db")}
        spec["selector"] = {"matchLabels": {"app": "db"}}
        meta = {"name": "db", "namespace": "default"}
        await w.create(
            "statefulsets.apps", {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec}
        )
        await w.create("poddisruptionbudgets.policy", budget("db", maxUnavailable=1))
        await w.settle_with_kubelet()
        assert await counts(w) == (1, 3, 2, 3)


async def test_pods_of_a_controller_without_scale_allow_nothing() -> None:
    async with World(DisruptionController) as w:
        await w.namespace()
        ref = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": True}
        meta = {"name": "p", "namespace": "default", "labels": {"app": "web"}, "ownerReferences": [ref]}
        spec = clone(template("web"))["spec"]
        await w.create("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        await w.create("poddisruptionbudgets.policy", budget(maxUnavailable=1))
        await w.settle()
        status = (await get(w))["status"]
        assert status["disruptionsAllowed"] == 0
        assert status["conditions"][0]["reason"] == "SyncFailed"
        assert status["conditions"][0]["message"] == "jobs.batch does not implement the scale subresource"
