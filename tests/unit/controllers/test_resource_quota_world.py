"""ResourceQuotas beside the controllers that fill them, and the count that puts a wrong ledger right."""

from __future__ import annotations

import asyncio

from cluster.controllers.config import ControllerConfig
from cluster.controllers.deployment import DeploymentController
from cluster.controllers.replicaset import ReplicaSetController
from cluster.controllers.resource_quota import ResourceQuotaController
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World, deployment

ALL = (DeploymentController, ReplicaSetController, ResourceQuotaController)


async def _quota(w: World) -> Obj:
    return await w.client.get("resourcequotas", "q", "default")


async def _limit(w: World, pods: int) -> None:
    body: Obj = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"pods": str(pods)}}}
    await w.create("resourcequotas", body)


async def _failures(w: World) -> list[Obj]:
    conditions = [c for rs in await w.items("replicasets.apps") for c in rs["status"].get("conditions") or ()]
    return [c for c in conditions if c["type"] == "ReplicaFailure"]


async def _work(w: World) -> None:
    """A refused write is tried again and again, so this world never comes to rest by itself."""
    await asyncio.sleep(0.002)
    for reconciler in w.reconcilers():
        await reconciler.drain()


async def test_a_replica_set_gets_as_many_as_the_quota_allows_and_the_rest_when_it_grows() -> None:
    async with asyncio.timeout(60), World(*ALL) as w:
        await w.namespace()
        await w.node("n1")
        await _limit(w, 2)
        await w.create("deployments.apps", deployment(replicas=3))
        while not (failures := await _failures(w)):
            await _work(w)
        assert len(await w.items("pods")) == 2
        (failure,) = failures
        assert "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2" in failure["message"]
        quota = clone(await _quota(w))
        quota["spec"]["hard"]["pods"] = "3"
        await w.client.update("resourcequotas", quota)
        while len(await w.items("pods")) < 3:
            await _work(w)
        assert (await _quota(w))["status"] == {"hard": {"pods": "3"}, "used": {"pods": "3"}}


async def test_a_ledger_that_went_wrong_is_counted_anew_in_time() -> None:
    async with World(*ALL, config=ControllerConfig(resource_quota_sync_period_s=300.0)) as w:
        await w.namespace()
        await w.node("n1")
        await _limit(w, 5)
        await w.create("deployments.apps", deployment(replicas=2))
        await w.settle()
        wrong = clone(await _quota(w))
        wrong["status"]["used"]["pods"] = "4"
        await w.client.update("resourcequotas", wrong, subresource="status")
        await w.settle()
        assert (await _quota(w))["status"]["used"] == {"pods": "4"}, "not each charge is a reason to count"
        for _ in range(8):
            await w.tick(60.0)
        assert (await _quota(w))["status"]["used"] == {"pods": "2"}
