"""A machine that is told to stop ends its pods in order first: sk8-machine asks, the kubelet does it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.api.meta import parse_time
from cluster.machine.pods_shutdown import end_pods
from tests.support.node_world import NODE_TESTS, NodeWorld, machine_namespace

pytestmark = NODE_TESTS
BY_PRIORITY = ((0, 20.0), (1000, 20.0))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-shutdown"):
        async with NodeWorld(tmp_path, shutdown_grace_period_by_pod_priority=BY_PRIORITY) as w:
            yield w
        assert w.leftovers() == []


async def test_pods_end_by_priority_and_the_node_says_why_it_is_not_ready(world: NodeWorld) -> None:
    stops = "trap 'echo bye > /dev/termination-log; exit 0' TERM; while :; do sleep 0.1; done"
    await world.client.create("priorityclasses.scheduling.k8s.io", priority_class("high", 1000))
    for name, given in (("first", {}), ("last", {"priorityClassName": "high"})):
        await world.run_pod(name, stops, terminationGracePeriodSeconds=30, **given)
        await world.ready(name)
    await end_pods(world.root / "kubelet")
    ended = {}
    for name in ("first", "last"):
        status = (await world.pod(name))["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "Terminated")
        assert status["message"] == "Pod was terminated in response to imminent node shutdown."
        run = status["containerStatuses"][0]["state"]["terminated"]
        assert run["message"] == "bye\n"
        ended[name] = parse_time(run["finishedAt"])
    assert ended["first"] <= ended["last"]
    ready = next(
        c for c in (await world.client.get("nodes", world.name))["status"]["conditions"] if c["type"] == "Ready"
    )
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "KubeletNotReady", "node is shutting down")
    await world.run_pod("late")
    late = await world.status("late", lambda s: s.get("phase") == "Failed")
    assert late["reason"] == "NodeShutdown"


def priority_class(name: str, value: int) -> dict[str, object]:
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    return {**kind, "metadata": {"name": name}, "value": value}
