"""Thousands of kubelets: what their heartbeats and their pods' statuses cost, and how soon a pod is Running.

    python -m benchmarks.hollow --json FILE [--smoke]

Simulated: the containers (cluster/node/hollow/: no process runs). Real: each node's registration, Lease every 10 s,
status, admission, the life of each pod and its statuses, all by the kubelet's own code over HTTPS with TLS; three State
members with fsync, one ApiServer, one Scheduler; processes instead of Ray actors. All nodes are in this process.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import _stack
from benchmarks._stack import Target
from benchmarks.frame import Bench, main, percentile
from cluster.machinery.client import Client, Obj
from cluster.machinery.http_client import HttpClient, HttpConfig
from cluster.machinery.informer import Informer
from cluster.node.hollow.fleet import HollowFleet
from cluster.node.hollow.node import HollowSpec

TIMEOUT_S = 600.0
CREATORS = 32
_SPEC = HollowSpec(cpu="4", tainted=False, zones=("z0", "z1", "z2"))


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds; CPU in seconds: of all servers, and of the fleet."""

    ready_s: float
    idle_s: float
    idle_servers: float
    idle_fleet: float
    running_s: float
    to_running_s: list[float]
    servers_per_pod: float
    fleet_per_pod: float


def pod(index: int) -> Obj:
    resources = {"requests": {"cpu": "100m", "memory": "500Mi"}}
    container = {"name": "c", "image": "registry.k8s.io/pause:3.10", "resources": resources}
    meta = {"name": f"bench-{index}", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}


class Watcher:
    """When each pod was first seen Running."""

    def __init__(self, count: int) -> None:
        self.at: dict[str, float] = {}
        self.all = asyncio.Event()
        self._count = count

    def see(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and (new.get("status") or {}).get("phase") == "Running":
            self.at.setdefault(new["metadata"]["name"], time.perf_counter())
            if len(self.at) == self._count:
                self.all.set()


async def _create(client: Client, count: int) -> dict[str, float]:
    """When each pod's creation was asked for."""
    began: dict[str, float] = {}
    numbers = iter(range(count))

    async def create() -> None:
        for number in numbers:
            began[f"bench-{number}"] = time.perf_counter()
            await client.create("pods", pod(number), "default")

    await asyncio.gather(*(create() for _ in range(CREATORS)))
    return began


async def measure(target: Target, base: Path, nodes: int, pods: int, idle_s: float) -> Measured:
    pki = base / "cluster" / "pki"
    ca, cert, key = (str(pki / name) for name in ("ca.crt", "admin.crt", "admin.key"))
    config = HttpConfig(f"https://{target.host}:{target.port}", ca_file=ca, cert_file=cert, key_file=key)
    async with HttpClient(config) as client, asyncio.timeout(TIMEOUT_S):
        fleet = HollowFleet(client, nodes, _SPEC, clock=time.time)
        began = time.perf_counter()
        running = asyncio.create_task(fleet.run())
        watching: asyncio.Task[None] | None = None
        try:
            await fleet.ready.wait()
            ready_s = time.perf_counter() - began
            servers, fleet_cpu = _cpu(target)
            await asyncio.sleep(idle_s)
            idle = tuple(b - a for a, b in zip((servers, fleet_cpu), _cpu(target), strict=True))
            watcher, informer = Watcher(pods), Informer(client, "pods")
            informer.add_handler(watcher.see)
            watching = asyncio.create_task(informer.run())
            await informer.wait_synced()
            servers, fleet_cpu = _cpu(target)
            began = time.perf_counter()
            asked = await _create(client, pods)
            await watcher.all.wait()
            took = time.perf_counter() - began
            used = tuple(b - a for a, b in zip((servers, fleet_cpu), _cpu(target), strict=True))
        finally:
            tasks = [t for t in (running, watching) if t is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    waits = [watcher.at[name] - at for name, at in asked.items()]
    return Measured(ready_s, idle_s, idle[0], idle[1], took, waits, used[0] / pods, used[1] / pods)


def _cpu(target: Target) -> tuple[float, float]:
    return sum(target.cpu_s().values()), time.process_time()


def run(bench: Bench) -> None:
    nodes, pods, idle_s = (50, 100, 2.0) if bench.smoke else (5000, 5000, 30.0)
    with tempfile.TemporaryDirectory(prefix="sk8-bench-") as directory:
        base = Path(directory)
        target = _stack.start(base)
        try:
            found = uvloop.run(measure(target, base, nodes, pods, idle_s))
        finally:
            target.stop()
    _rows(bench, found, nodes, pods)


def _rows(bench: Bench, found: Measured, nodes: int, pods: int) -> None:
    what = f"{nodes} hollow nodes"
    waits_ms = [s * 1e3 for s in found.to_running_s]
    bench.add(f"registered and Ready, {what}", nodes / found.ready_s, "nodes/s", samples=nodes)
    bench.add(f"heartbeats, all servers, {what}", found.idle_servers / found.idle_s, "cores", samples=nodes)
    bench.add(f"heartbeats, the nodes, {what}", found.idle_fleet / found.idle_s, "cores", samples=nodes)
    bench.add(f"created to Running, {what}", pods / found.running_s, "pods/s", samples=pods)
    bench.add(f"create to Running p50, {what}", percentile(waits_ms, 50), "ms", samples=pods)
    bench.add(f"create to Running p99, {what}", percentile(waits_ms, 99), "ms", samples=pods)
    bench.add(f"CPU per pod, all servers, {what}", found.servers_per_pod * 1e6, "cpu_us", samples=pods)
    bench.add(f"CPU per pod, its kubelet, {what}", found.fleet_per_pod * 1e6, "cpu_us", samples=pods)


if __name__ == "__main__":
    main(run, __doc__)
