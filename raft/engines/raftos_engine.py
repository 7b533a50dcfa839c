"""The engine ``raftos``: upstream raftos 0.2.6 replicates the same store. IO.

    submit --> Proposals --> one entry at a time --> Leader.execute_command --UDP--> the others' raftos
    read ----> ReadBarrier -> rides on the next entry (or an empty one), as raftos has no read index
                                                        '--> committed --> StateMachineHook --> StateMachine.apply

What raftos does not have and this adapter supplies (docs/consensus.md keeps the list, and what stays wrong):
- one proposal at a time carrying a batch, because upstream resolves only the newest of concurrent ones;
- at the start of a term the uncommitted tail proposed again in the new term, and an empty entry, because upstream
  commits nothing behind an entry of an older term;
- reads through the log, which members that follow ask the leader for over the store's own connections;
- two heartbeats at once after a commit, so that followers apply it within a round trip, not two intervals.

Elections, votes, replication and commitment are upstream's own, with their faults: two leaders in one term are
possible, and an acknowledged write may be on no disk. Not for data that matters.
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from raft.core.errors import ConfChangeRefused, ProposalDropped
from raft.core.errors import NotLeader as CoreNotLeader
from raft.core.memory import BOOTSTRAP_INDEX
from raft.core.types import (
    ConfChange,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    PeerStatus,
    Proposed,
    Role,
    SnapshotMeta,
    SoftState,
    Status,
)
from raft.engine import EngineParts
from raft.engines.raftos_library import Library
from raft.engines.raftos_storage import Applied, Command, StateMachineHook, log_class
from raft.errors import Corrupt, TooLarge, Unavailable
from raft.proposals import Proposals
from raft.reads import ReadBarrier

log = logging.getLogger(__name__)
ENTRY_BYTES = 46 << 10
"""An entry must fit one datagram (65,507 bytes) after encryption, which makes it a third larger."""
COMPRESS_ABOVE = 4 << 10
COMMAND_BYTES = 512 << 10
"""A single command may be larger than an entry if it is small enough once compressed."""
LARGEST = ENTRY_BYTES - 256
PLAIN, DEFLATED, EMPTY = 0, 1, 2
"""Of an entry's ``d``. EMPTY begins a leader's term."""


def node_id(host: str, port: int) -> str:
    """raftos' name of a member."""
    return f"{host}:{port}"


class RaftosEngine:
    """See raft.engine.Engine."""

    def __init__(self, parts: EngineParts, library: Library, folder: str, secret: bytes) -> None:
        """Reads the log. Raises Corrupt. Needs a running loop."""
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._parts = parts
        self._library = library
        self._ids = {node_id(host, port): member for member, (host, port, _) in parts.addresses.items()}
        self._names = {member: name for name, member in self._ids.items()}
        origin = parts.id.to_bytes(8, "big") + os.urandom(8)
        self.reads = ReadBarrier(self._ask_read, origin, self.wake)
        self.proposals = Proposals(self._queue, origin, self.wake, parts.config.max_pending, entry_bytes=ENTRY_BYTES)
        self._entries: deque[bytes] = deque()
        self._in_flight: bytes | None = None
        self._announce = False
        self._asked: list[tuple[int, bytes]] = []
        self._riding: list[tuple[int, bytes]] = []
        self._task: asyncio.Task[None] | None = None
        self._seen = (SoftState(0, Role.FOLLOWER), 0)
        self._applied = parts.applied.index
        self._known = Applied()
        library.configure(
            log_path=folder,
            secret_key=secret,
            cryptor=library.cryptors.Cryptor,
            heartbeat_interval=parts.config.tick_ms / 1000,
            step_down_missed_heartbeats=parts.config.election_ticks,
            on_leader=self._leads,
            on_follower=self.wake,
        )
        library.state.StateMachine = lambda _: StateMachineHook(self._apply)
        library.state.Log = log_class(library, self._applied - BOOTSTRAP_INDEX, self._known, self.fail)
        self._node = library.server.Node((parts.addresses[parts.id][0], parts.addresses[parts.id][1]), self._loop)
        for member, (host, port, _) in parts.addresses.items():
            if member != parts.id:
                self._node.update_cluster((host, port))

    # --- raftos, looked at

    @property
    def _log(self) -> Any:
        return self._node.state.log

    def _leading(self) -> Any:
        """raftos' Leader object, if this member leads."""
        role = self._node.state.state
        return role if isinstance(role, self._library.state.Leader) else None

    @property
    def is_leader(self) -> bool:
        return self._leading() is not None

    @property
    def leader(self) -> int:
        return self._ids.get(self._library.state.State.get_leader() or "", 0)

    @property
    def term(self) -> int:
        storage = self._node.state.storage
        return int(storage.term) if storage.exists("term") else 0

    def _role(self) -> Role:
        if self.is_leader:
            return Role.LEADER
        return Role.FOLLOWER if isinstance(self._node.state.state, self._library.state.Follower) else Role.CANDIDATE

    # --- the loop

    def wake(self) -> None:
        self._awake.set()

    def fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)
        self._awake.set()

    def tick(self) -> None:
        self.reads.tick()
        self._awake.set()

    async def run(self) -> None:
        log.warning("store engine raftos: unsafe by design of that library, not for data that matters")
        await self._node.start()
        self._awake.set()
        while True:
            await self._awake.wait()
            self._awake.clear()
            if self.failed.done():
                self.failed.result()
            self._notice()
            self.reads.start()
            if not self.is_leader:
                self._lost_leadership()
                self.proposals.flush()
            elif self._in_flight is None:
                if not self._entries:
                    self.proposals.flush()
                self._next_entry()
            self.reads.advance(self._applied)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if hasattr(self._node, "transport"):
            self._node.stop()
        self._library.forget()

    def _notice(self) -> None:
        soft, term = SoftState(self.leader, self._role()), self.term
        if (soft, term) != self._seen:
            self._seen = (soft, term)
            self._parts.machine.led_by(soft, term)

    def _lost_leadership(self) -> None:
        """What was not written yet never will be; a later leader's empty entry tells those who wait (``_apply``)."""
        self._entries.clear()
        self._in_flight = None
        self._asked, self._riding = [], []
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _leads(self) -> None:
        """raftos made this member leader and has sent nothing yet."""
        entries = self._log
        first, term = entries.commit_index + 1, self.term
        tail = [entries[index]["command"] for index in range(first, entries.last_log_index + 1)]
        if tail:
            entries.erase_from(first)
        for command in tail:
            entries.write(term, command)
        entries.write(term, {"d": b"", "k": EMPTY})
        self._lost_leadership()
        self._awake.set()

    # --- proposals

    def submit(self, command: bytes, done: Callable[[Any], None]) -> None:
        if len(command) > COMMAND_BYTES:
            raise TooLarge(len(command), COMMAND_BYTES)
        if len(command) > LARGEST:
            size = len(zlib.compress(command, 1))
            if size > LARGEST:
                raise TooLarge(size, LARGEST)
        self.proposals.submit(command, done)

    def _queue(self, payloads: list[bytes]) -> Proposed:
        if not self.is_leader:
            raise CoreNotLeader(self.leader)
        self._entries.extend(payloads)
        return Proposed(self.term, 0, 0)

    def _next_entry(self) -> None:
        if self._entries:
            data, kind = self._entries.popleft(), PLAIN
        elif self._asked:
            data, kind = os.urandom(8), EMPTY  # nothing to apply: it only has to be told from others
        else:
            self._tell_commit()
            return
        self._riding, self._asked = self._asked, []
        self._in_flight = data
        self._task = self._loop.create_task(self._execute(data, kind), name="raftos-entry")

    def _tell_commit(self) -> None:
        """raftos' followers hear of a commit with the next message, and apply it at the one after that.

        Not while one is behind: to raftos each heartbeat to such a member is one more conversation about its log, and
        every one of them cuts off what another has just appended.
        """
        leader, entries = self._leading(), self._log
        if leader is None:
            return
        if self._announce and all(match == entries.last_log_index for match in entries.match_index.values()):
            leader.heartbeat()
            leader.heartbeat()
        self._announce = False

    async def _execute(self, data: bytes, kind: int) -> None:
        leader = self._leading()
        if leader is None:
            return
        if kind == PLAIN and len(data) > COMPRESS_ABOVE:
            data, kind = zlib.compress(data, 1), DEFLATED
        await leader.execute_command({"d": data, "k": kind})

    def answered(self, origin: bytes, sequence: int, results: list[Any]) -> None:
        self.proposals.applied(origin, sequence, results)

    @property
    def pending(self) -> int:
        return self.proposals.pending

    @property
    def refused(self) -> int:
        return self.proposals.failed

    # --- what was committed

    def _apply(self, command: Command) -> None:
        """Called by raftos, in order, in the middle of its handling of a message."""
        position = self._log.last_applied + 1
        entry_term = int(self._log[position]["term"])
        data = bytes(command["d"])
        kind = command["k"]
        if kind == DEFLATED:
            data = zlib.decompress(data)
        try:
            self._known.add(position, command)
            if kind == EMPTY and not data:
                # It begins its term: what was proposed in earlier ones and is not before it will never be.
                self.proposals.passed(entry_term)
            index = position + BOOTSTRAP_INDEX
            self._parts.machine.apply(Entry(entry_term, index, EntryKind.NORMAL, b"" if kind == EMPTY else data))
        except BaseException as error:
            self.fail(error)
            raise
        self._applied = index
        if data == self._in_flight:
            self._in_flight = None
            self._announce = True
            self._answer_reads(index)
        self._awake.set()

    # --- reads

    def read(self, done: Callable[[Unavailable | None], None]) -> None:
        self.reads.wait(done)

    def _ask_read(self, context: bytes) -> None:
        """Of ReadBarrier: a new round."""
        if self.is_leader:
            self._asked.append((self._parts.id, context))
            self._awake.set()
            return
        if self.leader in (0, self._parts.id):
            raise CoreNotLeader
        ask = Message(MessageKind.READ_INDEX, self.leader, self._parts.id, self.term, context=context)
        self._parts.send([ask])

    def _answer_reads(self, index: int) -> None:
        riding, self._riding = self._riding, []
        for member, context in riding:
            if member == self._parts.id:
                self._loop.call_soon(self.reads.answered, index, context)
            else:
                answer = Message(
                    MessageKind.READ_INDEX_RESP, member, self._parts.id, self.term, index=index, context=context
                )
                self._parts.send([answer])

    def step(self, messages: list[Message]) -> None:
        """Reads alone travel this way; raftos has a socket of its own."""
        for message in messages:
            if message.kind is MessageKind.READ_INDEX and self.is_leader:
                self._asked.append((message.sender, message.context))
            elif message.kind is MessageKind.READ_INDEX_RESP:
                self.reads.answered(message.index, message.context)
        self._awake.set()

    # --- members and leadership

    def status(self) -> Status:
        entries, leader = self._log, self._leading()
        progress: dict[int, PeerStatus] = {}
        if leader is not None and entries.match_index is not None:
            progress = {
                self._ids[name]: PeerStatus(
                    match + BOOTSTRAP_INDEX, entries.next_index[name] + BOOTSTRAP_INDEX, "replicate", True, False, False
                )
                for name, match in entries.match_index.items()
            }
        last = entries.last_log_index + BOOTSTRAP_INDEX
        return Status(
            id=self._parts.id,
            term=self.term,
            vote=0,
            role=self._role(),
            leader=self.leader,
            commit=max(entries.commit_index + BOOTSTRAP_INDEX, self._applied),
            applied=self._applied,
            persisted=BOOTSTRAP_INDEX,
            first_index=BOOTSTRAP_INDEX + 1,
            last_index=last,
            conf=self._parts.applied.conf,
            transferee=0,
            progress=progress,
        )

    def propose_membership(self, change: ConfChange) -> Proposed:
        raise ConfChangeRefused("store engine raftos: its members are fixed when the cluster is made")

    def transfer_leader(self, to: int) -> None:
        raise ProposalDropped("store engine raftos cannot hand leadership over")

    # --- what raftos has no use for

    def unreachable(self, member: int) -> None:
        """Its own datagrams tell it nothing either."""

    def disconnected(self, member: int) -> None:
        """It waits for its own time-out."""

    def snapshot_sent(self, member: int, ok: bool) -> None:
        raise Corrupt("store engine raftos has no snapshots")

    def flushed(self, meta: SnapshotMeta) -> None:
        """It has no snapshots: the log stays."""
