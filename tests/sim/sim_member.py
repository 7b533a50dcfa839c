"""One member: the real core, a simulated disk, a state machine, and the loop a server would run around them.

As a server does, it writes Readys in order with one sync under way at a time, sends promises only after their sync,
and applies and compacts on its own schedule. All of it is forgotten at a crash, but for what the disk has synced.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from raft.core.config import Config
from raft.core.errors import NotLeader, ProposalDropped
from raft.core.memory import MemoryStorage, bootstrap_hard_state, bootstrap_meta
from raft.core.node import RawNode
from raft.core.types import (
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    LightReady,
    Message,
    MessageKind,
    Ready,
    Role,
    Snapshot,
    SnapshotMeta,
)
from tests.sim.sim_checker import Checker
from tests.sim.sim_disk import SimDisk
from tests.sim.sim_world import Clock, Network, SimFailure

SNAPSHOT_EVERY = 40
KEEP_ENTRIES = 10
FAST_APPLY_MS = (0.0, 0.0, 0.5, 5.0)


class Tuning(NamedTuple):
    pre_vote: bool = True
    spread: int = 10
    """Election time-outs differ by less than this many ticks: few make elections collide."""
    slow_apply: bool = False
    tick_ms: float = 20.0
    max_size_per_msg: int = 200
    """1: an entry a message, so that a crash can fall between any two."""


class TimeoutRng:
    """A random.Random with less luck."""

    def __init__(self, seed: int, spread: int) -> None:
        self._rng = random.Random(seed)
        self._spread = spread

    def randrange(self, start: int, stop: int, /) -> int:
        return self._rng.randrange(start, min(stop, start + self._spread))


class World(NamedTuple):
    clock: Clock
    network: Network
    rng: random.Random
    checker: Checker
    members: dict[int, SimMember]
    tuning: Tuning


class SimMember:
    def __init__(self, world: World, member: int, founders: ConfState | None) -> None:
        """A founding member knows the first membership; a later one knows nothing."""
        self.world = world
        self.id = member
        self.fsync_ms = (0.1, 2.0)
        self.apply_ms: tuple[float, ...] = (0.0, 5.0, 50.0, 300.0) if world.tuning.slow_apply else FAST_APPLY_MS
        self.up = False
        self.sync_fails: Callable[[], None] | None = None
        """Set: the next sync fails, and this is told; a member must stop then."""
        self.paused_until_ms = 0.0
        self.life = 0
        """Counts starts: what was scheduled in an earlier life is void."""
        marker = bootstrap_meta(founders) if founders else None
        self.disk = SimDisk(member, marker, bootstrap_hard_state() if founders else None)
        self._drift = world.rng.uniform(0.9, 1.1)
        self.start()

    # --- life and death

    def start(self) -> None:
        replay, snapshot = self.disk.recover()
        self.up = True
        self.sync_fails = None
        self.paused_until_ms = 0.0
        self.life += 1
        self.storage = MemoryStorage(replay.snapshot_marker, replay.hard_state, replay.entries)
        self.storage.set_snapshot(snapshot)
        self.state = int(snapshot.data or b"0")
        self.applied = replay.snapshot_marker.index
        self.conf = replay.snapshot_marker.conf
        self.writes: deque[Ready] = deque()
        self.syncing = False
        self.to_apply: deque[list[Entry]] = deque()
        self.applying = False
        self.pending: dict[int, tuple[int, Callable[[Entry | None], None]]] = {}
        self.reads: dict[bytes, int] = {}
        self.due_reads: list[tuple[int, int]] = []
        seed = self.world.rng.randrange(1 << 30)
        self.node = RawNode(
            Config(
                id=self.id,
                rng=TimeoutRng(seed, self.world.tuning.spread),
                pre_vote=self.world.tuning.pre_vote,
                heartbeat_ticks=2,
                max_size_per_msg=self.world.tuning.max_size_per_msg,
                max_inflight=6,
                max_apply_bytes=300,
                max_uncommitted_bytes=4000,
            ),
            self.storage,
        )
        self._role = Role.FOLLOWER
        self._role_term = 0
        self._commit = self.node.status().commit
        self._later(self.world.rng.uniform(0, self.world.tuning.tick_ms), self._tick)

    def crash(self) -> None:
        """A power cut."""
        self.up = False
        self.life += 1
        self.disk.crash(self.world.rng)

    def _later(self, delay_ms: float, action: Callable[[], None]) -> None:
        life = self.life

        def run() -> None:
            if not self.up or self.life != life:
                return
            rest_ms = self.paused_until_ms - self.world.clock.now_ms
            if rest_ms > 0:
                self.world.clock.after(rest_ms, run)
            else:
                action()

        self.world.clock.after(delay_ms, run)

    def pause(self, ms: float) -> None:
        """SIGSTOP: nothing runs, and everything that came meanwhile is there afterwards."""
        self.paused_until_ms = self.world.clock.now_ms + ms

    def skew(self, drift: float) -> None:
        """Its clock goes that much slower from now on (below 1: faster)."""
        self._drift = drift

    def _tick(self) -> None:
        self.node.tick()
        self._later(self.world.tuning.tick_ms * self._drift, self._tick)
        self.pump()

    # --- the loop around the core

    def pump(self) -> None:
        self._check()
        while self.node.has_ready():
            ready = self.node.light_ready() or self.node.ready()
            self._check()
            for message in ready.messages:
                self._send(message)
            for index, context in ready.read_states:
                needed = self.reads.pop(context, None)
                if needed is not None:
                    self.due_reads.append((index, needed))
            if isinstance(ready, LightReady):
                continue
            if ready.committed_entries:
                self.to_apply.append(ready.committed_entries)
            self.writes.append(ready)
        self._start_sync()
        self._start_apply()
        self._serve_reads()

    def _check(self) -> None:
        node, checker = self.node, self.world.checker
        role, term, log = node._r.role, node.term, node._r.log
        if role is Role.LEADER and (self._role, self._role_term) != (role, term):
            checker.leader(self.id, node)
        if log.committed != self._commit:
            if log.committed < self._commit:
                raise SimFailure(f"member {self.id}'s commit index goes back")
            if role is Role.LEADER:
                checker.commits(self.id, term, log.entries(self._commit + 1, log.committed + 1))
            else:
                checker.learns(self.id, log.committed, node)
            self._commit = log.committed
        self._role, self._role_term = role, term

    def _start_sync(self) -> None:
        if self.syncing or not self.writes:
            return
        batch = list(self.writes)
        self.writes.clear()
        self.syncing = True
        for ready in batch:
            if ready.snapshot is not None:
                self.disk.save_snapshot(ready.snapshot)
            self.disk.save(ready.hard_state, ready.entries)
        offset = self.disk.written
        must_sync = any(ready.must_sync for ready in batch)
        delay_ms = self.world.rng.uniform(*self.fsync_ms) if must_sync else 0.01
        self._later(delay_ms, lambda: self._synced(batch, offset if must_sync else 0))

    def _synced(self, batch: list[Ready], offset: int) -> None:
        if offset and self.sync_fails is not None:
            self.disk.sync_failed()
            self.sync_fails()  # nothing more is done or said
            return
        self.disk.synced_to(offset)
        self.syncing = False
        for ready in batch:
            if ready.snapshot is not None:
                self._install(ready.snapshot)
            if ready.entries:
                self.world.checker.logged(self.id, self._term_before(ready.entries[0].index), ready.entries)
                self.storage.append(ready.entries)
            if ready.hard_state is not None:
                self.storage.set_hard_state(ready.hard_state)
            for message in ready.persisted_messages:
                self._send(message)
        self.node.on_persisted(batch[-1].number)
        self.pump()

    def _term_before(self, index: int) -> int:
        return self.storage.term(index - 1)

    def _install(self, snapshot: Snapshot) -> None:
        self.storage.apply_snapshot(snapshot)
        if snapshot.meta.index > self.applied:
            self.to_apply = deque(b for b in self.to_apply if b[-1].index > snapshot.meta.index)
            self.state = int(snapshot.data or b"0")
            self.applied = snapshot.meta.index
            self.conf = snapshot.meta.conf
            self.world.checker.installs(self.id, self.applied, self.state)
            for _, (_, reply) in sorted(self.pending.items()):
                reply(None)
            self.pending.clear()

    # --- the state machine

    def _start_apply(self) -> None:
        if self.to_apply and not self.applying:
            self.applying = True
            self._later(self.world.rng.choice(self.apply_ms), self._apply)

    def _apply(self) -> None:
        self.applying = False
        if self.to_apply:
            for entry in self.to_apply.popleft():
                self._apply_one(entry)
            self.node.advance_applied(self.applied)
            self._maybe_snapshot()
        self.pump()

    def _apply_one(self, entry: Entry) -> None:
        if entry.index != self.applied + 1:
            raise SimFailure(f"member {self.id} is to apply {entry.index} after {self.applied}")
        self.state = zlib.crc32(entry.data, zlib.crc32(b"%d" % entry.index, self.state))
        self.applied = entry.index
        self.world.checker.applies(self.id, entry, self.state)
        if entry.kind == EntryKind.CONF_CHANGE:
            self.conf = self.node.apply_conf_change(ConfChange.decode(entry.data))
        term, reply = self.pending.pop(entry.index, (0, None))
        if reply is not None:
            reply(entry if term == entry.term else None)

    def _maybe_snapshot(self) -> None:
        if self.applied < self.storage.snapshot_index + SNAPSHOT_EVERY:
            return
        meta = SnapshotMeta(self.applied, self.storage.term(self.applied), self.conf)
        snapshot = Snapshot(meta, b"%d" % self.state)
        self.disk.save_snapshot(snapshot)
        self.storage.set_snapshot(snapshot)
        self.storage.compact(self.applied - KEEP_ENTRIES)

    def _serve_reads(self) -> None:
        due, self.due_reads = self.due_reads, []
        for index, needed in due:
            if self.applied >= index:
                self.world.checker.served_read(self.id, needed, self.applied)
            else:
                self.due_reads.append((index, needed))

    # --- clients

    def propose(self, payloads: list[bytes], reply: Callable[[Entry | None], None]) -> bool:
        """``reply`` gets each entry when it is applied here, None if it was lost. Silence: the outcome is unknown."""
        try:
            proposed = self.node.propose(payloads)
        except (NotLeader, ProposalDropped):
            return False
        for index in range(proposed.first, proposed.last + 1):
            self.pending[index] = (proposed.term, reply)
        self.pump()
        return True

    def read(self, context: bytes) -> bool:
        try:
            self.node.read_index(context)
        except NotLeader:
            return False
        self.reads[context] = self.world.checker.visible
        self.pump()
        return True

    # --- messages

    def _send(self, message: Message) -> None:
        self.world.checker.sent(message)
        world, to = self.world, message.to
        if to not in world.members:
            return
        sent = world.network.send(self.id, to, message.to_wire(), lambda wire: world.members[to].receive(wire))
        if message.kind is MessageKind.SNAPSHOT:
            ok = sent and world.members[to].up
            self._later(world.rng.uniform(5, 50), lambda: self._report(to, ok))
        elif not sent and world.rng.random() < 0.3:
            self._later(1.0, lambda: self._unreachable(to))

    def _report(self, to: int, ok: bool) -> None:
        self.node.report_snapshot(to, ok)
        self.pump()

    def _unreachable(self, to: int) -> None:
        self.node.report_unreachable(to)
        self.pump()

    def receive(self, wire: tuple[object, ...]) -> None:
        if self.up and self.paused_until_ms > self.world.clock.now_ms:
            self._later(0.0, lambda: self.receive(wire))
        elif self.up:
            self.node.step(Message.from_wire(wire))
            self.pump()
