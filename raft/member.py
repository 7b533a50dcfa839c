"""One member's parts, joined: consensus, replicated state, watches, disk, peers. IO on the event loop.

client port --> ClientService --> Member.propose --> Engine --> Applier --> WatchService --> client port
                                                        |             |
                                                  WAL, peers       Flusher --> LMDB
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from raft.applier import NOSPACE, Applier
from raft.config import StateConfig
from raft.core.types import ConfChange, ConfState, Entry, Role, SnapshotMeta, SoftState
from raft.engine import Engine, EngineParts, OpenLog
from raft.errors import Corrupt, NoSpace, StoreError, Unavailable
from raft.flusher import Flusher
from raft.metrics import Metrics
from raft.mvcc.backend import SUB_BITS
from raft.mvcc.record import Written
from raft.mvcc.store import Mvcc
from raft.mvcc.types import Op
from raft.peers import Peers
from raft.snapshot_stream import SnapshotSender, put_in_place
from raft.storage.backend_lmdb import LmdbBackend
from raft.storage.identity import StateDirectory
from raft.transport import client_context
from raft.watch_service import WatchService
from raft.wire import Hello, pack

log = logging.getLogger(__name__)
SLOW_APPLY_S = 0.1
HASH_WAIT_S = 5.0


class MemberRemoved(StoreError):
    """This member was removed from its group for good."""


def _settling(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    """Gives it the result, or the StoreError, that comes; unless nobody waits any more."""

    def done(result: Any) -> None:
        if future.done():
            return
        if isinstance(result, StoreError):
            future.set_exception(result)
        else:
            future.set_result(result)

    return done


class Member:
    def __init__(
        self,
        config: StateConfig,
        directory: StateDirectory,
        opened: OpenLog,
        metrics: Metrics,
        close_clients: Callable[[], None],
    ) -> None:
        """Opens the state and checks it against the log. Raises Corrupt. Needs a running loop."""
        self.config = config
        self.id = directory.identity.member_id
        self.clock = time.monotonic
        self.metrics = metrics
        self.directory = directory
        self._close_clients = close_clients
        self._loop = asyncio.get_running_loop()
        self._catching_up = False
        self._alarming = False
        self._leader = 0
        self.installing = False
        """A leader's state is being taken over."""
        if opened.received is not None:
            put_in_place(directory.path, directory.backend, opened.received)
        self.backend, self.applier = self._open()
        self.watches = WatchService(self.applier.store, self._schedule_catch_up)
        self.consensus: Engine = opened.engine(self._engine_parts())
        tls = None if config.peer_tls is None else client_context(config.peer_tls)
        self.flusher = self._new_flusher()
        hello = Hello("snapshot", directory.identity.cluster_id, self.id)
        self._snapshots = SnapshotSender(directory.path, self.flusher, tls, hello, self._snapshot_sent)
        self.peers = self._new_peers(tls)
        self.peers.set_members(self.applier.members.addresses)

    def _engine_parts(self) -> EngineParts:
        return EngineParts(
            self.id,
            self.config,
            self.applier.applied,
            self.applier.members.addresses,
            self,
            lambda messages: self.peers.send(messages),
            self.metrics.wal_fsync.observe,
        )

    def _new_flusher(self) -> Flusher:
        return Flusher(
            lambda: self.backend,
            self._flush_begins,
            self._flush_ended,
            self.metrics.backend_commit.observe,
            self.metrics.backend_snapshots.observe,
            interval_s=self.config.flush_interval_s,
            max_bytes=self.config.flush_bytes,
        )

    def _new_peers(self, tls: ssl.SSLContext | None) -> Peers:
        return Peers(
            self.id,
            self.directory.identity.cluster_id,
            tls,
            self._unreachable,
            self._snapshots.send,
            snapshot_lost=lambda member: self._snapshot_sent(member, False),
            round_trip=lambda member, s: self.metrics.peer_round_trip.labels(f"{member:x}").observe(s),
            removed=self._retire,
        )

    def _open(self) -> tuple[LmdbBackend, Applier]:
        backend = LmdbBackend(self.directory.backend, map_bytes=self.config.map_bytes)
        try:
            applier = Applier(backend, self.clock, self._committed, self._answered)
            applier.mark_format()
            self._flushing_bytes = self._flushed_bytes = applier.store.bytes_in_use
            return backend, applier
        except BaseException:
            backend.close()
            raise

    @property
    def store(self) -> Mvcc:
        return self.applier.store

    # --- the state machine (see engine.StateMachine)

    def apply(self, entry: Entry) -> None:
        began = time.perf_counter()
        self.applier.apply(entry)
        if time.perf_counter() - began > SLOW_APPLY_S:
            self.metrics.slow_applies.inc()

    def apply_membership(self, entry: Entry, change: ConfChange, conf: ConfState) -> None:
        was_member = self.id in self.applier.applied.conf.members()
        self.applier.apply_membership(entry, change, conf)
        log.info("membership at entry %d: voters %s, learners %s", entry.index, conf.voters, conf.learners)
        self._membership_changed(was_member)

    def _membership_changed(self, was_member: bool) -> None:
        addresses = self.applier.members.addresses
        self.peers.set_members(addresses)
        peers = {member: f"{host}:{port}" for member, (host, port, _) in addresses.items()}
        if self.id in self.applier.applied.conf.members() or not was_member:
            self.directory.save_members(peers)  # a few ms, as often as the membership changes
            return
        self._retire()

    def _retire(self) -> None:
        """We applied our own removal; or, as the leader stops sending to whom it removes, another member says so."""
        if self.directory.identity.retired:
            return
        self.directory.retire()
        # The others learn from us that it is committed, if we led.
        self._loop.call_later(1.0, self.consensus.fail, MemberRemoved(f"member {self.id} was removed from its group"))

    async def install(self, meta: SnapshotMeta) -> None:
        self.installing = True
        try:
            await self._install(meta)
        finally:
            self.installing = False

    async def _install(self, meta: SnapshotMeta) -> None:
        async with self.flusher.paused():
            self._close_clients()
            self.watches.hub.cancel_all()
            was_member = self.id in self.applier.applied.conf.members()
            self.backend.close()
            if not put_in_place(self.directory.path, self.directory.backend, meta):
                raise Corrupt(f"the state at {meta.index} that was received is gone")
            self.backend, self.applier = await self._loop.run_in_executor(None, self._open)
            if self.applier.applied[:2] != meta[:2]:
                raise Corrupt(f"the state that was received is at {self.applier.applied.index}, not {meta.index}")
            self.watches = WatchService(self.applier.store, self._schedule_catch_up)
            self._membership_changed(was_member)
        log.info("took over the leader's state at entry %d", meta.index)

    def led_by(self, soft: SoftState, term: int) -> None:
        leases = self.applier.store.leases
        if soft.role is Role.LEADER:
            leases.promote(self.clock(), self.config.election_ticks * self.config.tick_ms / 1000)
        else:
            leases.demote()
        if soft.leader != self._leader:
            log.info("term %d: %s", term, f"member {soft.leader} leads" if soft.leader else "nobody leads")
            if soft.leader:
                self.metrics.leader_changes.inc()
        self._leader = soft.leader

    def _committed(self, revisions: list[list[Written]]) -> None:
        if len(self.watches.hub):
            previous = self.watches.hub.wants_previous
            for writes in revisions:
                events = self.store.events(writes, with_previous=previous)
                self.watches.commit(writes[0][0] >> SUB_BITS, events)

    def _answered(self, origin: bytes, sequence: int, results: list[Any]) -> None:
        self.consensus.answered(origin, sequence, results)

    # --- requests

    def admit(self, command: bytes, then: Sequence[Op], otherwise: Sequence[Op]) -> None:
        """The space quota of a transaction. Raises NoSpace, and then raises the alarm for the whole group."""
        full = self.space_in_use() + len(command) > self.config.quota_backend_bytes
        if not (full or self.applier.alarms) or not self.consensus.is_leader:
            return
        if not any(op[0] == "put" for op in (*then, *otherwise)):
            return
        if self.applier.alarms:
            self.applier.refuse_by_alarm((("put",),), ())
        if full:
            if not self._alarming:
                self._alarming = True
                self.propose(pack(("alarm", self.id, NOSPACE, True)), self._alarmed)
            raise NoSpace

    def space_in_use(self) -> int:
        """What the quota is held against: pages that hold something, and what is not written to them yet.

        Records alone would say too little: a value of 2,100 bytes takes a page of 4,096.
        """
        return max(self.store.bytes_in_use, self.backend.used_bytes + self.store.bytes_in_use - self._flushed_bytes)

    def _alarmed(self, _: Any) -> None:
        self._alarming = False
        log.error("out of space: %d bytes in use; the NOSPACE alarm is on", self.space_in_use())

    def propose(self, command: bytes, done: Callable[[Any], None]) -> None:
        """``done(result or StoreError)``. Raises Unavailable."""
        self.consensus.submit(command, done)

    async def run_command(self, command: tuple[Any, ...]) -> Any:
        """Its result, once applied here. Raises what it raised there."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.propose(pack(command), _settling(future))
        return await future

    async def read_barrier(self) -> None:
        """What was committed before this call is applied here after it. Raises Unavailable."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.consensus.read(_settling(future))
        await future

    async def hash_at(self, revision: int) -> tuple[int, int, int]:
        """See Mvcc.hash_steps; waits a little for ``revision``. Raises FutureRevision, Compacted."""
        until = self._loop.time() + HASH_WAIT_S
        while self.store.revision < revision and self._loop.time() < until:  # noqa: ASYNC110 - a rare question
            await asyncio.sleep(0.01)
        store = self.store
        steps = store.hash_steps(revision)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                found: tuple[int, int, int] = done.value
                return found
            await asyncio.sleep(0)
            if self.store is not store:
                raise Unavailable("etcdserver: the state was replaced by a leader's; ask again")

    def leader_address(self) -> tuple[str, int]:
        """Where clients find the leader; ("", 0) if none is known."""
        address = self.applier.members.addresses.get(self.consensus.leader)
        return ("", 0) if address is None else (address[0], address[2])

    @asynccontextmanager
    async def copied(self, name: str) -> AsyncIterator[tuple[Path, SnapshotMeta]]:
        """A copy of the state in a directory that is gone afterwards."""
        directory = self.directory.path / "outgoing" / name
        try:
            yield directory, await self.flusher.copy(directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        status = self.consensus.status()
        applier = self.applier
        return {
            "member_id": self.id,
            "cluster_id": applier.cluster_id,
            "leader": status.leader,
            "role": status.role.name.lower(),
            "learner": self.id in status.conf.learners,
            "term": status.term,
            "commit": status.commit,
            "applied": applier.applied.index,
            "revision": applier.store.revision,
            "compacted": applier.store.compacted,
            "keys": len(applier.store),
            "leases": len(applier.store.leases),
            "watches": len(self.watches.hub),
            "db_size_bytes": self.backend.size_bytes(),
            "db_in_use_bytes": self.space_in_use(),
            "quota_bytes": self.config.quota_backend_bytes,
            "alarms": applier.alarms,
            "connected": self.peers.connected(),
            "match": {member: peer.match for member, peer in status.progress.items()},
        }

    # --- callbacks

    def _schedule_catch_up(self) -> None:
        if not self._catching_up:
            self._catching_up = True
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._catching_up = False
        if self.watches.catch_up():
            self._catching_up = True
            self._loop.call_later(0.001, self._catch_up)

    def _unreachable(self, member: int) -> None:
        self.consensus.unreachable(member)

    def _snapshot_sent(self, member: int, ok: bool) -> None:
        if not ok:
            self.metrics.snapshot_send_failures.inc()
        self.consensus.snapshot_sent(member, ok)

    def _flush_begins(self) -> SnapshotMeta:
        self._flushing_bytes = self.store.bytes_in_use
        return self.applier.applied

    def _flush_ended(self, meta: SnapshotMeta) -> None:
        self._flushed_bytes = self._flushing_bytes
        self.consensus.flushed(meta)

    # --- the end

    async def close(self) -> None:
        """Stop talking, make everything durable, let go."""
        await self._snapshots.close()
        await self.peers.close()
        self.consensus.stop()
        async with self.flusher.paused():
            if self.backend.is_open:
                self.backend.flush()
                self.backend.close()
