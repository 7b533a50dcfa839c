"""The native engine (see raft.engine): propose, learn what was committed, read index, members, leadership. IO.

Drives raft.core's RawNode on the event loop:

    propose / step / tick --> RawNode --> Ready --+--> messages, at once            (send)
                                                  +--> WalWriter thread, then the messages that promise something
                                                  +--> committed entries            (StateMachine.apply, in slices)
                                                  '--> read states                  (ReadBarrier)

Invariants: entries are applied in order, once, and only when durable here; a slice of applying takes about SLICE_S;
``failed`` is set when the member cannot go on, and never cleared.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raft.core.config import Config
from raft.core.memory import MemoryStorage
from raft.core.node import RawNode
from raft.core.types import (
    ConfChange,
    Entry,
    EntryKind,
    HardState,
    LightReady,
    Message,
    MessageKind,
    Proposed,
    ReadState,
    Ready,
    Snapshot,
    SnapshotMeta,
    Status,
    entry_bytes,
)
from raft.engine import StateMachine
from raft.errors import Unavailable
from raft.proposals import Proposals
from raft.reads import ReadBarrier
from raft.wal_writer import Log, WalWriter, Write

SLICE_S = 0.003
LIGHT_BYTES = 4 << 10
"""An entry of one caller's object is no longer than that, as a rule; many callers' commands share one that is."""
ENTRIES_IN_FLIGHT = 2
"""While so many of our entries wait for a majority, further commands gather for the next. Every entry costs each member
a message, a sync and an answer: without it, many connections' commands would leave in as many small entries as the loop
has turns."""

APPLY_LAG_ENTRIES = 5_000
"""While more than these are committed and not applied here (a new leader that was behind, say), nothing is accepted."""


@dataclass(slots=True)
class _Unfinished:
    """A Ready whose promises wait for the disk. ``installed``: a snapshot's, finished by whoever installs it."""

    number: int
    synced: bool
    messages: list[Message]
    installed: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """How much log to keep: entries or bytes between markers in the WAL, and in memory behind the flushed index."""

    marker_every: int
    marker_bytes: int
    entries: int
    bytes: int


class Consensus:
    def __init__(
        self,
        config: Config,
        storage: MemoryStorage,
        wal: Log,
        machine: StateMachine,
        send: Callable[[list[Message]], None],
        *,
        keep: Keep,
        origin: bytes,
        max_pending: int,
        observe_sync: Callable[[float], None],
    ) -> None:
        """``origin`` must differ between lives of a member. Needs a running loop."""
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.node = RawNode(config, storage)
        self.storage = storage
        self.reads = ReadBarrier(self.node.read_index, origin, self.wake)
        self.proposals = Proposals(self.node.propose, origin, self.wake, max_pending)
        self._machine = machine
        self._send = send
        self._keep = keep
        self._writer = WalWriter(wal, self._durable_soon, self._failed_soon, observe_sync)
        self._in_flight = 0
        self._unfinished: deque[_Unfinished] = deque()
        self._unsaved: HardState | None = None
        self._to_apply: deque[Entry] = deque()
        self._after_apply: list[Message] = []
        self._kept: deque[tuple[int, int]] = deque()
        self._kept_bytes = 0
        self._logged_bytes = 0
        self._applied = self.node.status().applied
        self._marker = storage.first_index() - 1
        if storage.last_index() >= storage.first_index():
            self._remember(storage.entries(storage.first_index(), storage.last_index() + 1, 1 << 62))

    # --- in

    def wake(self) -> None:
        self._awake.set()

    def step(self, messages: list[Message]) -> None:
        for message in messages:
            self.node.step(message)
        self._awake.set()

    def propose_membership(self, change: ConfChange) -> Proposed:
        proposed = self.node.propose_conf_change(change)
        self._awake.set()
        return proposed

    def tick(self) -> None:
        self.node.tick()
        self.reads.tick()
        self._awake.set()

    def fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)
        self._awake.set()

    def _failed_soon(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self.fail, error)

    def _durable_soon(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self._durable, number)

    # --- what the store asks (raft.engine.Engine)

    def submit(self, command: bytes, done: Callable[[Any], None]) -> None:
        if len(self._to_apply) > APPLY_LAG_ENTRIES:
            self.proposals.refuse()
        self.proposals.submit(command, done)

    def answered(self, origin: bytes, sequence: int, results: list[Any]) -> None:
        self.proposals.applied(origin, sequence, results)

    def read(self, done: Callable[[Unavailable | None], None]) -> None:
        self.reads.wait(done)

    @property
    def is_leader(self) -> bool:
        return self.node.is_leader

    @property
    def leader(self) -> int:
        return self.node.leader

    @property
    def term(self) -> int:
        return self.node.term

    @property
    def pending(self) -> int:
        return self.proposals.pending

    @property
    def refused(self) -> int:
        return self.proposals.failed

    def status(self) -> Status:
        return self.node.status()

    def transfer_leader(self, to: int) -> None:
        self.node.transfer_leader(to)
        self._awake.set()

    def unreachable(self, member: int) -> None:
        self.node.report_unreachable(member)
        self._awake.set()

    def disconnected(self, member: int) -> None:
        self.node.report_disconnected(member)
        self._awake.set()

    def snapshot_sent(self, member: int, ok: bool) -> None:
        self.node.report_snapshot(member, ok)
        self._awake.set()

    # --- the loop

    async def run(self) -> None:
        """Until cancelled, or raises what the member cannot go on from."""
        self._writer.start()
        self._awake.set()
        while True:
            await self._awake.wait()
            self._awake.clear()
            if self.failed.done():
                self.failed.result()
            if self.proposals.flying < ENTRIES_IN_FLIGHT or not self.node.is_leader:
                self.proposals.flush()
            self.reads.start()
            while self.node.has_ready():
                light = self.node.light_ready()
                if light is None:
                    await self._handle(self.node.ready())
                else:
                    self._handle_light(light)
            apply = bool(self._to_apply)
            if apply:
                self._apply_slice()
            if apply:
                await asyncio.sleep(0)  # answers leave
            if self._after_apply:
                messages, self._after_apply = self._after_apply, []
                self._send(messages)

    def stop(self) -> None:
        """Make durable what was handed to the log, and close it. Blocks."""
        self._writer.stop()

    async def _handle(self, ready: Ready) -> None:
        if ready.soft_state is not None:
            self._machine.led_by(ready.soft_state, self.node.term)
        if ready.messages:
            if ready.committed_entries and all(_only_commits(message) for message in ready.messages):
                self._after_apply += ready.messages
            else:
                self._send(ready.messages)
        if ready.hard_state is not None:
            self._unsaved = ready.hard_state
            self.storage.set_hard_state(ready.hard_state)
        if ready.snapshot is not None:
            await self._install(ready, ready.snapshot)
        else:
            self._write(ready)
        self._to_apply.extend(ready.committed_entries)
        self._answer(ready.read_states)

    def _handle_light(self, light: LightReady) -> None:
        if light.messages:
            self._send(light.messages)
        self._answer(light.read_states)

    def _answer(self, states: list[ReadState]) -> None:
        for state in states:
            self.reads.answered(state.index, state.context)
        if states:
            self.reads.advance(self._applied)

    def _write(self, ready: Ready) -> None:
        if ready.entries:
            self.storage.append(ready.entries)
            self._remember(ready.entries)
        if not ready.must_sync and not self._in_flight:
            # Nothing in it has to survive (a commit index can be learned again): as good as durable.
            self.node.on_persisted(ready.number)
            self._send_promises(ready.persisted_messages)
            return
        self._unfinished.append(_Unfinished(ready.number, ready.must_sync, ready.persisted_messages))
        if ready.must_sync:
            write, self._unsaved = Write(ready.number, self._unsaved, ready.entries), None
            self._in_flight += 1
            if self._writer.write_now(write, light=_is_light(ready.entries)):
                self._durable(ready.number)
            else:
                self._writer.submit(write)

    def _durable(self, number: int) -> None:
        """All Readys up to ``number`` are on disk, and those after it that needed no disk."""
        unfinished, last = self._unfinished, 0
        messages: list[Message] = []
        while unfinished and (unfinished[0].number <= number or not unfinished[0].synced):
            ready = unfinished.popleft()
            self._in_flight -= ready.synced
            if ready.installed is not None:
                ready.installed.set_result(None)
                continue
            last = ready.number
            messages += ready.messages
        if last:
            self.node.on_persisted(last)
            self._send_promises(messages)
        self._awake.set()

    def _send_promises(self, messages: list[Message]) -> None:
        if messages:
            self._send(messages)

    async def _install(self, ready: Ready, snapshot: Snapshot) -> None:
        """A leader's state replaces ours: log first, then the state, then the promise.

        What was committed before and not applied yet is part of it. Nothing else is handled meanwhile.
        """
        self._to_apply.clear()
        on_disk: asyncio.Future[None] = self._loop.create_future()
        self._unfinished.append(_Unfinished(ready.number, True, [], on_disk))
        self._in_flight += 1
        self._writer.submit(Write(ready.number, self._unsaved, ready.entries, snapshot.meta, release=True))
        self._unsaved = None
        await asyncio.wait((on_disk, self.failed), return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            self.failed.result()
        self.proposals.forget()
        await self._machine.install(snapshot.meta)
        self.storage.apply_snapshot(snapshot)
        self._kept.clear()
        self._kept_bytes = 0
        self._marker = snapshot.meta.index
        self.storage.append(ready.entries)
        self._remember(ready.entries)
        self.node.on_persisted(ready.number)
        self._send_promises(ready.persisted_messages)
        self._applied = snapshot.meta.index
        self.reads.advance(self._applied)

    def _apply_slice(self) -> None:
        until = time.perf_counter() + SLICE_S
        index = 0
        while self._to_apply:
            entry = self._to_apply.popleft()
            self.proposals.passed(entry.term)
            if entry.kind == EntryKind.CONF_CHANGE:
                change = ConfChange.decode(entry.data)
                self._machine.apply_membership(entry, change, self.node.apply_conf_change(change))
            else:
                self._machine.apply(entry)
            index = entry.index
            if time.perf_counter() > until:
                break
        self.node.advance_applied(index)
        self._applied = index
        self.reads.advance(index)
        self._awake.set()

    # --- the log's length

    def _remember(self, entries: list[Entry]) -> None:
        kept = self._kept
        while entries and kept and kept[-1][0] >= entries[0].index:
            self._kept_bytes -= kept.pop()[1]
        for entry in entries:
            size = entry_bytes(entry)
            kept.append((entry.index, size))
            self._kept_bytes += size
            self._logged_bytes += size

    def flushed(self, meta: SnapshotMeta) -> None:
        """The state at ``meta`` is durable outside the log: what is far enough behind it may go."""
        self.storage.set_snapshot(Snapshot(meta))
        keep = self._keep
        if meta.index - self._marker >= keep.marker_every or self._logged_bytes >= keep.marker_bytes:
            self._marker = meta.index
            self._logged_bytes = 0
            self._writer.submit(Write(0, None, [], meta, release=True))
        drop = 0
        kept = self._kept
        while kept and kept[0][0] <= meta.index:
            if len(kept) <= keep.entries and self._kept_bytes <= keep.bytes:
                break
            drop, size = kept.popleft()
            self._kept_bytes -= size
        if drop:
            self.storage.compact(drop)


def _is_light(entries: list[Entry]) -> bool:
    """So little that nobody else is likely to wait meanwhile."""
    return len(entries) <= 1 and sum(len(entry.data) for entry in entries) <= LIGHT_BYTES


def _only_commits(message: Message) -> bool:
    """It tells a follower what is committed, nothing else: whoever waits for the result here comes first."""
    return message.kind is MessageKind.APPEND and not message.entries
