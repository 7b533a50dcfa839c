"""A container that the engine does not end holds nobody up, and is ended past the engine: its shim is stopped here, so
that the engine keeps the container's lock and answers nothing about it, as one that waits for an exit it never hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster.cloud.engine import Engine
from cluster.machinery.container_kill import groups_of
from tests.support.node_world import NODE_TESTS, NodeWorld, machine_namespace, sh

pytestmark = NODE_TESTS


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-stuck"):
        w = NodeWorld(tmp_path)
        async with w:
            yield w
        assert w.leftovers() == []


def shim_of(container_id: str) -> int:
    """The parent of the container's first process."""
    pid = sh("docker", "inspect", "-f", "{{.State.Pid}}", container_id).strip()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("PPid:")).split()[1])


def engine_hangs_on(container_id: str) -> bool:
    try:
        subprocess.run(["docker", "inspect", container_id], capture_output=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return True
    return False


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Goes on at the end, if it is there: a container must not stay stuck when a test fails."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(600)
async def test_a_stuck_container_is_killed_past_the_engine_and_holds_up_no_other_pod(world: NodeWorld) -> None:
    await world.run_pod("stuck", "trap '' TERM; sleep 1000 & wait; sleep 1000")
    container_id = await _container_of(world, "stuck")
    with stopped(shim_of(container_id)):
        await world.client.delete("pods", "stuck", "default")
        for number in range(3):
            await world.run_pod(f"other-{number}")
        for number in range(3):
            await world.ready(f"other-{number}", 60)
            await world.client.delete("pods", f"other-{number}", "default", grace_period_s=1)
        for number in range(3):
            await world.gone(f"other-{number}", 60)
        await world.gone("stuck", 120)
    assert groups_of(container_id) == []
    await world.until(lambda: _told(world), 60)


@pytest.mark.timeout(600)
async def test_a_kubelet_starts_beside_stuck_containers_and_ends_those_that_nobody_knows_any_more(
    world: NodeWorld,
) -> None:
    """Regression: it died of the first look at such a container, again and again; what had lost its pod stayed."""
    ids = {}
    for name in ("stuck", "orphan"):
        await world.run_pod(name)
        ids[name] = await _container_of(world, name)
    with stopped(shim_of(ids["stuck"])), stopped(shim_of(ids["orphan"])):
        await world.client.delete("pods", "stuck", "default", grace_period_s=600)
        await world.until(lambda: asyncio.to_thread(engine_hangs_on, ids["stuck"]), 60)
        await world.stop()
        await world.client.delete("pods", "orphan", "default", grace_period_s=0)
        await world.start()
        await world.run_pod("other")
        await world.ready("other", 90)
        await world.client.delete("pods", "stuck", "default", grace_period_s=1)
        await world.gone("stuck", 120)
        await world.until(lambda: not groups_of(ids["orphan"]), 120)
    await world.until(lambda: not sh("docker", "ps", "-aq", "--no-trunc", "--filter", f"id={ids['orphan']}"), 60)


async def _container_of(world: NodeWorld, name: str) -> str:
    """Its id, once the pod is ready."""
    status = await world.ready(name, 60)
    return str(status["containerStatuses"][0]["containerID"]).removeprefix("docker://")


async def _told(world: NodeWorld) -> bool:
    events = (await world.client.list("events", "default")).items
    said = [e["message"] for e in events if e["reason"] == "FailedKillPod" and e["involvedObject"]["name"] == "stuck"]
    return any("does not end container app; ended directly" in m and "killed its shim" in m for m in said)


@pytest.mark.timeout(600)
async def test_the_owner_of_machines_ends_a_stuck_container_too(world: NodeWorld) -> None:
    """A machine that lost power is off only when its containers are: one that is stuck must not keep it."""
    await world.run_pod("stuck")
    container_id = await _container_of(world, "stuck")
    engine = Engine("/var/run/docker.sock")
    await world.stop()  # the kubelet would start it again
    with stopped(shim_of(container_id)):
        await engine.kill(await engine.containers(world.name))
    assert await engine.labels_of_running(world.name) == []
    assert groups_of(container_id) == []
    await world.start()
    await world.ready("stuck", 60)
