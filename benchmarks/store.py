"""The store beside etcd: three members each, the same TLS, disk, sizes and numbers of callers, in one run.

Everything shares the cores: members, clients and the peer's. etcd is driven by its own Go client (peer/etcd_load.go),
ours by raft.client in this process; what one call costs is therefore given in CPU per process, which a busy machine
distorts less than time. "A connection each": every caller has a client of its own; "one client": all callers share one,
which sends what they ask in one turn of its loop in one frame (etcd's equivalent is one Go client).

The goals are ratios to what etcd does in the same run. Where syncs are delayed by 2 ms, strace delays the system calls
of both alike. Rows of kills, restarts and sizes are in _store_faults.py.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks._groups import (
    MEMBERS,
    SLOW_SYNCS,
    Etcd,
    Group,
    Processes,
    etcd_is_here,
    make_tls,
    strace_is_here,
)
from benchmarks._store_faults import etcd_kills, etcd_size, fill, kills, ready, size
from benchmarks.frame import Bench, main, percentile
from raft.client import StoreClient

KEYS = 10_000
SIZES = {False: (100_000, 1_000_000), True: (2_000,)}
"""Keys, by whether it is a small run."""
ROUNDS = 3
"""Of each load with delayed syncs."""
Call = Callable[[int], Awaitable[object]]
GUARD = ((b"/registry/namespaces/default", "mod", "<", 1 << 60),)


def key(i: int) -> bytes:
    """32 bytes, as in peer/etcd_load.go."""
    return b"/registry/pods/default/%09d" % (i % KEYS)


@dataclass(frozen=True, slots=True)
class Load:
    """One workload. ``goal``: how many times the peer's rate (with a connection each) is asked for."""

    name: str
    op: str
    callers: int
    calls: int
    each: bool = False
    value: int = 256
    goal: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    rate: float
    p50_ms: float
    p99_ms: float
    client_us: float
    leader_us: float
    follower_us: float


def middle(rounds: Sequence[Measured]) -> Measured:
    """The median of each figure."""
    return Measured(*(statistics.median(figure) for figure in zip(*map(astuple, rounds), strict=True)))


def own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def split(used: dict[int, float], leader: int) -> tuple[float, float]:
    """Of the leader, and of a follower on average."""
    followers = [us for member, us in used.items() if member != leader]
    return used[leader], sum(followers) / len(followers)


async def run_callers(calls: Sequence[Call], count: int) -> tuple[float, list[float]]:
    """(calls a second, milliseconds of each)."""
    numbers = itertools.count()
    took: list[float] = []

    async def caller(call: Call) -> None:
        while (i := next(numbers)) < count:
            began = time.perf_counter()
            await call(i)
            took.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(caller(call) for call in calls))
    return count / (time.perf_counter() - began), took


def call_of(load: Load, client: StoreClient) -> Call:
    value = b"v" * load.value
    if load.op == "put":
        return lambda i: client.put(key(i), value)
    if load.op == "get":
        return lambda i: client.range(key(i))
    if load.op == "range":
        return lambda _: client.range(b"/registry/pods/", b"/registry/pods0")
    return lambda i: client.txn(GUARD, (("put", key(i), value, 0),))


async def ours(group: Group, client: StoreClient, load: Load) -> Measured:
    leader = await group.leader(client)
    clients = [client]
    if load.each:
        clients = [group.client(prefer=group.endpoints[leader]) for _ in range(load.callers)]
        for at in range(0, len(clients), 16):  # 256 handshakes at once would time out on a busy machine
            await asyncio.gather(*(one.range(b"warm") for one in clients[at : at + 16]))
    calls = [call_of(load, clients[i % len(clients)]) for i in range(load.callers)]
    before, own = group.cpu_s(), own_cpu_s()
    rate, took = await run_callers(calls, load.calls)
    used = {member: (now - before[member]) / load.calls * 1e6 for member, now in group.cpu_s().items()}
    leader_us, follower_us = split(used, leader)
    client_us = (own_cpu_s() - own) / load.calls * 1e6
    if load.each:
        await asyncio.gather(*(one.close() for one in clients))
    return Measured(rate, percentile(took, 50), percentile(took, 99), client_us, leader_us, follower_us)


async def theirs(etcd: Etcd, load: Load) -> Measured:
    leader = etcd.leader()
    said = await asyncio.to_thread(
        etcd.load, load.op, load.callers, load.calls, value=load.value, connections=0 if load.each else 1
    )
    leader_us, follower_us = split(dict(zip(MEMBERS, said["member_us"], strict=True)), leader)
    return Measured(said["rate"], said["p50_ms"], said["p99_ms"], said["cpu_us"], leader_us, follower_us)


def loads(smoke: bool) -> list[Load]:
    def n(count: int) -> int:
        return max(1, count // 200) if smoke else count

    return [
        Load("put, 1 caller", "put", 1, n(2_000)),
        Load("put, 64 callers, a connection each", "put", 64, n(20_000), each=True),
        Load("put, 64 callers, one client", "put", 64, n(20_000)),
        Load("put, 256 callers, a connection each", "put", 256, n(30_000), each=True, goal=1.5),
        Load("put, 256 callers, one client", "put", 256, n(60_000), goal=2.5),
        Load("put 4 KB, 256 callers, a connection each", "put", 256, n(10_000), each=True, value=4096),
        Load("put 4 KB, 256 callers, one client", "put", 256, n(10_000), value=4096),
        Load("txn (1 compare, 1 put of 2 KB), 64 callers, one client", "txn", 64, n(20_000), value=2048),
        Load("linearizable get, 1 caller", "get", 1, n(2_000)),
        Load("linearizable get, 64 callers, a connection each", "get", 64, n(20_000), each=True, goal=1.5),
        Load("linearizable get, 64 callers, one client", "get", 64, n(40_000), goal=1.5),
        Load("range of 10,000 keys, 1 caller", "range", 1, n(400)),
    ]


async def throughput(bench: Bench, group: Group, client: StoreClient, etcd: Etcd | None) -> None:
    put_each: float | None = None
    for load in loads(bench.smoke):
        if load.op in ("get", "range") and not bench.smoke:
            await fill(client, KEYS)
        mine = await ours(group, client, load)
        peer = None if etcd is None else await theirs(etcd, load)
        if peer is not None and load.name == "put, 256 callers, a connection each":
            put_each = peer.rate
        base = put_each if load.goal == 2.5 else None if peer is None else peer.rate
        goal = None if base is None or load.goal is None else round(load.goal * base)
        row(bench, load, "", mine.rate, "calls/s", None if peer is None else peer.rate, goal)
        one = load.callers == 1
        p50_goal = peer.p50_ms if peer is not None and one and load.op == "put" else None
        p99_goal = peer.p99_ms if peer is not None and load.callers == 256 and load.value == 256 else None
        row(bench, load, " p50", mine.p50_ms, "ms", None if peer is None else peer.p50_ms, p50_goal)
        row(bench, load, " p99", mine.p99_ms, "ms", None if peer is None else peer.p99_ms, p99_goal)
        for where in ("leader", "follower", "client"):
            other = None if peer is None else getattr(peer, f"{where}_us")
            row(bench, load, f" CPU, {where}", getattr(mine, f"{where}_us"), "cpu_us", other, None)


def row(bench: Bench, load: Load, what: str, value: float, unit: str, peer: float | None, goal: float | None) -> None:
    bench.add(load.name + what, value, unit, samples=load.calls, peer=peer, goal=goal)


async def by_turns(
    group: Group, client: StoreClient, etcd: Etcd | None, load: Load
) -> tuple[Measured, Measured | None]:
    """The medians of ROUNDS of ours and of theirs."""
    own, peer = [], []
    for _ in range(ROUNDS):
        own.append(await ours(group, client, load))
        if etcd is not None:
            peer.append(await theirs(etcd, load))
    return middle(own), middle(peer) if peer else None


async def slow_disk(bench: Bench, root: Path, tls: Any, *, with_etcd: bool) -> None:
    """Both groups anew, with syncs that take 2 ms longer; by turns, because this disk sometimes holds up one sync by
    150 ms (also one process's that does nothing else), which is one in a hundred of a round."""
    delayed = SLOW_SYNCS if strace_is_here() else ()
    if not delayed:
        bench.note("no rows of delayed syncs: strace is not on PATH, or may not trace here")
        return
    slow = [
        Load(f"{name}, syncs delayed by 2 ms", "put", callers, callers if bench.smoke else calls, each=each)
        for name, callers, calls, each in (
            ("put, 1 caller", 1, 500, False),
            ("put, 256 callers, a connection each", 256, 20_000, True),
            ("put, 256 callers, one client", 256, 60_000, False),
        )
    ]
    group, etcd = Group(root / "slow", tls, wrapper=delayed), None
    client = group.client()
    mine: list[Measured] = []
    peers: list[Measured | None] = []
    try:
        await ready(client)
        etcd = Etcd(root / "slow-etcd", tls, wrapper=delayed) if with_etcd else None
        os.sync()  # what was written and removed before: ext4's journal and discards hold up everybody's syncs
        for load in slow:
            own, peer = await by_turns(group, client, etcd, load)
            mine.append(own)
            peers.append(peer)
    finally:
        await client.close()
        group.stop()
        if etcd is not None:
            etcd.stop()
    for load, own, peer in zip(slow, mine, peers, strict=True):
        row(bench, load, "", own.rate, "calls/s", None if peer is None else peer.rate, None)
        row(bench, load, " p50", own.p50_ms, "ms", None if peer is None else peer.p50_ms, None)
        row(bench, load, " p99", own.p99_ms, "ms", None if peer is None else peer.p99_ms, None)


# --- watches


async def fan_out(bench: Bench, group: Group, client: StoreClient, etcd: Etcd | None) -> None:
    for watchers in (1, 10) if bench.smoke else (1, 100, 1_000):
        events = 20 if bench.smoke else max(100, min(10_000, 100_000 // watchers))
        before, own = group.cpu_s(), own_cpu_s()
        rate, took = await watched(group, client, watchers, events)
        delivered = events * watchers
        used = sum(group.cpu_s().values()) - sum(before.values())
        members_us, client_us = used / delivered * 1e6, (own_cpu_s() - own) / delivered * 1e6
        peer: dict[str, Any] | None = None
        if etcd is not None:
            peer = await asyncio.to_thread(etcd.load, "watch", 16, events, watchers=watchers)
            peer["members_us"] = sum(peer["member_us"])
        name = f"watch, {watchers} watchers of one prefix, 16 writers"
        for what, value, unit, theirs_at in (
            (": events delivered", rate, "events/s", "rate"),
            (" p99 from write to watcher", percentile(took, 99), "ms", "p99_ms"),
            (" CPU of all members an event", members_us, "cpu_us", "members_us"),
            (" CPU of the client an event", client_us, "cpu_us", "cpu_us"),
        ):
            bench.add(name + what, value, unit, samples=delivered, peer=None if peer is None else peer[theirs_at])


async def watched(group: Group, client: StoreClient, watchers: int, events: int) -> tuple[float, list[float]]:
    """(events delivered a second, milliseconds from before the write to the watcher of each)."""
    clients = [group.client() for _ in range(min(watchers, 16))]
    written: dict[bytes, float] = {}
    took: list[float] = []
    start = (await client.range(b"warm")).revision + 1

    async def watcher(of: StoreClient) -> None:
        seen = 0
        async for batch in of.watch(b"/watched/", b"/watched0", start_revision=start):
            now = time.perf_counter()
            took.extend([(now - written[event.kv.key]) * 1000 for event in batch.events])
            seen += len(batch.events)
            if seen == events:
                return

    async def put(i: int) -> None:
        name = b"/watched/%023d" % i
        written[name] = time.perf_counter()
        await client.put(name, b"v" * 256)

    tasks = [asyncio.create_task(watcher(clients[i % len(clients)])) for i in range(watchers)]
    await asyncio.sleep(0.2)
    began = time.perf_counter()
    await run_callers([put] * 16, events)
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - began
    await asyncio.gather(*(one.close() for one in clients))
    await client.delete(b"/watched/", b"/watched0")
    return events * watchers / seconds, took


async def measure(bench: Bench, root: Path) -> None:
    tls = make_tls(root)
    group, etcd = Group(root / "sk8", tls), None
    client = group.client()
    members: list[Processes] = [group]
    try:
        await ready(client)
        if bench.peer:
            missing = etcd_is_here()
            if missing:
                bench.note(f"no peer: {missing}")
            else:
                etcd = Etcd(root / "etcd", tls)
                members.append(etcd)
        await throughput(bench, group, client, etcd)
        await fan_out(bench, group, client, etcd)
        if etcd is not None:
            await etcd_kills(bench, etcd)
            for keys in SIZES[bench.smoke]:
                await etcd_size(bench, etcd, keys)
            etcd.stop()
        await kills(bench, group, client)
        for keys in SIZES[bench.smoke]:
            await size(bench, group, client, keys)
        group.stop()
        await slow_disk(bench, root, tls, with_etcd=etcd is not None)
    finally:
        await client.close()
        for each in members:
            each.stop()


def run(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(prefix="sk8-bench-store-") as directory:
        uvloop.run(measure(bench, Path(directory)))


if __name__ == "__main__":
    main(run, __doc__)
