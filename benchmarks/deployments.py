"""From `kubectl create deployment` to all its pods bound, and a rollout, through the whole system.

    python -m benchmarks.deployments --json FILE [--smoke]

Simulated: the containers (hollow nodes: no process runs, images are instant). Real: three State members with fsync, one
ApiServer, Scheduler and Controllers, each its own process; the kubelets' code, over HTTPS. All nodes are in this
process, which also watches: a pod counts as bound, or the rollout as done, when the watch says so.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from benchmarks import _stack
from benchmarks._stack import Target
from benchmarks._watched import LOOK_S, Watched, watching
from benchmarks.frame import Bench, main
from cluster.machinery.client import Client, Obj
from cluster.machinery.http_client import HttpClient, HttpConfig
from cluster.node.hollow.fleet import HollowFleet
from cluster.node.hollow.node import HollowSpec

TIMEOUT_S = 300.0
ROLLOUT = 10
_SPEC = HollowSpec(cpu="64", memory="256Gi", tainted=False)


def deployment(name: str, replicas: int, image: str = "nginx:1.21") -> Obj:
    """What `kubectl create deployment` sends."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "nginx", "image": image}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def bound(app: str, count: int) -> Callable[[list[Obj]], bool]:
    def reached(pods: list[Obj]) -> bool:
        ours = (p for p in pods if (p["metadata"].get("labels") or {}).get("app") == app)
        return sum("nodeName" in p["spec"] for p in ours) == count

    return reached


def rolled_out(name: str, generation: int = 1) -> Callable[[list[Obj]], bool]:
    """As `kubectl rollout status` judges it, of `generation` or a later one."""

    def reached(deployments: list[Obj]) -> bool:
        found = next((d for d in deployments if d["metadata"]["name"] == name), None)
        if found is None:
            return False
        status, replicas = found.get("status") or {}, found["spec"]["replicas"]
        counts = [status.get(k, 0) for k in ("replicas", "updatedReplicas", "availableReplicas")]
        return status.get("observedGeneration", 0) >= generation and counts == [replicas] * 3

    return reached


class Measure:
    def __init__(self, bench: Bench, client: Client, target: Target) -> None:
        self._bench = bench
        self._client = client
        self._target = target
        self._pods = Watched(client, "pods", LOOK_S)
        self._deployments = Watched(client, "deployments.apps")

    async def run(self, sizes: tuple[tuple[int, float], ...]) -> None:
        """`sizes`: replicas and the goal in seconds."""
        async with watching(self._pods, self._deployments):
            for replicas, goal_s in sizes:
                await self._create(replicas, goal_s)
            await self._rollout()

    async def _create(self, replicas: int, goal_s: float) -> None:
        name = f"web-{replicas}"
        before, began = self._cpu_s(), time.perf_counter()
        await self._client.create("deployments.apps", deployment(name, replicas), "default")
        await self._pods.until(bound(name, replicas))
        took = time.perf_counter() - began
        what = f"Deployment of {replicas}"
        self._bench.add(f"{what}: create to all bound", took * 1e3, "ms", samples=1, goal=goal_s * 1e3)
        await self._deployments.until(rolled_out(name))
        self._bench.add(f"{what}: create to all available", (time.perf_counter() - began) * 1e3, "ms", samples=1)
        for part, used in self._cpu_s().items():
            if part in ("controllers", "scheduler", "apiserver"):
                cpu_us = (used - before[part]) / replicas * 1e6
                self._bench.add(f"{what}: CPU per pod, {part}", cpu_us, "cpu_us", samples=replicas)
        await self._client.delete("deployments.apps", name, "default")
        await self._pods.until(lambda pods: not pods)

    async def _rollout(self) -> None:
        await self._client.create("deployments.apps", deployment("rolled", ROLLOUT), "default")
        await self._deployments.until(rolled_out("rolled"))
        began = time.perf_counter()
        change = deployment("rolled", ROLLOUT, "nginx:1.22")["spec"]["template"]
        changed = await self._client.patch("deployments.apps", "rolled", {"spec": {"template": change}}, "default")
        await self._deployments.until(rolled_out("rolled", changed["metadata"]["generation"]))
        took = time.perf_counter() - began
        self._bench.add(f"rollout of {ROLLOUT} pods, instant images", took, "s", samples=1, goal=10.0)

    def _cpu_s(self) -> dict[str, float]:
        return {name.split()[0]: used for name, used in self._target.cpu_s().items()}


async def measure(bench: Bench, target: Target, base: Path, nodes: int, sizes: tuple[tuple[int, float], ...]) -> None:
    pki = base / "cluster" / "pki"
    ca, cert, key = (str(pki / name) for name in ("ca.crt", "admin.crt", "admin.key"))
    config = HttpConfig(f"https://{target.host}:{target.port}", ca_file=ca, cert_file=cert, key_file=key)
    async with HttpClient(config) as client, asyncio.timeout(TIMEOUT_S):
        fleet = HollowFleet(client, nodes, _SPEC, clock=time.time)
        running = asyncio.create_task(fleet.run())
        try:
            await fleet.ready.wait()
            await Measure(bench, client, target).run(sizes)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def run(bench: Bench) -> None:
    nodes, sizes = (3, ((10, 0.3),)) if bench.smoke else (100, ((100, 0.3), (5000, 4.0)))
    with tempfile.TemporaryDirectory(prefix="sk8-bench-") as directory:
        base = Path(directory)
        target = _stack.start(base, controllers=True)
        try:
            uvloop.run(measure(bench, target, base, nodes, sizes))
        finally:
            target.stop()


if __name__ == "__main__":
    main(run, __doc__)
