"""Generic ephemeral volumes: a claim for each, its pod's own, gone with the pod."""

from __future__ import annotations

from cluster.controllers.ephemeral_volumes import EphemeralVolumeController
from cluster.controllers.garbage_collector import GarbageCollector
from cluster.controllers.volume_protection import VolumeProtectionController
from cluster.machinery.client import Obj
from tests.support.controller_world import World
from tests.unit.controllers.test_endpoints_world import pod
from tests.unit.controllers.test_volumes_world import claim

CLAIMS = "persistentvolumeclaims"


def scratch_pod() -> Obj:
    made = pod("a")
    template = {"metadata": {"labels": {"type": "scratch"}}, "spec": claim()["spec"]}
    made["spec"]["volumes"] = [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]
    return made


async def test_a_claim_is_made_for_the_pod_and_goes_with_it() -> None:
    async with World(EphemeralVolumeController, VolumeProtectionController, GarbageCollector) as w:
        await w.namespace()
        made = await w.create("pods", scratch_pod())
        await w.settle()
        (found,) = await w.items(CLAIMS)
        meta = found["metadata"]
        assert (meta["name"], meta["labels"]) == ("a-scratch", {"type": "scratch"})
        (ref,) = meta["ownerReferences"]
        assert (ref["kind"], ref["uid"], ref["controller"]) == ("Pod", made["metadata"]["uid"], True)
        await w.client.delete("pods", "a", "default", grace_period_s=0)
        await w.settle()
        assert not await w.items(CLAIMS)


async def test_a_claim_of_somebody_else_is_not_taken() -> None:
    async with World(EphemeralVolumeController) as w:
        await w.namespace()
        foreign = await w.create(CLAIMS, claim("a-scratch"))
        await w.create("pods", scratch_pod())
        await w.settle()
        assert [c["metadata"]["uid"] for c in await w.items(CLAIMS)] == [foreign["metadata"]["uid"]]
        (event,) = [e for e in await w.items("events") if e["reason"] == "FailedBinding"]
        assert "was not created for pod a (pod is not owner)" in event["message"]
