"""The whole system: pods created over HTTPS, stored by the quorum, scheduled, bound, and seen bound by a watch.

    python -m benchmarks.schedule --json FILE [--smoke] [--peer kubernetes] [--heartbeats] [--fill [PODS]]
        [--takeover [TIMES]]
    python -m benchmarks.schedule --workload NAME...      kube-scheduler's own workloads: benchmarks.schedule_workloads

Simulated: nodes are plain Node objects, Ready, with 4 CPU, 32 GiB, 110 pods; no kubelet runs and nobody sends
heartbeats (as in kube-scheduler's own benchmark). Real: three State members with TLS and fsync, one ApiServer, one
Scheduler under its lease, managedFields, the shipped code in every process; processes instead of Ray actors. `--peer`
drives kube-apiserver, kube-scheduler and one etcd, where they are on PATH, with the same client in the same run.
`--heartbeats` takes our side once more with as many live hollow nodes (kubelet cores with leases and statuses, in a
process of their own), which also run the pods they get. `--fill` fills the nodes to 150,000 pods, as far as 15 minutes
go. `--takeover` kills the leading scheduler again and again, and says how soon the standby binds. CPU per pod is what
the servers used until all pods were bound; and until they were at rest, with all Events written, which either side does
behind the binding.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks import _peer, _stack
from benchmarks._load import Connection, spread, undisturbed
from benchmarks._stack import Target
from benchmarks.frame import Bench, Curve, distribution, main, percentile

CONNECTIONS = 32
TIMEOUT_S = 300.0
REST_S, REST_LOOKS, IDLE_CORES = 0.5, 120, 0.15
PODS, FILL_S = 150_000, 900.0
TAKEOVERS = 10
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
    rest_cpu_s: float = 0.0

    def cpu_us(self) -> float:
        """Of all servers, for each pod, until the last was bound."""
        return sum(self.cpu_s.values()) / len(self.bound) * 1e6

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


async def at_rest(target: Target, connection: Connection) -> float:
    """CPU seconds that the servers have used once they use next to nothing any more, and no Event comes any more:
    those are written behind, at a rate that CPU alone would hide."""
    used, events = sum(target.cpu_s().values()), -1
    for _ in range(REST_LOOKS):
        await asyncio.sleep(REST_S)
        before, known = used, events
        used = sum(target.cpu_s().values())
        listed = orjson.loads(await connection.call("GET", "/api/v1/events?limit=1"))
        events = listed["metadata"].get("remainingItemCount", 0)
        if used - before < IDLE_CORES * REST_S and events == known:
            break
    return used


@dataclass(frozen=True, slots=True)
class Measured:
    full: Burst
    offered: Burst
    memory_mib: dict[str, float]


async def measure(target: Target, nodes: int, pods: int, offered: int) -> Measured:
    """`nodes` 0: they are there already."""
    connections = await prepare(target, nodes)
    await burst(target, connections, 0, min(pods, 200))  # the first of everything is not what is asked
    before = await at_rest(target, connections[0])
    full = await burst(target, connections, 1_000_000, pods)
    full.rest_cpu_s = await at_rest(target, connections[0]) - before
    slow = await burst(target, connections, 2_000_000, offered, per_s=500.0)
    memory = {p.name: p.pss_mib() for p in target.processes}
    for connection in connections:
        connection.close()
    return Measured(full, slow, memory)


@dataclass(frozen=True, slots=True)
class Options:
    """`fill`: to how many pods; `takeovers`: how many; 0 for not at all."""

    heartbeats: bool = False
    fill: int = 0
    takeovers: int = 0


def run(bench: Bench, options: Options = Options()) -> None:
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
        _curves(bench, ours, peer)
        if options.heartbeats:
            _with_heartbeats(bench, base / "live", nodes, pods, offered)
        if options.fill:
            _fill(bench, base / "full", nodes, options.fill)
        if options.takeovers:
            from benchmarks import _takeover

            _takeover.run(bench, base / "takeover", nodes, options.takeovers)


def _with_heartbeats(bench: Bench, base: Path, nodes: int, pods: int, offered: int) -> None:
    from benchmarks import _fleet  # brings the kubelet's libraries, which the others do without

    target = _stack.start(base)
    try:
        with _fleet.live(target, base, nodes), undisturbed():
            found = uvloop.run(measure(target, 0, pods, offered))
    finally:
        target.stop()
    _rows(bench, f"{nodes} live hollow nodes, {pods} pods", found, None, False)


def _fill(bench: Bench, base: Path, nodes: int, pods: int) -> None:
    from benchmarks import _fill as filling

    target = _stack.start(base)
    try:
        step = filling.STEP if pods > filling.STEP else max(pods // 4, 1)
        filled = uvloop.run(filling.fill(target, nodes, pods, FILL_S, step))
    finally:
        target.stop()
    filling.rows(bench, filled, nodes, pods)


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
    for percent in (50, 90, 99):
        row(f"bound in a second, p{percent}", "pods/s", partial(_in_a_second, percent))
    row("created", "pods/s", lambda m: m.full.created_per_s(), 2000)
    row("create p50", "ms", lambda m: percentile(m.full.latency_ms, 50))
    row("create p99", "ms", lambda m: percentile(m.full.latency_ms, 99), 50)
    row("create to bound at 500 pods/s p50", "ms", lambda m: percentile(m.offered.to_bound_ms(), 50))
    row("create to bound at 500 pods/s p99", "ms", lambda m: percentile(m.offered.to_bound_ms(), 99), 30)
    row("CPU per pod, all servers", "cpu_us", lambda m: m.full.cpu_us(), 850)
    row("CPU per pod, until at rest", "cpu_us", lambda m: m.full.rest_cpu_s / len(m.full.bound) * 1e6)
    row("memory, all servers", "MiB", lambda m: sum(m.memory_mib.values()))
    for name, used in ours.full.cpu_s.items():
        bench.add(f"CPU per pod, {name}, {what}", used / count * 1e6, "cpu_us", samples=count)
    for name, used in (peer.full.cpu_s if peer is not None else {}).items():
        bench.note(f"peer's CPU per pod, {name}: {used / count * 1e6:.0f} us")


def _in_a_second(percent: int, measured: Measured) -> float:
    """So many pods were bound in `percent` of the seconds, or more."""
    return percentile(measured.full.windows(), 100 - percent)


def _curves(bench: Bench, ours: Measured, peer: Measured | None) -> None:
    for label, one in (("sk8", ours), ("peer", peer)):
        if one is None:
            continue
        rates = [(float(second), float(bound)) for second, bound in enumerate(one.full.windows())]
        bench.curves.append(Curve("pods bound", label, "seconds after the first create", "pods/s", rates))
        waits = distribution(one.offered.to_bound_ms())
        panel = "create to bound at 500 pods/s offered"
        bench.curves.append(Curve(panel, label, "ms", "share of the pods", waits, log=True))


def _main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--heartbeats", action="store_true")
    parser.add_argument("--fill", type=int, nargs="?", const=PODS, default=0)
    parser.add_argument("--takeover", type=int, nargs="?", const=TAKEOVERS, default=0)
    parser.add_argument("--workload", action="append", default=[])
    parser.add_argument("--nodes", type=int, default=500)
    own, sys.argv[1:] = parser.parse_known_args()
    if own.workload:
        from benchmarks.schedule_workloads import runner

        main(runner(own.workload, own.nodes), __doc__)
    main(lambda bench: run(bench, Options(own.heartbeats, own.fill, own.takeover)), __doc__)


if __name__ == "__main__":
    _main()
