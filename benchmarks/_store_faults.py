"""What a store costs when members die, and when it is large: rows of benchmarks/store.py, of ours and of etcd. IO."""

from __future__ import annotations

import asyncio
import time

from benchmarks._groups import Etcd, Group
from benchmarks.frame import Bench, percentile
from raft.client import StoreClient
from raft.errors import StoreError

KILLS, ETCD_KILLS = 50, 15
"""etcd takes several seconds for each."""
LEADERLESS = "no writes when the leader is killed"
KEY = b"/registry/pods/default/000000001"


async def ready(client: StoreClient) -> None:
    while True:
        try:
            await client.put(b"warm", b"")
            return
        except StoreError:
            await asyncio.sleep(0.05)


# --- time without a leader


async def kills(bench: Bench, group: Group, client: StoreClient) -> None:
    """The longest pause between two acknowledged writes around each SIGKILL of the leader."""
    gaps: list[float] = []
    for _ in range(1 if bench.smoke else KILLS):
        leader = await group.leader(client)
        gaps.append(await gap(group, client, leader))
        group.start(leader)
        await caught_up(group, client, leader)
    _leaderless(bench, "sk8", gaps, goal=1.0)


async def etcd_kills(bench: Bench, etcd: Etcd) -> None:
    gaps: list[float] = []
    for _ in range(1 if bench.smoke else ETCD_KILLS):
        leader = etcd.leader()
        writing = asyncio.create_task(asyncio.to_thread(etcd.load, "gap", 1, 4_000))
        await asyncio.sleep(1)
        etcd.kill(leader)
        gaps.append((await writing)["gap_s"])
        etcd.start(leader)
        await asyncio.to_thread(etcd.wait_healthy, leader)
    _leaderless(bench, "etcd", gaps, goal=None)


def _leaderless(bench: Bench, who: str, gaps: list[float], goal: float | None) -> None:
    """Rows of their own for each: they are not of one run, and the peer's come first."""
    for percent in (50, 99):
        at = goal if percent == 99 else None
        bench.add(f"{LEADERLESS} p{percent}, {who}", percentile(gaps, percent), "s", samples=len(gaps), goal=at)


async def gap(group: Group, client: StoreClient, leader: int) -> float:
    widest, killed_at, began = 0.0, 0.0, time.perf_counter()
    last = began
    while not killed_at or last < killed_at + 0.3:
        if not killed_at and time.perf_counter() > began + 0.3:
            killed_at = time.perf_counter()
            group.kill(leader)
        try:
            await client.put(KEY, b"v" * 256)
        except StoreError:
            continue
        widest, last = max(widest, time.perf_counter() - last), time.perf_counter()
    return widest


async def caught_up(group: Group, client: StoreClient, member: int) -> float:
    """Seconds until ``member`` serves and has applied what was committed when this was called."""
    began = time.perf_counter()
    wanted = await client.read_index()
    while True:
        try:
            if (await client.status(group.endpoints[member]))["revision"] >= wanted:
                return time.perf_counter() - began
        except StoreError:
            await asyncio.sleep(0.02)


# --- many keys


async def fill(client: StoreClient, keys: int) -> None:
    """Values of 256 bytes, many a transaction."""
    value, each = b"v" * 256, 250

    async def some(first: int) -> None:
        ops = [("put", b"/registry/pods/default/%09d" % i, value, 0) for i in range(first, min(first + each, keys))]
        await client.txn((), ops)

    for start in range(0, keys, each * 16):
        await asyncio.gather(*(some(first) for first in range(start, min(start + each * 16, keys), each)))


async def size(bench: Bench, group: Group, client: StoreClient, keys: int) -> None:
    await fill(client, keys)
    await asyncio.sleep(2)
    memory_mib = group.private_mib()
    leader = await group.leader(client)
    follower = min(member for member in group.processes if member != leader)
    group.kill(follower)
    group.start(follower)
    took_s = await caught_up(group, client, follower)
    _size(bench, "sk8", keys, memory_mib, took_s, group.cpu_s()[follower])


async def etcd_size(bench: Bench, etcd: Etcd, keys: int) -> None:
    await asyncio.to_thread(etcd.load, "fill", 16, keys // 100, connections=1, keys=keys)
    await asyncio.sleep(2)
    memory_mib = etcd.private_mib()
    leader = etcd.leader()
    follower = min(member for member in etcd.processes if member != leader)
    etcd.kill(follower)
    etcd.start(follower)
    took_s = await asyncio.to_thread(etcd.wait_healthy, follower)
    _size(bench, "etcd", keys, memory_mib, took_s, etcd.cpu_s()[follower])


def _size(bench: Bench, who: str, keys: int, memory_mib: float, restart_s: float, cpu_s: float) -> None:
    goals = (600, 5.0) if keys == 1_000_000 and who == "sk8" else (None, None)
    name = f"{keys:,} keys of 256 B, {who}"
    bench.add(f"{name}: private memory of a member", memory_mib, "MiB", samples=3, goal=goals[0])
    bench.add(f"{name}: restart until it serves", restart_s, "s", samples=1, goal=goals[1])
    bench.add(f"{name}: CPU of that restart", cpu_s, "s", samples=1)
