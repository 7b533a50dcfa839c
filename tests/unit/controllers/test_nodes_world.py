"""Nodes: verdicts, taints, evictions, address blocks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from cluster.controllers import node_lifecycle_core as core
from cluster.controllers.config import ControllerConfig, profile
from cluster.controllers.endpoints import EndpointSliceController
from cluster.controllers.env import Controller, Env
from cluster.controllers.node_ipam import NodeIpamController, pick_block
from cluster.controllers.node_lifecycle import NodeLifecycleController
from cluster.controllers.node_lifecycle_core import Heartbeat, Verdict
from cluster.controllers.pod_gc import PodGcController
from cluster.controllers.statefulset import StatefulSetController
from cluster.controllers.taint_eviction import TaintEvictionController
from cluster.machinery.client import Obj, clone
from cluster.registry.types import RegistryConfig
from tests.support.controller_world import World, template
from tests.unit.controllers.test_endpoints_world import conditions, pod, service


def taints(node: Obj) -> set[tuple[str, str]]:
    return {(t["key"].rpartition("/")[2], t["effect"]) for t in node["spec"].get("taints") or []}


async def start(w: World) -> None:
    await w.namespace()
    await w.namespace("kube-node-lease")
    for name in ("n1", "n2", "n3"):
        await w.node(name)
        await w.heartbeat(name)
    await w.settle()


async def bound(w: World, name: str, node: str, **spec: Any) -> None:
    body = pod(name)
    body["spec"].update(spec)
    await w.create("pods", body)
    await w.kubelet(nodes=[node])


async def beats(w: World, *names: str, seconds: int = 6) -> None:
    for _ in range(seconds):
        w.clock.advance(1)
        for name in names:
            await w.heartbeat(name)
        await w.tick(0)


async def test_a_new_node_takes_no_pods_until_it_is_found_ready() -> None:
    async with World(NodeLifecycleController, admission=RegistryConfig()) as w:
        await w.namespace()
        await w.namespace("kube-node-lease")
        await w.node("n1")
        assert taints(await w.client.get("nodes", "n1")) == {("not-ready", "NoSchedule")}
        await beats(w, "n1", seconds=3)
        assert taints(await w.client.get("nodes", "n1")) == set()


async def test_a_silent_machine_is_tainted_and_its_pods_leave_the_endpoints_but_stay() -> None:
    async with World(NodeLifecycleController, TaintEvictionController, EndpointSliceController) as w:
        await start(w)
        await bound(w, "a", "n1")
        await bound(w, "b", "n2")
        await w.create("services", service())
        await w.settle()
        await beats(w, "n2", "n3")
        node = await w.client.get("nodes", "n1")
        assert core.ready_status(node) == "Unknown"
        assert taints(node) == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
        assert core.ready_status(await w.client.get("nodes", "n2")) == "True"
        found = await conditions(w)
        assert found["a"]["ready"] is False and found["b"]["ready"] is True
        assert len(await w.items("pods")) == 2
        reasons = {e["reason"] for e in await w.items("events")}
        assert {"NodeNotReady", "MachineUnreachable"} <= reasons


class Answering:
    """Machines whose sk8-machine answers."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    async def answers(self, name: str, address: str) -> bool:
        return name in self.names


async def test_a_silent_kubelet_on_a_machine_that_answers_keeps_its_endpoints() -> None:
    machines = Answering("n1")

    def lifecycle(env: Env) -> Controller:
        return NodeLifecycleController(replace(env, outside=replace(env.outside, machines=machines)))

    async with World(lifecycle, EndpointSliceController) as w:
        await start(w)
        await bound(w, "a", "n1")
        await w.create("services", service())
        await w.settle()
        await beats(w, "n2", "n3")
        node = await w.client.get("nodes", "n1")
        assert core.ready_status(node) == "Unknown"
        assert taints(node) == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}, "its timers run"
        assert (await conditions(w))["a"]["ready"] is True
        (event,) = [e for e in await w.items("events") if e["reason"] == "MachineAgentDown"]
        assert "but the machine answers" in event["message"]
        machines.names.clear()
        await beats(w, "n2", "n3")
        assert (await conditions(w))["a"]["ready"] is False, "now the machine is silent, too"
        assert "MachineUnreachable" in {e["reason"] for e in await w.items("events")}


async def test_a_machine_that_speaks_again_loses_its_taints_once_its_kubelet_says_ready() -> None:
    async with World(NodeLifecycleController) as w:
        await start(w)
        await beats(w, "n2", "n3")
        assert taints(await w.client.get("nodes", "n1"))
        await beats(w, "n1", "n2", "n3", seconds=1)
        node = clone(await w.client.get("nodes", "n1"))
        for c in node["status"]["conditions"]:
            c["status"] = "True" if c["type"] == "Ready" else "False"
        await w.client.update("nodes", node, subresource="status")
        await beats(w, "n1", "n2", "n3", seconds=1)
        assert taints(await w.client.get("nodes", "n1")) == set()


async def test_off_by_the_providers_word_frees_pods_at_once() -> None:
    async with World(NodeLifecycleController, EndpointSliceController) as w:
        await start(w)
        w.provider.states.update(n1="running", n2="running", n3="running")
        watching = asyncio.create_task(w.controllers[0]._watch_machines())  # type: ignore[attr-defined]
        await bound(w, "a", "n1")
        await bound(w, "b", "n2")
        await w.create("services", service())
        await w.settle()
        w.provider.set_state("n1", "off")
        await w.settle()
        node = await w.client.get("nodes", "n1")
        assert core.is_gone(node) and core.ready_status(node) == "Unknown"
        assert [p["metadata"]["name"] for p in await w.items("pods")] == ["b"]
        assert set(await conditions(w)) == {"b"}
        events = {e["reason"]: e["message"] for e in await w.items("events")}
        assert "provider's word" in events["MachineGone"] and "ForceDeletedPod" in events
        w.provider.set_state("n1", "running")
        await w.settle()
        node = await w.client.get("nodes", "n1")
        assert not core.is_gone(node) and ("shutdown", "NoSchedule") not in taints(node)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_pod_leaves_when_its_toleration_runs_out() -> None:
    async with World(TaintEvictionController) as w:
        await start(w)
        tolerate = [
            {"key": core.UNREACHABLE_TAINT, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
        ]
        await bound(w, "brief", "n1", tolerations=tolerate)
        await bound(w, "forever", "n1", tolerations=[{"operator": "Exists"}])
        node = clone(await w.client.get("nodes", "n1"))
        node["spec"]["taints"] = core.taints_for(node, Verdict.UNREACHABLE, w.clock(), evict=True)
        await w.client.update("nodes", node)
        await w.settle()
        assert not [p for p in await w.items("pods") if "deletionTimestamp" in p["metadata"]]
        await w.tick(31)
        dying = [p["metadata"]["name"] for p in await w.items("pods") if "deletionTimestamp" in p["metadata"]]
        assert dying == ["brief"]


async def test_pods_of_a_deleted_node_are_collected_after_the_quarantine() -> None:
    async with World(PodGcController) as w:
        await start(w)
        await bound(w, "a", "n1")
        await w.client.delete("nodes", "n1")
        await w.settle()
        assert len(await w.items("pods")) == 1
        await w.tick(6)
        assert await w.items("pods") == []


async def test_a_kubelet_with_a_longer_lease_is_given_that_long_in_profile_fast() -> None:
    async with World(NodeLifecycleController) as w:
        await start(w)
        await w.heartbeat("n1", lasts_s=40)
        await beats(w, "n2", "n3", seconds=30)
        assert core.ready_status(await w.client.get("nodes", "n1")) == "True"
        await beats(w, "n2", "n3", seconds=15)
        assert core.ready_status(await w.client.get("nodes", "n1")) == "Unknown"


def test_in_profile_kubernetes_the_grace_period_alone_counts() -> None:
    config = replace(profile("kubernetes"), node_monitor_grace_period_s=20.0)
    assert core.grace_s(config, {"spec": {"leaseDurationSeconds": 40}}) == 20
    assert core.grace_s(profile("fast"), {"spec": {"leaseDurationSeconds": 40}}) == 40
    assert core.grace_s(profile("fast"), {"spec": {"leaseDurationSeconds": 4}}) == 4
    assert core.grace_s(profile("fast"), None) == 4


def test_judging_needs_proof_for_gone() -> None:
    beat = Heartbeat(100.0, True, 103.5)
    assert core.judge(beat, "", 103.9, 4, 20).verdict is Verdict.ALIVE
    assert core.judge(beat, "", 104.1, 4, 20).verdict is Verdict.UNREACHABLE
    assert core.judge(beat, "unknown", 1e9, 4, 20).verdict is Verdict.UNREACHABLE
    assert core.judge(beat, "running", 1e9, 4, 20).verdict is Verdict.UNREACHABLE
    assert core.judge(beat, "off", 100.0, 4, 20).verdict is Verdict.GONE
    assert core.judge(Heartbeat(100.0, False, 119), "", 119, 4, 20).verdict is Verdict.ALIVE


def test_when_nobody_is_heard_the_judge_is_patient() -> None:
    beat = Heartbeat(100.0, True, 100.5)
    assert core.judge(beat, "", 105, 4, 20).verdict is Verdict.ALIVE
    assert core.judge(beat, "", 111, 4, 20).verdict is Verdict.ALIVE
    assert core.judge(beat, "", 112.1, 4, 20).verdict is Verdict.UNREACHABLE
    assert core.judge(beat, "off", 100, 4, 20).verdict is Verdict.GONE


async def test_a_late_stream_of_events_is_not_a_silent_machine() -> None:
    async with World(NodeLifecycleController) as w:
        await start(w)
        await beats(w, "n1", "n2", "n3", seconds=2)
        lifecycle = w.controllers[0]
        w.clock.advance(10)
        for name in ("n1", "n2", "n3"):
            await w.heartbeat(name)
        lifecycle.reconciler.queue.add("n1")  # type: ignore[attr-defined]
        await lifecycle.reconciler.drain()  # type: ignore[attr-defined]
        assert core.ready_status(await w.client.get("nodes", "n1")) == "True"


def test_with_nobody_ready_anywhere_nothing_is_evicted() -> None:
    state = core.zone_state(0, 3, rate=1, secondary_rate=0.1, threshold=0.55, large=50)
    assert (state.name, state.evictions_per_s, state.deaf) == ("FullDisruption", 0.0, True)
    state = core.zone_state(0, 3, elsewhere=1, rate=1, secondary_rate=0.1, threshold=0.55, large=50)
    assert (state.name, state.evictions_per_s, state.deaf) == ("FullDisruption", 1, False)
    assert core.zone_state(2, 1, rate=1, secondary_rate=0.1, threshold=0.55, large=50).evictions_per_s == 1
    assert core.zone_state(40, 60, rate=1, secondary_rate=0.1, threshold=0.55, large=50).evictions_per_s == 0.1
    assert core.zone_state(4, 6, rate=1, secondary_rate=0.1, threshold=0.55, large=50).evictions_per_s == 0


async def zoned(w: World) -> None:
    """n1 and n2 in zone a, n3 in b."""
    await start(w)
    for name, zone in (("n1", "a"), ("n2", "a"), ("n3", "b")):
        await w.client.patch("nodes", name, {"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}})


EVICTED = {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}


async def test_a_dead_zone_is_evicted_at_the_rate_of_evictions() -> None:
    """One node a second (profile fast); with one of kubernetes' the second node waits ten."""
    slow = replace(ControllerConfig(), node_eviction_rate=0.1)
    async with World(NodeLifecycleController, config=slow) as w:
        await zoned(w)
        await beats(w, "n3")
        found = [taints(await w.client.get("nodes", name)) for name in ("n1", "n2")]
        assert sorted(len(t) for t in found) == [1, 2], "both take no new pods; the pods of one have to leave"
        await beats(w, "n3", seconds=11)
        assert [taints(await w.client.get("nodes", name)) for name in ("n1", "n2")] == [EVICTED] * 2


async def test_when_all_zones_fall_silent_those_tainted_before_are_spared() -> None:
    async with World(NodeLifecycleController) as w:
        await zoned(w)
        await beats(w, "n2", "n3")
        assert taints(await w.client.get("nodes", "n1")) == EVICTED
        await beats(w, seconds=20)
        for name in ("n1", "n2", "n3"):
            assert taints(await w.client.get("nodes", name)) == {("unreachable", "NoSchedule")}
        await beats(w, "n3", seconds=1)
        node = clone(await w.client.get("nodes", "n3"))
        node["status"]["conditions"][0].update(status="True")
        await w.client.update("nodes", node, subresource="status")
        await beats(w, "n3", seconds=10)
        assert taints(await w.client.get("nodes", "n3")) == set()
        assert taints(await w.client.get("nodes", "n1")) == EVICTED, "one is heard again: the others are dead"


async def test_pod_eviction_timeout_runs_from_the_last_sign_of_life() -> None:
    config = replace(profile("kubernetes"), node_monitor_grace_period_s=40.0, pod_eviction_timeout_s=60.0)
    async with World(TaintEvictionController, config=config) as w:
        await start(w)
        await bound(w, "default", "n1")
        asked = {"key": core.UNREACHABLE_TAINT, "operator": "Exists", "effect": "NoExecute"}
        await bound(w, "patient", "n1", tolerations=[asked | {"tolerationSeconds": 200}])
        node = clone(await w.client.get("nodes", "n1"))
        node["spec"]["taints"] = core.taints_for(node, Verdict.UNREACHABLE, w.clock(), evict=True)
        await w.client.update("nodes", node)
        await w.settle()
        await w.tick(19)
        assert not await dying(w)
        await w.tick(2)
        assert await dying(w) == ["default"], "the grace period of 40 s had passed when the taint came"
        await w.tick(180)
        assert await dying(w) == ["default", "patient"]


async def dying(w: World) -> list[str]:
    return sorted(p["metadata"]["name"] for p in await w.items("pods") if "deletionTimestamp" in p["metadata"])


def test_foreign_taints_are_kept() -> None:
    node = {"spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}, "status": {"conditions": []}}
    tainted = core.taints_for(node, Verdict.GONE, 0.0, evict=True)
    assert tainted is not None and tainted[0]["key"] == "mine" and len(tainted) == 5
    node["spec"]["taints"] = tainted
    node["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert core.taints_for(node, Verdict.ALIVE, 0.0, evict=False) == [{"key": "mine", "effect": "NoExecute"}]


async def test_a_cut_off_identity_has_no_second_pod_until_its_machine_is_proven_off() -> None:
    async with World(NodeLifecycleController, TaintEvictionController, StatefulSetController) as w:
        await start(w)
        brief = {"key": core.UNREACHABLE_TAINT, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}
        body = {"selector": {"matchLabels": {"app": "web"}}, "serviceName": "db", "replicas": 1}
        body["template"] = template(tolerations=[brief])
        await w.create("statefulsets.apps", {"metadata": {"name": "db", "namespace": "default"}, "spec": body})
        await w.settle()
        await w.kubelet(nodes=["n1"])
        await w.settle()
        (first,) = await w.items("pods")
        await beats(w, "n2", "n3", seconds=30)
        (still,) = await w.items("pods")
        assert still["metadata"]["uid"] == first["metadata"]["uid"], "it may run on: it keeps its identity"
        assert "deletionTimestamp" in still["metadata"]
        w.provider.states.update(n1="running", n2="running", n3="running")
        watching = asyncio.create_task(w.controllers[0]._watch_machines())  # type: ignore[attr-defined]
        w.provider.set_state("n1", "off")
        await w.settle()
        (second,) = await w.items("pods")
        assert second["metadata"]["name"] == "db-0" and second["metadata"]["uid"] != first["metadata"]["uid"]
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_every_node_gets_its_own_block() -> None:
    async with World(NodeIpamController) as w:
        await start(w)
        nodes = await w.items("nodes")
        assert sorted(n["spec"]["podCIDR"] for n in nodes) == ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]
        assert all(n["spec"]["podCIDRs"] == [n["spec"]["podCIDR"]] for n in nodes)
        freed = next(n for n in nodes if n["spec"]["podCIDR"] == "10.244.1.0/24")
        await w.client.delete("nodes", freed["metadata"]["name"])
        await w.node("n4")
        await w.settle()
        assert (await w.client.get("nodes", "n4"))["spec"]["podCIDR"] == "10.244.1.0/24"


async def test_on_a_dual_stack_cluster_every_node_gets_a_block_of_each_family() -> None:
    async with World(NodeIpamController, config=ControllerConfig(cluster_cidr_ipv6="fd00:10:244::/62")) as w:
        await start(w)
        blocks = sorted(n["spec"]["podCIDRs"] for n in await w.items("nodes"))
        assert blocks == [[f"10.244.{i}.0/24", f"fd00:10:244:{i}::/64".replace(":0::", "::")] for i in range(3)]
        for name in ("n4", "n5"):
            await w.node(name)
        await w.settle()
        assert len((await w.client.get("nodes", "n4"))["spec"]["podCIDRs"]) == 2
        assert "podCIDRs" not in (await w.client.get("nodes", "n5"))["spec"], (
            "one range is used up: it gets none at all"
        )


def test_blocks_never_overlap() -> None:
    assert pick_block("fd00::/62", 64, ["fd00::/64", "10.0.0.0/8"]) == "fd00:0:0:1::/64"
    assert pick_block("10.0.0.0/22", 24, ["10.0.0.0/24", "10.0.2.0/23"]) == "10.0.1.0/24"
    assert pick_block("10.0.0.0/23", 24, ["10.0.0.0/24", "10.0.1.128/25"]) is None
    assert pick_block("10.0.0.0/24", 24, ["192.168.0.0/16"]) == "10.0.0.0/24"
