"""The store's own chaos: real processes, disks and links, broken at random while clients record. IO; root.

    python tests/chaos/store_chaos.py --seconds 60 --seed 7 --root DIR --name sk8x1     (inside the switch's namespace)

Lasts until every kind of fault was seen, and for --seconds at least. Prints one JSON object: what was done, how much
load there was, and what was wrong. One fault at a time, so that a majority is always possible; compaction every 200 ms;
tick, election and log settings drawn from the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from raft.client import StoreClient
from raft.config import CLIENT_ROLE, PEER_ROLE
from raft.errors import StoreError
from tests.chaos.chaos_clients import Follower, Recorder
from tests.chaos.chaos_place import Place, ip_of
from tests.chaos.history import check_linearizable, check_revisions
from tests.chaos.watches import check_against, check_previous, check_reliable, check_streams, covered
from tests.support.store_group import Pki

_ROOT = Path(__file__).parents[2]
PEER_PORT, CLIENT_PORT = 2380, 2379
CLIENTS = 8
WITNESSES = 2
"""Of the watches, those that never stop by themselves; one of them at least is complete."""
LEAST_PER_S = 5
"""Acknowledged operations; a run with fewer has not tried anything."""


class Chaos:
    def __init__(self, place: Place, rng: random.Random, pki: Pki) -> None:
        self.place, self.rng = place, rng
        self.peer_tls, self.client_tls = pki.issue("peer", PEER_ROLE), pki.issue("client", CLIENT_ROLE)
        self.addresses = {m: (ip_of(m), PEER_PORT, CLIENT_PORT) for m in place.members}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.settings = {
            "tick_ms": rng.choice((20, 50, 100)),
            "election_ticks": rng.choice((6, 10, 20)),
            "snapshot_every": rng.choice((20, 200, 10_000)),
            "keep_entries": rng.choice((10, 100, 5_000)),
            "flush_interval_s": rng.choice((0.05, 0.5)),
            "auto_compaction_retention_s": 0,
        }
        self.next_member = 4
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self.seen: dict[bytes, float] = {}
        self.watch_clients: list[StoreClient] = []

    # --- members

    def start(self, member: int, faults: str = "", how: str = "create") -> None:
        files = {"cert": str(self.peer_tls.cert), "key": str(self.peer_tls.key), "ca": str(self.peer_tls.ca)}
        config = {
            "dir": str(self.place.disk(member) / "member"), "host": ip_of(member), "peer_port": PEER_PORT,
            "client_port": CLIENT_PORT, "metrics": None, "peer_tls": files, **self.settings,
            how: {"cluster_id": "chaos", "member_id": member, "members": self.addresses},
        }  # fmt: skip
        path = self.place.root / f"{member}.json"
        path.write_text(json.dumps(config))
        command = [*self.place.enter(member), sys.executable, "-m", "raft", "--config", str(path)]
        with (self.place.root / f"{member}.log").open("ab") as log:
            self.processes[member] = subprocess.Popen(
                command, cwd=_ROOT, stdout=log, stderr=log, env={**os.environ, "SK8_FAULTS": faults}
            )

    def kill(self, member: int) -> None:
        process = self.processes[member]
        process.kill()
        process.wait()

    async def ended(self, member: int, timeout_s: float = 90) -> int | None:
        """Its exit code; None if it lives on."""
        until = time.monotonic() + timeout_s
        while self.processes[member].poll() is None and time.monotonic() < until:
            await asyncio.sleep(0.05)
        return self.processes[member].poll()

    def client(self, prefer: int, timeout_s: float = 3.0) -> StoreClient:
        endpoints = [(host, port) for host, _, port in self.addresses.values()]
        return StoreClient(endpoints, self.client_tls, prefer=(ip_of(prefer), CLIENT_PORT), timeout_s=timeout_s)

    # --- faults: each ends with everything whole again

    async def crash(self, member: int) -> None:
        self.kill(member)
        await asyncio.sleep(self.rng.uniform(0, 1.5))
        self.start(member)

    async def crash_all(self, _: int) -> None:
        for member in self.processes:
            self.kill(member)
        for member in self.processes:
            self.start(member)

    async def freeze(self, member: int) -> None:
        self.processes[member].send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(0.2, 3))
        self.processes[member].send_signal(signal.SIGCONT)

    async def partition(self, member: int) -> None:
        self.place.cut(member, [other for other in self.processes if other != member])
        await asyncio.sleep(self.rng.uniform(0.5, 3))
        self.place.heal(member)

    async def one_way(self, member: int) -> None:
        incoming = self.rng.random() < 0.5
        others = [other for other in self.processes if other != member]
        self.place.cut(member, others, incoming=incoming, outgoing=not incoming)
        await asyncio.sleep(self.rng.uniform(0.5, 3))
        self.place.heal(member)

    async def lossy(self, member: int) -> None:
        """Packets to it and from it are lost, one in twenty to one in three: TCP repeats them, late."""
        await self._spoiled(member, loss_percent=self.rng.choice((5, 15, 33)))

    async def slow_link(self, member: int) -> None:
        """Packets come late, up to later than a member waits for its leader, and in another order."""
        delay_ms = self.rng.choice((2, 20, 100, 400))
        await self._spoiled(member, delay_ms=delay_ms, jitter_ms=delay_ms / 4, loss_percent=1)

    async def _spoiled(self, member: int, **how: float) -> None:
        await asyncio.to_thread(lambda: self.place.spoil(member, **how))
        await asyncio.sleep(self.rng.uniform(1, 4))
        await asyncio.to_thread(self.place.mend, member)

    async def full_disk(self, member: int) -> None:
        """It must stop by itself, having lost nothing, and go on once there is space."""
        self.place.fill(member)
        code = await self.ended(member, 15)
        self.place.empty(member)
        if code is None:
            self.kill(member)
        elif code not in (0, 1):
            self.problems.append(f"member {member} ends with {code} on a full disk")
        self.start(member)

    async def slow_disk(self, member: int) -> None:
        self.kill(member)
        self.start(member, f"delay:wal.fsync={self.rng.choice((5, 20, 100))}ms")
        await asyncio.sleep(self.rng.uniform(1, 3))
        self.kill(member)
        self.start(member)

    async def failing_sync(self, member: int) -> None:
        await self._ends(member, f"fail:wal.fsync@{self.rng.randrange(3, 60)}", 1)

    async def crash_point(self, member: int) -> None:
        point = self.rng.choice(("wal.write", "wal.after_write", "wal.after_fsync"))
        await self._ends(member, f"crash:{point}@{self.rng.randrange(3, 60)}", 86)

    async def _ends(self, member: int, fault: str, expected: int) -> None:
        """Started with ``fault`` it must end by itself with ``expected``: going on would be a lie."""
        self.kill(member)
        self.start(member, fault)
        code = await self.ended(member)
        if code != expected:
            self.problems.append(f"member {member} ended with {code}, not {expected}, by {fault}")
            self.kill(member)
        self.start(member)

    async def replace(self, member: int) -> None:
        """Its disk is lost: a new member takes its place, as a learner first."""
        new, self.next_member = self.next_member, self.next_member + 1
        self.kill(member)
        admin = self.client(next(m for m in self.processes if m != member), timeout_s=15)
        try:
            await _until_done(lambda: admin.member_remove(member))
            del self.processes[member], self.addresses[member]
            shutil.rmtree(self.place.disk(member) / "member")
            await asyncio.to_thread(self.place.add, new)
            self.addresses[new] = (ip_of(new), PEER_PORT, CLIENT_PORT)
            await _until_done(lambda: admin.member_add(new, self.addresses[new]))
            self.start(new, how="join")
            await _until_done(lambda: admin.member_promote(new))
        finally:
            await admin.close()

    FAULTS = (
        crash,
        freeze,
        partition,
        one_way,
        lossy,
        slow_link,
        full_disk,
        slow_disk,
        failing_sync,
        crash_point,
        replace,
        crash_all,
    )

    async def nemesis(self, stop: asyncio.Event) -> None:
        """All kinds at least once, in an order of the seed, and before any comes again."""
        while not stop.is_set():
            for fault in self.rng.sample(self.FAULTS, len(self.FAULTS)):
                if stop.is_set() and len(self.done) > len(set(self.FAULTS)):
                    return
                began = time.monotonic()
                await fault(self, await self._victim())
                self.done[fault.__name__] += 1
                print(f"{fault.__name__}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
                await asyncio.sleep(self.rng.uniform(0.3, 1.0))
                await self.all_there()

    async def _victim(self) -> int:
        members = list(self.processes)
        if self.rng.random() < 0.5:
            return self.rng.choice(members)
        client = self.client(members[0])
        with contextlib.suppress(StoreError):
            leader = (await client.status((ip_of(members[0]), CLIENT_PORT)))["leader"]
            members = [leader] if leader in members else members
        await client.close()
        return self.rng.choice(members)

    async def all_there(self) -> None:
        """A majority must never be down for two reasons at once: the next fault waits for the end of this one."""
        client = self.client(next(iter(self.processes)))
        try:
            for member in self.processes:
                await _until_done(lambda m=member: client.hash((ip_of(m), CLIENT_PORT)))
            await _until_done(client.read_index)
        finally:
            await client.close()

    async def compact(self, stop: asyncio.Event, witnesses: list[Follower]) -> None:
        """Watches may fall behind it and are told so, but never all witnesses: what nobody saw cannot be judged."""
        client = self.client(1)
        while not stop.is_set():
            await asyncio.sleep(0.2)
            with contextlib.suppress(StoreError):
                revision = await client.read_index()
                seen = covered(watch for witness in witnesses for watch in witness.watches)
                if revision > 150 and seen > 1:
                    await client.compact(min(revision - 120, seen))
                    self.done["compaction"] += 1
        await client.close()

    # --- the run

    async def run(self, seconds: float) -> dict[str, Any]:
        for member in self.addresses:
            self.start(member)
        await self.all_there()
        think_s, members = 0.004, list(self.addresses)
        recorders = [
            Recorder(n, self.client(members[n % 3]), random.Random(self.rng.randrange(1 << 30)), think_s)
            for n in range(CLIENTS)
        ]
        followers = [self._follower(n) for n in range(5)]
        enough, stop, ends = asyncio.Event(), asyncio.Event(), asyncio.Event()
        watching = [asyncio.create_task(f.run(ends, stretches=n >= WITNESSES)) for n, f in enumerate(followers)]
        work = [asyncio.create_task(r.run(stop)) for r in recorders]
        work.append(asyncio.create_task(self.compact(stop, followers[:WITNESSES])))
        nemesis = asyncio.create_task(self.nemesis(enough))
        began = time.monotonic()
        asyncio.get_running_loop().call_later(seconds, enough.set)
        # Load goes on as long as there are faults: a fault that nobody calls on never comes.
        done, _ = await asyncio.wait([nemesis, *work, *watching], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        stop.set()
        await asyncio.wait_for(asyncio.gather(*work), 120)
        lasted_s = time.monotonic() - began
        hashes = await self._agree()
        await asyncio.sleep(1.5)  # the watches get the rest, and their progress
        ends.set()
        for task in watching:
            task.cancel()
        for result in await asyncio.gather(*watching, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        return self._judge(recorders, followers, lasted_s, hashes)

    def _follower(self, number: int) -> Follower:
        client = self.client(1 + number % 3, timeout_s=10)

        def wrote(value: bytes, when: float) -> None:
            self.seen[value] = min(when, self.seen.get(value, when))

        return Follower(f"watch{number}", client, random.Random(self.rng.randrange(1 << 30)), wrote)

    async def _agree(self) -> dict[int, list[int]]:
        await self.all_there()
        client = self.client(next(iter(self.processes)), timeout_s=15)
        hashes: dict[int, list[int]] = {}
        for _ in range(300):
            hashes = {m: list(await client.hash((ip_of(m), CLIENT_PORT))) for m in self.processes}
            if len({tuple(h[:2]) for h in hashes.values()}) == 1:
                break
            await asyncio.sleep(0.1)
        else:
            self.problems.append(f"the members' states differ: {hashes}")
        await client.close()
        return hashes

    def _judge(
        self, recorders: list[Recorder], followers: list[Follower], lasted_s: float, hashes: dict[int, list[int]]
    ) -> dict[str, Any]:
        operations = [o for recorder in recorders for o in recorder.operations]
        watches = [w for f in followers for w in f.watches]
        for o in operations:
            if o.kind == "read" and o.value is not None:
                self.seen[o.value] = min(o.end, self.seen.get(o.value, o.end))
        problems, log = check_streams(watches)
        problems += check_reliable(watches, log) + check_previous(log) + check_against(operations, log)
        problems += check_revisions(operations) + check_linearizable(operations, self.seen)
        problems += [torn for recorder in recorders for torn in recorder.torn_pairs] + self.problems
        known = sum(o.known for o in operations)
        if known < LEAST_PER_S * lasted_s:
            problems.append(f"too little load to mean anything: {known} operations in {lasted_s:.0f} s")
        return {
            "seconds": round(lasted_s, 1), "operations": known, "unknown": len(operations) - known,
            "events": sum(len(changes) for changes in log.values()), "watches": len(watches),
            "compacted_watches": sum(bool(w.compacted_at) for w in watches), "faults": dict(self.done),
            "settings": self.settings, "hash": next(iter(hashes.values()), []), "problems": problems[:20],
            "problem_count": len(problems),
        }  # fmt: skip


async def _until_done(what: Callable[[], Awaitable[Any]], timeout_s: float = 60) -> Any:
    until = time.monotonic() + timeout_s
    while True:
        try:
            return await what()
        except StoreError as error:
            if time.monotonic() > until or error.code == "corrupt":
                raise
            if any(text in str(error) for text in ("member not found", "already exist", "is none)")):
                return None  # an earlier attempt was done after all
            await asyncio.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    place = Place(arguments.name, arguments.root)
    try:
        for member in (1, 2, 3):
            place.add(member)
        # The clients live in the switch's namespace: this process enters it, its children have their own.
        _enter(f"/run/netns/{place.switch}")
        pki = arguments.root / "pki"
        pki.mkdir()
        chaos = Chaos(place, random.Random(arguments.seed), Pki(pki))
        try:
            report = asyncio.run(chaos.run(arguments.seconds))
        finally:
            for process in chaos.processes.values():
                process.kill()
                process.wait()
    finally:
        place.remove()
    print(json.dumps({"seed": arguments.seed, **report}))
    return 1 if report["problems"] else 0


def _enter(namespace: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(namespace, os.O_RDONLY)
    if libc.setns(fd, 0x40000000):
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
