"""A pending pod on Ray's own AutoscalingCluster: run as a program, in namespaces of its own (it runs `ray stop`).

The registry, the autoscaler and Ray's are real; Ray's fake node provider starts a real raylet for each node; the test
plays the kubelet of each (a Node, Ready, with its size). Prints a line for each step that was seen; the last is `done`.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.autoscaler._private.fake_multi_node import node_provider
from ray.cluster_utils import AutoscalingCluster

from actors.ray_groups import RayNodeGroups, type_of
from cluster.controllers.autoscaler import AutoscalerController
from cluster.controllers.autoscaler_core import ScaleDownRules
from cluster.controllers.config import ControllerConfig
from cluster.controllers.env import Outside
from tests.support.controller_world import World
from tests.unit.controllers.test_autoscaler_world import GIB, SMALL, machine, pending, running

LIMIT_S = 120.0
COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
DEFAULTS: dict[str, Any] = {
    "cluster_name": "fake_multinode",
    "max_workers": 8,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 1.0,
    "docker": {},
    "provider": {"type": "fake_multinode"},
    "auth": {},
    "available_node_types": {"ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0}},
    "head_node_type": "ray.head.default",
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    **{f"{kind}_commands": [] for kind in COMMANDS},
}
TYPES = {
    "small": {
        "resources": {"CPU": 2, "memory": 4 * GIB, "object_store_memory": 100 << 20, "sk8-type:small": 1},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 2,
    }
}


def give_defaults() -> None:
    """Ray's wheel lacks the file of defaults of its own fake provider. In our mount namespace it is there."""
    where = Path(node_provider.__file__).parent
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "copy"
        shutil.copytree(where, copy)
        (copy / "example.yaml").write_text(yaml.safe_dump(DEFAULTS))
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(where)], check=True)
        shutil.copytree(copy, where, dirs_exist_ok=True)


def without_memory(types: Mapping[str, Any]) -> dict[str, Any]:
    """Ray's fake provider cannot give a node memory; what pods may have of it is read from the file."""
    return {
        name: kind | {"resources": {k: v for k, v in kind["resources"].items() if k != "memory"}}
        for name, kind in types.items()
    }


def name_of(node: Mapping[str, Any]) -> str:
    """These raylets are no machines of sk8's: Ray's id stands for one."""
    return f"ray-{node['NodeID'][-6:]}"


def workers() -> list[str]:
    return sorted(name_of(n) for n in ray.nodes() if n["Alive"] and type_of(n))


async def until(what: str, true: Callable[[], Any]) -> Any:
    async with asyncio.timeout(LIMIT_S):
        while not (answer := await asyncio.to_thread(true)):
            await asyncio.sleep(0.2)
    print(what, flush=True)
    return answer


class Groups(RayNodeGroups):
    async def scale(self, counts: Mapping[str, int]) -> None:
        await super().scale(counts)
        print(f"asked Ray for {dict(counts)}", flush=True)


async def story(groups: RayNodeGroups) -> None:
    config = replace(ControllerConfig(), scale_down=ScaleDownRules(unneeded_s=60))
    async with World(AutoscalerController, outside=Outside(groups=groups), config=config) as w:
        await w.namespace()
        for i in range(3):
            await pending(w, f"p{i}")
        await scan(w)
        names = await until("two machines came", lambda: found if len(found := workers()) == 2 else None)
        for name in names:
            await machine(w, FakeMembers(), name, SMALL)
        for i in range(3):
            await w.client.delete("pods", f"p{i}", "default", grace_period_s=0)
        await running(w, "busy", names[0], "1500m")
        await scan(w)
        w.clock.advance(61)
        for _ in range(4):
            await scan(w)
        left = [n["metadata"]["name"] for n in await w.items("nodes")]
        print(f"nodes left: {left == names[:1]}", flush=True)
        await until("one machine is left", lambda: len(workers()) == 1)


async def scan(w: World) -> None:
    w.controllers[0].resync()
    for _ in range(20):
        await asyncio.sleep(0.01)
    await w.settle()


class FakeMembers:
    """`machine` of the unit tests notes its type here; Ray says it in this story."""

    def __init__(self) -> None:
        self.members: dict[str, str] = {}


def main() -> None:
    give_defaults()
    cluster = AutoscalingCluster({"CPU": 1}, without_memory(TYPES), autoscaler_v2=True, idle_timeout_minutes=0.05)
    try:
        cluster.start()
        ray.init("auto", log_to_driver=False)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "cluster.yaml"
            file.write_text(yaml.safe_dump({"available_node_types": TYPES}))
            asyncio.run(story(Groups(str(file), 110, name_of=name_of, stop=lambda machine: None)))
        print("done", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
