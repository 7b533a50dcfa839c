"""`kubectl create deployment` to all its pods bound, `kubectl scale` to none and back, and a rollout, through the whole
system.

    python -m benchmarks.deployments --json FILE [--smoke]

Simulated: the containers (hollow nodes: no process runs, images are instant). Real: three State members with fsync, one
ApiServer, Scheduler and Controllers, each its own process; the kubelets' code, over HTTPS. All nodes are in a process
of their own, behind the servers on the processors, as they stand for other machines. A pod counts as bound or gone, and
the rollout as done, when a watch says so.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from benchmarks import _fleet, _stack
from benchmarks._stack import Target
from benchmarks._watched import LOOK_S, Watched, watching
from benchmarks.frame import Bench, main
from cluster.machinery.client import Client, Obj
from cluster.machinery.http_client import HttpClient

TIMEOUT_S = 300.0
ROLLOUT = 10
BEHIND = 10
PARTS = ("controllers", "scheduler", "apiserver", "state")
Sizes = tuple[tuple[int, float | None], ...]
"""Replicas, and the goal in seconds."""


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

    async def run(self, sizes: Sizes) -> None:
        async with watching(self._pods, self._deployments):
            for replicas, goal_s in sizes:
                await self._create(replicas, goal_s)
            await self._rollout()

    async def _create(self, replicas: int, goal_s: float | None) -> None:
        name, what = f"web-{replicas}", f"Deployment of {replicas}"
        before, began = self._cpu_s(), time.perf_counter()
        await self._client.create("deployments.apps", deployment(name, replicas), "default")
        await self._pods.until(bound(name, replicas))
        self._took(f"{what}: create to all bound", began, None if goal_s is None else goal_s * 1e3)
        self._used(f"{what}: CPU per pod until bound", before, replicas)
        await self._deployments.until(rolled_out(name))
        self._took(f"{what}: create to all available", began)
        self._used(f"{what}: CPU per pod until available", before, replicas)
        await self._scale(name, what, replicas)
        await self._client.delete("deployments.apps", name, "default")
        await self._pods.until(lambda pods: not pods)

    async def _scale(self, name: str, what: str, replicas: int) -> None:
        """To none, and back."""
        before, began = self._cpu_s(), time.perf_counter()
        await self._client.patch("deployments.apps", name, {"spec": {"replicas": 0}}, "default")
        await self._pods.until(lambda pods: not pods)
        self._took(f"{what}: scale to none, all gone", began)
        began = time.perf_counter()
        await self._client.patch("deployments.apps", name, {"spec": {"replicas": replicas}}, "default")
        await self._pods.until(bound(name, replicas))
        self._took(f"{what}: scale from none to all bound", began)
        self._used(f"{what}: CPU per pod scaled to none and back", before, replicas)

    def _took(self, what: str, began: float, goal_ms: float | None = None) -> None:
        self._bench.add(what, (time.perf_counter() - began) * 1e3, "ms", samples=1, goal=goal_ms)

    def _used(self, what: str, before: dict[str, float], pods: int) -> None:
        for part, used in self._cpu_s().items():
            self._bench.add(f"{what}, {part}", (used - before[part]) / pods * 1e6, "cpu_us", samples=pods)

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
        """Of the three State members together."""
        used = dict.fromkeys(PARTS, 0.0)
        for name, seconds in self._target.cpu_s().items():
            used[name.split()[0]] += seconds
        return used


async def measure(bench: Bench, target: Target, base: Path, sizes: Sizes) -> None:
    async with HttpClient(_fleet.config_of(target, base)) as client, asyncio.timeout(TIMEOUT_S):
        await Measure(bench, client, target).run(sizes)


def run(bench: Bench) -> None:
    nodes = 3 if bench.smoke else 100
    sizes: Sizes = ((10, 0.3),) if bench.smoke else ((100, 0.3), (1000, None), (5000, 4.0))
    with tempfile.TemporaryDirectory(prefix="sk8-bench-") as directory:
        base = Path(directory)
        target = _stack.start(base, controllers=True)
        try:
            with _fleet.live(target, base, nodes, niceness=BEHIND):
                uvloop.run(measure(bench, target, base, sizes))
        finally:
            target.stop()


if __name__ == "__main__":
    main(run, __doc__)
