"""The cluster autoscaler: what it asks for, what it says, and what it lets go of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.controllers.autoscaler import AutoscalerController
from cluster.controllers.autoscaler_core import DISABLED, GOING, SAFE, Room, ScaleDownRules, scale_up
from cluster.controllers.config import ControllerConfig
from cluster.controllers.disruption import DisruptionController
from cluster.controllers.env import Outside
from cluster.machinery.client import Obj, clone
from cluster.machinery.provider import NodeType
from tests.support.controller_world import World

GIB = 1 << 30
SMALL = NodeType("small", {"cpu": 2000, "memory": 4 * GIB, "pods": 110}, {"size": "small"}, max_count=3)
LARGE = NodeType("large", {"cpu": 8000, "memory": 16 * GIB, "pods": 110}, {"size": "large"}, max_count=1)


class FakeGroups:
    """Machines that come when the test says so."""

    def __init__(self, *types: NodeType) -> None:
        self.kinds = list(types)
        self.members: dict[str, str] = {}
        self.wanted: dict[str, int] = {}
        self.released: list[str] = []

    async def types(self) -> Sequence[NodeType]:
        return self.kinds

    async def nodes(self) -> Mapping[str, str]:
        return dict(self.members)

    async def scale(self, counts: Mapping[str, int]) -> None:
        self.wanted = dict(counts)

    async def release(self, node: str) -> None:
        self.released.append(node)
        self.members.pop(node, None)


def world(groups: FakeGroups) -> World:
    config = replace(ControllerConfig(), scale_down=ScaleDownRules(unneeded_s=60))
    return World(AutoscalerController, DisruptionController, outside=Outside(groups=groups), config=config)


def pod(name: str, cpu: str = "1", **spec: Any) -> Obj:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": True}
    meta = {"name": name, "namespace": "default", "labels": {"app": "web"}, "ownerReferences": [owner]}
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    return {"metadata": meta, "spec": {"containers": [container], **spec}}


async def pending(w: World, name: str, cpu: str = "1", **spec: Any) -> None:
    made = clone(await w.create("pods", pod(name, cpu, **spec)))
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    made["status"] = {"phase": "Pending", "conditions": [condition]}
    await w.client.update("pods", made, subresource="status")


async def machine(w: World, groups: FakeGroups, name: str, kind: NodeType) -> None:
    await w.node(name)
    node = clone(await w.client.get("nodes", name))
    amounts = {"cpu": f"{kind.allocatable['cpu']}m", "memory": str(kind.allocatable["memory"]), "pods": "110"}
    node["status"]["allocatable"] = node["status"]["capacity"] = amounts
    await w.client.update("nodes", node, subresource="status")
    groups.members[name] = kind.name


async def running(w: World, name: str, node: str, cpu: str = "100m", **more: Any) -> None:
    wanted = pod(name, cpu)
    wanted["metadata"] |= more.pop("metadata", {})
    wanted["spec"] |= more
    await w.create("pods", wanted)
    body = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
    await w.client.create("pods", body, "default", subresource="binding", name=name)
    await w.pod_status(await w.client.get("pods", name, "default"), ready=True)


async def said(w: World, reason: str) -> list[str]:
    return [e["message"] for e in await w.items("events") if e["reason"] == reason]


async def start(w: World) -> None:
    await w.namespace()
    w.controllers[0].resync()  # as for every new leader
    await w.settle()


async def test_pending_pods_share_new_machines_of_the_type_that_wastes_least() -> None:
    groups = FakeGroups(SMALL, LARGE)
    async with world(groups) as w:
        await start(w)
        for i in range(3):
            await pending(w, f"p{i}")
        await w.settle()
        assert groups.wanted == {"small": 2, "large": 0}
        assert "pod triggered scale-up: [{small 0->2 (max: 3)}]" in await said(w, "TriggeredScaleUp")
        await w.tick(10)
        assert groups.wanted == {"small": 2, "large": 0}, "they are on their way"
        await machine(w, groups, "n1", SMALL)
        await w.settle()
        assert groups.wanted == {"small": 2, "large": 0}


async def test_selectors_choose_the_type_and_limits_are_told() -> None:
    groups = FakeGroups(SMALL, LARGE)
    async with world(groups) as w:
        await start(w)
        await pending(w, "wide", "500m", nodeSelector={"size": "large"})
        await pending(w, "huge", "9")
        await pending(w, "second", "7900m", nodeSelector={"size": "large"})
        await w.settle()
        assert groups.wanted == {"small": 0, "large": 1}
        refusals = await said(w, "NotTriggerScaleUp")
        assert "pod didn't trigger scale-up: 2 Insufficient cpu" in refusals
        why = "1 max node group size reached, 1 node(s) didn't match Pod's node affinity/selector"
        assert f"pod didn't trigger scale-up: {why}" in refusals


async def test_a_pod_that_waits_for_something_else_asks_for_no_machine() -> None:
    groups = FakeGroups(SMALL)
    async with world(groups) as w:
        await start(w)
        await w.create("pods", pod("new"))
        daemon = pod("daemon")
        daemon["metadata"]["ownerReferences"][0]["kind"] = "DaemonSet"
        await w.create("pods", daemon)
        await w.settle()
        assert groups.wanted == {"small": 0}


async def idle_cluster(w: World, groups: FakeGroups) -> None:
    await start(w)
    await machine(w, groups, "n1", SMALL)
    await machine(w, groups, "n2", SMALL)
    await running(w, "busy", "n1", "1500m")


async def test_an_idle_machine_is_drained_after_the_delay_and_released() -> None:
    groups = FakeGroups(SMALL)
    async with world(groups) as w:
        await idle_cluster(w, groups)
        await running(w, "small", "n2")
        await w.settle()
        await w.tick(30)
        assert groups.released == [] and len(await w.items("nodes")) == 2
        await w.tick(31)
        assert GOING in [t["key"] for t in (await w.client.get("nodes", "n2"))["spec"]["taints"]]
        await w.client.delete("pods", "small", "default", grace_period_s=0)
        await w.tick(1)
        assert groups.released == ["n2"] and groups.wanted == {"small": 1}
        assert [n["metadata"]["name"] for n in await w.items("nodes")] == ["n1"]
        assert "deleting pod for node scale down" in await said(w, "ScaleDown")


async def test_a_pod_that_no_machine_helps_keeps_none_that_is_idle() -> None:
    groups = FakeGroups(SMALL)
    async with world(groups) as w:
        await idle_cluster(w, groups)
        await pending(w, "huge", "9")
        await w.settle()
        await w.tick(61)
        await w.tick(1)
        assert groups.released == ["n2"]


async def test_a_budget_keeps_a_pod_where_it_is_while_the_node_goes() -> None:
    groups = FakeGroups(SMALL)
    async with world(groups) as w:
        await idle_cluster(w, groups)
        await running(w, "kept", "n2")
        spec = {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}
        meta = {"name": "b", "namespace": "default"}
        await w.create("poddisruptionbudgets.policy", {"metadata": meta, "spec": spec})
        await w.settle()
        for _ in range(8):
            await w.tick(10)
        assert (
            groups.released == []
            and "deletionTimestamp" not in (await w.client.get("pods", "kept", "default"))["metadata"]
        )


async def test_what_is_not_safe_to_evict_or_would_fit_nowhere_keeps_its_machine() -> None:
    cases: list[dict[str, Any]] = [
        {"metadata": {"annotations": {SAFE: "false"}}},
        {"metadata": {"ownerReferences": []}},
        {"volumes": [{"name": "v", "emptyDir": {}}]},
        {"nodeSelector": {"only": "n2"}},
    ]
    for case in cases:
        groups = FakeGroups(SMALL)
        async with world(groups) as w:
            await idle_cluster(w, groups)
            await running(w, "kept", "n2", **case)
            await w.settle()
            await w.tick(61)
            assert not (await w.client.get("nodes", "n2"))["spec"].get("taints"), case
    groups = FakeGroups(SMALL)
    async with world(groups) as w:
        await idle_cluster(w, groups)
        await w.client.patch("nodes", "n2", {"metadata": {"annotations": {DISABLED: "true"}}})
        await w.settle()
        await w.tick(61)
        assert groups.released == []


async def test_a_type_keeps_as_many_machines_as_it_must() -> None:
    groups = FakeGroups(replace(SMALL, min_count=2))
    async with world(groups) as w:
        await idle_cluster(w, groups)
        await w.settle()
        await w.tick(61)
        assert groups.released == [] and groups.wanted == {"small": 2}


def test_room_that_is_there_comes_first() -> None:
    node = {"metadata": {"name": "n"}, "spec": {}}
    free = Room(node, {"cpu": 1000, "pods": 10})
    pods = [clone(pod(f"p{i}")) for i in range(2)]
    for i, p in enumerate(pods):
        p["metadata"]["uid"] = str(i)
    assert scale_up(pods, [free], [SMALL], {}, {}).counts == {"small": 1}
    roomy = Room(node, {"cpu": 2000, "pods": 10})
    assert scale_up(pods, [roomy], [SMALL], {}, {}).counts == {"small": 0}
