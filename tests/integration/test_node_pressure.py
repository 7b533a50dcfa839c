"""Node-pressure eviction on the real engine: memory, a full disk, and pods that store more than they may.

The machine's disk is a small file system of its own. Its memory is what its containers use: no process of the box
counts, as none belongs to the machine.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.node.machine_usage import MachineUsage
from tests.support.node_world import NODE_TESTS, NodeWorld, condition, machine_namespace, sh

pytestmark = NODE_TESTS
SOON = {"eviction_monitor_s": 0.5, "metering_period_s": 0.5, "shares_box": True}
FULL = {"nodefs.available": "30%"}


@contextlib.contextmanager
def small_disk(directory: Path, size_mib: int = 128) -> Iterator[None]:
    """A file system of its own at `directory`."""
    image = directory.parent / "disk.img"
    with image.open("wb") as handle:
        handle.truncate(size_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m0", str(image)], check=True)
    directory.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def only_containers_use_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no-processes").mkdir()
    bare = functools.partial(MachineUsage, proc=tmp_path / "no-processes")
    monkeypatch.setattr("cluster.node.metering.MachineUsage", bare)


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[NodeWorld]:
    """Parametrized with the kubelet's eviction settings."""
    with machine_namespace("sk8t-node-evict"), small_disk(tmp_path / "kubelet"):
        w = NodeWorld(tmp_path, **{**SOON, **request.param})
        async with w:
            yield w
        assert [left for left in w.leftovers() if f"{tmp_path}/kubelet " not in left] == []


def writes(mib: int, where: str = "/v") -> str:
    return f"dd if=/dev/zero of={where}/x bs=1M count={mib} 2>/dev/null; sleep 1000"


def volume(**source: Any) -> dict[str, Any]:
    return {
        "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        "volumes": [{"name": "v", "emptyDir": source}],
    }


async def evicted(world: NodeWorld, name: str) -> str:
    """The message of a pod that was evicted as Kubernetes evicts."""
    status = await world.status(name, lambda s: s.get("phase") == "Failed", 60)
    assert status["reason"] == "Evicted"
    target = next(c for c in status["conditions"] if c["type"] == "DisruptionTarget")
    assert (target["status"], target["reason"], target["message"]) == (
        "True",
        "TerminationByKubelet",
        status["message"],
    )
    await world.told(name, "Evicted")
    return str(status["message"])


async def node_has(world: NodeWorld, kind: str, wanted: str) -> None:
    async def look() -> bool:
        return bool(condition((await world.client.get("nodes", world.name))["status"], kind) == wanted)

    await world.until(look, 60)


@pytest.mark.usefixtures("only_containers_use_memory")
@pytest.mark.parametrize("world", [{"eviction_hard": {"memory.available": "800Mi"}}], indirect=True)
async def test_who_uses_most_memory_beyond_its_request_goes_and_the_others_stay(world: NodeWorld) -> None:
    await world.run_pod("modest")
    await world.ready("modest")
    await world.run_pod("hog", writes(400), **volume(medium="Memory"))
    said = await evicted(world, "hog")
    assert said.startswith("The node was low on resource: memory. Threshold quantity: 800Mi, available: ")
    assert "Container app was using " in said and "request is 0, has larger consumption of memory. " in said
    await node_has(world, "MemoryPressure", "True")
    assert (await world.pod("modest"))["status"]["phase"] == "Running"
    await world.told(world.name, "EvictionThresholdMet")
    await world.run_pod("late")
    assert await evicted_at_the_door(world, "late") == "Pod was rejected: The node had condition: [MemoryPressure]. "


async def evicted_at_the_door(world: NodeWorld, name: str) -> str:
    status = await world.status(name, lambda s: s.get("reason") == "Evicted", 60)
    assert status["phase"] == "Failed" and not status.get("containerStatuses")
    return str(status["message"])


@pytest.mark.parametrize(
    "world", [{"eviction_hard": FULL, "eviction_pressure_transition_period_s": 1.0}], indirect=True
)
async def test_a_pod_that_fills_the_disk_goes_and_what_it_stored_with_it(world: NodeWorld) -> None:
    await world.run_pod("modest")
    await world.run_pod("writer", writes(110), **volume())
    said = await evicted(world, "writer")
    assert said.startswith("The node was low on resource: ephemeral-storage. Threshold quantity: ")
    await node_has(world, "DiskPressure", "False")
    assert (await world.pod("modest"))["status"]["phase"] == "Running"


@pytest.mark.parametrize("world", [{"eviction_hard": FULL}], indirect=True)
async def test_a_disk_that_stays_full_is_evacuated(world: NodeWorld) -> None:
    for name in ("a", "b", "c"):
        await world.run_pod(name)
        await world.ready(name)
    sh("dd", "if=/dev/zero", f"of={world.root}/kubelet/foreign", "bs=1M", "count=110")
    await node_has(world, "DiskPressure", "True")
    for name in ("a", "b", "c"):
        assert (await evicted(world, name)).startswith("The node was low on resource: ephemeral-storage. ")


@pytest.mark.parametrize("world", [{"eviction_hard": {}}], indirect=True)
async def test_limits_of_local_storage_are_kept_without_any_pressure(world: NodeWorld) -> None:
    limit = {"resources": {"limits": {"ephemeral-storage": "8Mi"}}}
    await world.run_pod("volume", writes(16), **volume(sizeLimit="8Mi"))
    await world.run_pod("layer", writes(16, "/tmp"), container=limit)
    await world.run_pod("keeps", writes(4), **volume(sizeLimit="8Mi"))
    assert await evicted(world, "volume") == 'Usage of EmptyDir volume "v" exceeds the limit "8Mi". '
    why = "Pod ephemeral local storage usage exceeds the total limit of containers 8Mi. "
    assert await evicted(world, "layer") == why
    assert (await world.pod("keeps"))["status"]["phase"] == "Running"
