"""What pods leave behind when they are gone, also when things went wrong with them: nothing.

Everything a pod takes of the machine is counted before and after: containers, links, addresses, mounts, control groups,
nft elements, directories. `make leaks PODS=1000` is the long version of the loop.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_world import NODE_TESTS, NodeWorld, machine_namespace, sh

pytestmark = NODE_TESTS
PODS = int(os.environ.get("SK8_LEAK_PODS", "20"))
AT_ONCE = 10
SECONDS_PER_POD = 20.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-leaks"):
        async with NodeWorld(tmp_path) as w:
            yield w
        assert w.leftovers() == []


def census(world: NodeWorld) -> dict[str, int]:
    """How many of each thing the machine has that pods take."""
    kubelet = world.root / "kubelet"
    book = kubelet / "network" / "addresses.json"
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "containers": len(sh("docker", "ps", "-aq", "--filter", f"label=sk8.machine={world.name}").split()),
        "links": sum("veth" in line for line in sh("ip", "-o", "link").splitlines()),
        "routes": len(sh("ip", "-4", "route").splitlines()),
        "addresses": len(json.loads(book.read_text())["owners"]) if book.exists() else 0,
        "mounts": sum(str(world.root) in line for line in mounts),
        "cgroups": sum(1 for _ in Path("/sys/fs/cgroup").glob(f"*/{world.name}/kubepods/**/pod*")),
        "nft": len(sh("nft", "list", "ruleset").splitlines()),
        "pods": len(list((kubelet / "pods").iterdir())),
    }


USES_ALL: dict[str, Any] = {
    "container": {
        "ports": [{"containerPort": 80, "hostPort": 31999}],
        "volumeMounts": [{"name": "memory", "mountPath": "/m"}],
    },
    "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}],
}


async def settled(world: NodeWorld, before: dict[str, int]) -> None:
    """The machine is as it was; what differs is in the message."""
    try:
        await world.until(lambda: census(world) == before, 60)
    except TimeoutError:
        assert census(world) == before


@pytest.mark.timeout(120 + PODS * SECONDS_PER_POD)
async def test_pods_that_come_and_go_leave_nothing(world: NodeWorld) -> None:
    await world.run_pod("warm", **USES_ALL)
    await world.ready("warm", 60)
    await world.client.delete("pods", "warm", "default")
    await world.gone("warm", 60)
    before = census(world)
    for start in range(0, PODS, AT_ONCE):
        names = [f"p{i}" for i in range(start, min(start + AT_ONCE, PODS))]
        for name in names:
            await world.run_pod(name, **(USES_ALL if name == names[0] else {}))
        for name in names[::2]:  # the others are deleted on their way, wherever that is
            await world.ready(name, AT_ONCE * SECONDS_PER_POD)
        for name in names:
            await world.client.delete("pods", name, "default", grace_period_s=1)
        for name in names:
            await world.gone(name, AT_ONCE * SECONDS_PER_POD)
    await settled(world, before)


async def test_faults_leave_nothing_and_say_what_happened(world: NodeWorld) -> None:
    await world.run_pod("warm")
    await world.ready("warm", 60)
    before = census(world)
    await world.run_pod("no-image", container={"image": "sk8t-node/absent:1", "imagePullPolicy": "Never"})
    await world.run_pod("no-volume", volumes=[{"name": "v", "hostPath": {"path": "/absent", "type": "Directory"}}])
    await world.run_pod("no-start", container={"command": ["/absent"]})
    await world.run_pod("killed")
    await world.ready("killed", 60)
    pause = sh("docker", "ps", "-q", "--filter", "label=io.kubernetes.pod.name=killed", "--filter", "name=k8s_POD")
    sh("docker", "kill", pause.strip())
    said = {
        "no-image": "ErrImageNeverPull",
        "no-volume": "FailedMount",
        "no-start": "Failed",
        "killed": "SandboxChanged",
    }
    for name, reason in said.items():
        await world.told(name, reason)
    await world.ready("killed", 60)
    for name in said:
        await world.client.delete("pods", name, "default", grace_period_s=1)
        await world.gone(name, 60)
    await settled(world, before)
