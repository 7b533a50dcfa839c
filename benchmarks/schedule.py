"""The whole system: pods created over HTTPS, stored by the quorum, scheduled, bound, and seen bound by a watch.

    python -m benchmarks.schedule --json FILE [--smoke] [--peer]

Simulated: nodes are plain Node objects, Ready, with 4 CPU, 32 GiB, 110 pods; no kubelet runs and nobody sends
heartbeats (as in kube-scheduler's own benchmark). Real: three State members with TLS and fsync, one ApiServer, one
Scheduler under its lease, managedFields, the shipped code in every process; processes instead of Ray actors. `--peer`
drives kube-apiserver, kube-scheduler and one etcd, where they are on PATH, with the same client in the same run.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks import _peer, _stack
from benchmarks._load import Connection, spread, undisturbed
from benchmarks._stack import Target
from benchmarks.frame import Bench, main, percentile

CONNECTIONS = 32
TIMEOUT_S = 300.0
_NAMED = re.compile(rb'"metadata":\{[^{}]*?"name":"bench-(\d+)"')
Obj = dict[str, Any]


def node(index: int) -> Obj:
    name = f"node-{index}"
    resources = {"cpu": "4", "memory": "32Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"z{index % 3}"},
        },
        "status": {"capacity": resources, "allocatable": resources, "conditions": [ready]},
    }


def pod(index: int) -> Obj:
    resources = {"requests": {"cpu": "100m", "memory": "500Mi"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"bench-{index}", "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10", "resources": resources}]},
    }


@dataclass(slots=True)
class Burst:
    """What one run of `pods` saw; times on the monotonic clock."""

    began: float = 0.0
    created: dict[int, float] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    bound: dict[int, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    def bound_per_s(self) -> float:
        return len(self.bound) / (max(self.bound.values()) - self.began)

    def created_per_s(self) -> float:
        return len(self.created) / (max(self.created.values()) - self.began)

    def to_bound_ms(self) -> list[float]:
        """From the first byte of the create to the watch's word that it is bound."""
        starts = zip(self.created.items(), self.latency_ms, strict=True)
        return [(self.bound[i] - at) * 1000 + ms for (i, at), ms in starts]

    def windows(self, width_s: float = 1.0) -> list[int]:
        """Pods bound in each second after the first create."""
        counts: dict[int, int] = {}
        for at in self.bound.values():
            second = int((at - self.began) / width_s)
            counts[second] = counts.get(second, 0) + 1
        return [counts.get(i, 0) for i in range(max(counts) + 1)]


async def prepare(target: Target, nodes: int, make: Callable[[int], Obj] = node) -> list[Connection]:
    """The namespace and the nodes; returns the open connections."""
    connections = [await Connection.open(target) for _ in range(CONNECTIONS)]
    await connections[0].call("GET", "/api/v1/namespaces/default", expect=(200, 404))
    await connections[0].call("POST", "/api/v1/namespaces", b'{"metadata":{"name":"default"}}', expect=(201, 409))

    async def one(connection: Connection, index: int) -> None:
        await connection.call("POST", "/api/v1/nodes", orjson.dumps(make(index)))

    await spread(connections, nodes, one)
    return connections


async def burst(
    target: Target,
    connections: list[Connection],
    first: int,
    pods: int,
    per_s: float = 0.0,
    make: Callable[[int], Obj] = pod,
) -> Burst:
    """Create pods first..first+pods, as fast as the connections allow or `per_s` a second, until all are bound. `make`
    names them bench-<number>."""
    watcher = await Connection.open(target)
    listing = await watcher.call("GET", "/api/v1/pods?limit=1")
    at = orjson.loads(listing)["metadata"]["resourceVersion"]
    seen = Burst()
    done = asyncio.create_task(
        watcher.watch(f"/api/v1/pods?watch=1&resourceVersion={at}", _collector(seen, pods, first))
    )
    await asyncio.sleep(0.2)
    before = target.cpu_s()
    seen.began = time.monotonic()

    async def one(connection: Connection, index: int) -> None:
        if per_s:
            await asyncio.sleep(max(0.0, seen.began + index / per_s - time.monotonic()))
        body = orjson.dumps(make(first + index))
        started = time.monotonic()
        await connection.call("POST", "/api/v1/namespaces/default/pods", body)
        ended = time.monotonic()
        seen.created[first + index] = ended
        seen.latency_ms.append((ended - started) * 1000)

    await spread(connections, pods, one)
    async with asyncio.timeout(TIMEOUT_S):
        await done
    watcher.close()
    seen.cpu_s = {name: after - before[name] for name, after in target.cpu_s().items()}
    return seen


def _collector(seen: Burst, pods: int, first: int) -> Any:
    def on_lines(data: bytes) -> bool:
        now = time.monotonic()
        for line in data.split(b"\n"):
            if b'"nodeName":"' in line and (found := _NAMED.search(line)) and int(found[1]) >= first:
                seen.bound.setdefault(int(found[1]), now)
        return len(seen.bound) >= pods

    return on_lines


@dataclass(frozen=True, slots=True)
class Measured:
    full: Burst
    offered: Burst
    memory_mib: dict[str, float]


async def measure(target: Target, nodes: int, pods: int, offered: int) -> Measured:
    connections = await prepare(target, nodes)
    await burst(target, connections, 0, min(pods, 200))  # the first of everything is not what is asked
    full = await burst(target, connections, 1_000_000, pods)
    slow = await burst(target, connections, 2_000_000, offered, per_s=500.0)
    memory = {p.name: p.pss_mib() for p in target.processes}
    for connection in connections:
        connection.close()
    return Measured(full, slow, memory)


def run(bench: Bench) -> None:
    nodes, pods, offered = (50, 100, 100) if bench.smoke else (5000, 5000, 2500)
    with tempfile.TemporaryDirectory(prefix="sk8-bench-") as directory:
        base = Path(directory)
        peer = None
        if bench.peer and not _peer.missing():
            peer = _on(_peer.start(base / "peer"), nodes, pods, offered)
        elif bench.peer:
            bench.note(
                f"no peer: {', '.join(_peer.missing())} not on PATH; see docs for 422 to 478 pods/s measured before"
            )
        ours = _on(_stack.start(base / "sk8"), nodes, pods, offered)
    _rows(bench, f"{nodes} nodes, {pods} pods", ours, peer, nodes == 5000)


def _on(target: Target, nodes: int, pods: int, offered: int) -> Measured:
    try:
        with undisturbed():
            return uvloop.run(measure(target, nodes, pods, offered))
    finally:
        target.stop()


def _rows(bench: Bench, what: str, ours: Measured, peer: Measured | None, big: bool) -> None:
    count = len(ours.full.bound)

    def row(name: str, unit: str, value: Callable[[Measured], float], goal: float | None = None) -> None:
        other = value(peer) if peer is not None else None
        bench.add(f"{name}, {what}", value(ours), unit, samples=count, peer=other, goal=goal if big else None)

    row("bound", "pods/s", lambda m: m.full.bound_per_s(), 1800)
    row("created", "pods/s", lambda m: m.full.created_per_s(), 2000)
    row("create p50", "ms", lambda m: percentile(m.full.latency_ms, 50))
    row("create p99", "ms", lambda m: percentile(m.full.latency_ms, 99), 50)
    row("create to bound at 500 pods/s p50", "ms", lambda m: percentile(m.offered.to_bound_ms(), 50))
    row("create to bound at 500 pods/s p99", "ms", lambda m: percentile(m.offered.to_bound_ms(), 99), 30)
    row("CPU per pod, all servers", "cpu_us", lambda m: sum(m.full.cpu_s.values()) / len(m.full.bound) * 1e6, 850)
    row("memory, all servers", "MiB", lambda m: sum(m.memory_mib.values()))
    for name, used in ours.full.cpu_s.items():
        bench.add(f"CPU per pod, {name}, {what}", used / count * 1e6, "cpu_us", samples=count)
    for name, used in (peer.full.cpu_s if peer is not None else {}).items():
        bench.note(f"peer's CPU per pod, {name}: {used / count * 1e6:.0f} us")


if __name__ == "__main__":
    main(run, __doc__)
