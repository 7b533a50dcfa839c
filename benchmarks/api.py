"""The API server: creates, reads, lists, thousands of watches, 150,000 pods; and what a request costs by stage.

    python -m benchmarks.api --json FILE [--smoke] [--peer]

Real: three State members with TLS and fsync, one ApiServer, client certificates, RBAC, admission, managedFields.
Nothing else runs: no scheduler, no controllers, no kubelets. `--peer` drives kube-apiserver and one etcd, where they
are on PATH, with the same client in the same run; only ours is filled with 150,000 pods.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import orjson
import uvloop

from benchmarks import _peer, _stack, _watchers
from benchmarks._api_stages import stages
from benchmarks._load import Connection, spread, undisturbed
from benchmarks._stack import Target
from benchmarks.frame import Bench, main, percentile
from benchmarks.schedule import CONNECTIONS, pod

PODS = "/api/v1/namespaces/default/pods"
PAGE = 500
WATCH_PAUSE_S = 0.1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    pods: int = 5_000
    reads: int = 2_000
    lists: int = 15
    watchers: int = 2_000
    events: int = 20
    filled: int = 150_000


SMOKE = Sizes(pods=100, reads=20, lists=2, watchers=20, events=3, filled=500)


@dataclass(slots=True)
class Timed:
    """Requests: how long each took, what they cost the API server."""

    ms: list[float] = field(default_factory=list)
    took_s: float = 0.0
    cpu_us: float = 0.0


@dataclass(slots=True)
class Measured:
    created: Timed
    alone: Timed
    got: Timed
    listed: Timed
    costs_us: dict[str, float]
    event_ms: list[float]
    event_cpu_us: float
    memory_mib: float


@dataclass(slots=True)
class Filled:
    created_per_s: float
    pages: Timed
    watched: int
    memory_mib: float


async def timed(target: Target, count: int, call: Callable[[int], Awaitable[object]]) -> Timed:
    """`call(i)` for each i, one after the other."""
    out, cpu_s, began = Timed(), target.api_server.cpu_s(), time.monotonic()
    for i in range(count):
        at = time.monotonic()
        await call(i)
        out.ms.append((time.monotonic() - at) * 1000)
    out.took_s = time.monotonic() - began
    out.cpu_us = (target.api_server.cpu_s() - cpu_s) / count * 1e6
    return out


async def create(target: Target, connections: list[Connection], path: str, first: int, count: int) -> Timed:
    """As fast as the connections allow."""
    out, cpu_s, began = Timed(), target.api_server.cpu_s(), time.monotonic()

    async def one(connection: Connection, index: int) -> None:
        body = orjson.dumps(pod(first + index))
        at = time.monotonic()
        await connection.call("POST", path, body)
        out.ms.append((time.monotonic() - at) * 1000)

    await spread(connections, count, one)
    out.took_s = time.monotonic() - began
    out.cpu_us = (target.api_server.cpu_s() - cpu_s) / count * 1e6
    return out


async def namespace(connection: Connection, name: str) -> None:
    body = orjson.dumps({"metadata": {"name": name}})
    await connection.call("POST", "/api/v1/namespaces", body, expect=(201, 409))


async def measure(target: Target, sizes: Sizes) -> Measured:
    connections = [await Connection.open(target) for _ in range(CONNECTIONS)]
    one = connections[0]
    await namespace(one, "default")
    await create(target, connections, PODS, 0, min(sizes.pods, 200))  # the first of everything is not what is asked
    created = await create(target, connections, PODS, 1_000_000, sizes.pods)

    def post(i: int) -> Awaitable[bytes]:
        return one.call("POST", PODS, orjson.dumps(pod(2_000_000 + i)))

    def rehearse(i: int) -> Awaitable[bytes]:
        return one.call("POST", PODS + "?dryRun=All", orjson.dumps(pod(3_000_000 + i)))

    alone = await timed(target, sizes.reads // 2, post)
    got = await timed(target, sizes.reads, lambda i: one.call("GET", f"{PODS}/bench-{1_000_000 + i % sizes.pods}"))
    nothing = await timed(target, sizes.reads, lambda i: one.call("GET", "/livez/ping"))
    rehearsed = await timed(target, sizes.reads // 2, rehearse)
    listed = await timed(target, sizes.lists, lambda i: one.call("GET", f"{PODS}?limit={sizes.pods}"))
    costs = {
        "GET /livez/ping": nothing.cpu_us,
        "GET a pod": got.cpu_us,
        "create, dry run": rehearsed.cpu_us,
        "create, alone": alone.cpu_us,
        "create, 32 connections": created.cpu_us,
    }
    memory_mib = target.api_server.pss_mib()
    event_ms, event_cpu_us = await watched(target, one, sizes)
    for connection in connections:
        connection.close()
    return Measured(created, alone, got, listed, costs, event_ms, event_cpu_us, memory_mib)


async def watched(target: Target, writer: Connection, sizes: Sizes) -> tuple[list[float], float]:
    """From each create's first byte to each watcher; and the API server's CPU per event and watcher."""
    await namespace(writer, "watched")
    path = "/api/v1/namespaces/watched/pods"
    at = orjson.loads(await writer.call("GET", path))["metadata"]["resourceVersion"]
    watchers = await _watchers.watch(target, f"{path}?watch=1&resourceVersion={at}", sizes.watchers)
    sent: list[float] = []
    cpu_s = target.api_server.cpu_s()
    for i in range(sizes.events):
        sent.append(time.monotonic())
        await writer.call("POST", path, orjson.dumps(pod(i)))
        await _watchers.until_seen(watchers, i + 1)
        await asyncio.sleep(WATCH_PAUSE_S)
    cpu_us = (target.api_server.cpu_s() - cpu_s) / (sizes.events * sizes.watchers) * 1e6
    delays = [(seen - at) * 1000 for w in watchers for seen, at in zip(w.seen, sent, strict=True)]
    for watcher in watchers:
        watcher.close()
    return delays, cpu_us


async def fill(target: Target, sizes: Sizes) -> Filled:
    """Many pods: stored, watched while they come, then listed in pages."""
    connections = [await Connection.open(target) for _ in range(CONNECTIONS)]
    names = [f"many-{i}" for i in range(max(1, sizes.filled // 5_000))]
    for name in names:
        await namespace(connections[0], name)
    at = orjson.loads(await connections[0].call("GET", "/api/v1/pods?limit=1"))["metadata"]["resourceVersion"]
    watchers = await _watchers.watch(target, f"/api/v1/pods?watch=1&resourceVersion={at}", 1)
    began, each = time.monotonic(), sizes.filled // len(names)
    for name in names:
        await create(target, connections, f"/api/v1/namespaces/{name}/pods", 0, each)
    took_s = time.monotonic() - began
    await _watchers.until_seen(watchers, each * len(names))
    pages = await paged(connections[0])
    out = Filled(each * len(names) / took_s, pages, len(watchers[0].seen), target.api_server.pss_mib())
    for connection in connections:
        connection.close()
    watchers[0].close()
    return out


async def paged(connection: Connection) -> Timed:
    out, token = Timed(), ""
    began = time.monotonic()
    while True:
        at = time.monotonic()
        page = await connection.call("GET", f"/api/v1/pods?limit={PAGE}" + (f"&continue={token}" if token else ""))
        out.ms.append((time.monotonic() - at) * 1000)
        token = orjson.loads(page)["metadata"].get("continue", "")
        if not token:
            out.took_s = time.monotonic() - began
            return out


def run(bench: Bench) -> None:
    sizes = SMOKE if bench.smoke else Sizes()
    with tempfile.TemporaryDirectory(prefix="sk8-bench-") as directory:
        base = Path(directory)
        peer = None
        if bench.peer and not _peer.missing():
            peer = _on(_peer.start(base / "peer", scheduler=False), lambda target: measure(target, sizes))
        elif bench.peer:
            bench.note(f"no peer: {', '.join(_peer.missing())} not on PATH")
        target = _stack.start(base / "sk8", scheduler=False)
        ours, filled = _on(target, lambda target: _both(target, sizes))
    _rows(bench, ours, peer, sizes)
    _filled_rows(bench, filled, sizes)
    _stage_rows(bench, ours, sizes)


async def _both(target: Target, sizes: Sizes) -> tuple[Measured, Filled]:
    return await measure(target, sizes), await fill(target, sizes)


def _on(target: Target, work: Callable[[Target], Awaitable[T]]) -> T:
    async def all_of_it() -> T:
        return await work(target)

    try:
        with undisturbed():
            return uvloop.run(all_of_it())
    finally:
        target.stop()


def _rows(bench: Bench, ours: Measured, peer: Measured | None, sizes: Sizes) -> None:
    def row(name: str, unit: str, count: int, value: Callable[[Measured], float], goal: float | None = None) -> None:
        other = value(peer) if peer is not None else None
        bench.add(name, value(ours), unit, samples=count, peer=other, goal=None if bench.smoke else goal)

    pods, reads, watchers = sizes.pods, sizes.reads, sizes.watchers
    row("pod creates, 32 connections", "1/s", pods, lambda m: pods / m.created.took_s, 2000)
    row("pod creates, 32 connections, p50", "ms", pods, lambda m: percentile(m.created.ms, 50))
    row("pod creates, 32 connections, p99", "ms", pods, lambda m: percentile(m.created.ms, 99), 50)
    row("one create alone, p50", "ms", reads // 2, lambda m: percentile(m.alone.ms, 50), 0.7)
    row("one create alone, p99", "ms", reads // 2, lambda m: percentile(m.alone.ms, 99))
    row("GET one pod, p50", "ms", reads, lambda m: percentile(m.got.ms, 50), 0.25)
    row("GET one pod, p99", "ms", reads, lambda m: percentile(m.got.ms, 99))
    row(f"LIST {pods} pods, median", "ms", sizes.lists, lambda m: percentile(m.listed.ms, 50), 20)
    events = watchers * sizes.events
    row(f"event to {watchers} watchers, p50", "ms", events, lambda m: percentile(m.event_ms, 50))
    row(f"event to {watchers} watchers, p99", "ms", events, lambda m: percentile(m.event_ms, 99), 100)
    row("CPU per event and watcher", "cpu_us", events, lambda m: m.event_cpu_us, 10)
    row(f"API server's memory, {pods} pods", "MiB", 1, lambda m: m.memory_mib)


def _filled_rows(bench: Bench, filled: Filled, sizes: Sizes) -> None:
    def row(name: str, unit: str, value: float, goal: float | None = None) -> None:
        bench.add(f"{sizes.filled} pods: {name}", value, unit, samples=1, goal=None if bench.smoke else goal)

    row("created", "1/s", filled.created_per_s)
    row("seen by a watch", "events", filled.watched, sizes.filled)
    row(f"listed in pages of {PAGE}", "s", filled.pages.took_s)
    row(f"a page of {PAGE}, p99", "ms", percentile(filled.pages.ms, 99))
    row("API server's memory", "MiB", filled.memory_mib, 900 * 1e6 / 2**20)


def _stage_rows(bench: Bench, ours: Measured, sizes: Sizes) -> None:
    for name, cost_us in ours.costs_us.items():
        bench.add(f"API server's CPU per request: {name}", cost_us, "cpu_us", samples=sizes.reads)
    for name, cost_us in stages(pod(0), sizes.reads).items():
        bench.add(f"of a create: {name}", cost_us, "cpu_us", samples=sizes.reads)


if __name__ == "__main__":
    main(run, __doc__)
