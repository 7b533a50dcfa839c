"""The values that cross the border of the consensus core. Pure.

Everything has a wire form (``to_wire``/``from_wire``) of plain tuples, ints, bytes and None, so that the shell can
hand it to msgpack; the core itself encodes nothing but :class:`ConfChange`, which travels inside an entry's data.

Member ids are ints > 0; 0 means "nobody". Indexes and terms start at 1; 0 means "before the log".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from raft.core.errors import ConfChangeRefused

NOBODY = 0
NO_ANSWER = 1


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class EntryKind(IntEnum):
    NORMAL = 0
    CONF_CHANGE = 1


class MessageKind(IntEnum):
    """Values are part of the wire protocol: never renumber."""

    PRE_VOTE = 1
    PRE_VOTE_RESP = 2
    VOTE = 3
    VOTE_RESP = 4
    APPEND = 5
    APPEND_RESP = 6
    HEARTBEAT = 7
    HEARTBEAT_RESP = 8
    SNAPSHOT = 9
    TIMEOUT_NOW = 10
    READ_INDEX = 11
    READ_INDEX_RESP = 12


class Entry(NamedTuple):
    """One slot of the log. An empty ``data`` of kind NORMAL is a new leader's no-op."""

    term: int
    index: int  # type: ignore[assignment]  # Raft's word; tuple.index is never used on an entry
    kind: int
    data: bytes

    def to_wire(self) -> tuple[int, int, int, bytes]:
        return (self.term, self.index, self.kind, self.data)

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> Entry:
        """Raises ValueError, TypeError."""
        term, index, kind, data = wire
        if not (type(term) is type(index) is int and type(kind) in (int, EntryKind) and type(data) is bytes):
            raise ValueError("an entry has a field of the wrong type")
        return cls(term, index, kind, data)


ENTRY_OVERHEAD_BYTES = 16
"""What an entry costs beside its data, for size limits."""


def entry_bytes(entry: Entry) -> int:
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


class HardState(NamedTuple):
    """What must be durable before any answer that depends on it is sent."""

    term: int = 0
    vote: int = NOBODY
    commit: int = 0

    def to_wire(self) -> tuple[int, int, int]:
        return (self.term, self.vote, self.commit)

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> HardState:
        """Raises ValueError, TypeError."""
        term, vote, commit = wire
        if not type(term) is type(vote) is type(commit) is int:
            raise ValueError("a hard state has a field of the wrong type")
        return cls(term, vote, commit)


class SoftState(NamedTuple):
    """Volatile: who leads, and what we are."""

    leader: int
    role: Role


class ConfState(NamedTuple):
    """A membership. Joint while ``voters_outgoing`` is not empty. Ids are sorted."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False

    def members(self) -> tuple[int, ...]:
        """Everybody that takes part, sorted."""
        return tuple(sorted({*self.voters, *self.learners, *self.voters_outgoing, *self.learners_next}))

    def to_wire(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]:
        return (self.voters, self.learners, self.voters_outgoing, self.learners_next, self.auto_leave)

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> ConfState:
        return cls(tuple(wire[0]), tuple(wire[1]), tuple(wire[2]), tuple(wire[3]), bool(wire[4]))


class SnapshotMeta(NamedTuple):
    """The state machine after applying ``index`` (of ``term``), with the membership as of then."""

    index: int = 0  # type: ignore[assignment]
    term: int = 0
    conf: ConfState = ConfState()

    def to_wire(self) -> tuple[Any, ...]:
        return (self.index, self.term, self.conf.to_wire())

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> SnapshotMeta:
        """Raises ValueError, TypeError."""
        index, term, conf = wire
        found = cls(index, term, ConfState.from_wire(conf))
        ids = (*found.conf.voters, *found.conf.learners, *found.conf.voters_outgoing, *found.conf.learners_next)
        if not all(type(n) is int for n in (index, term, *ids)):
            raise ValueError("a snapshot has a field of the wrong type")
        return found


class Snapshot(NamedTuple):
    """``data`` is opaque to the core; a shell that streams snapshots puts a reference there."""

    meta: SnapshotMeta
    data: bytes = b""

    def to_wire(self) -> tuple[Any, ...]:
        return (self.meta.to_wire(), self.data)

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> Snapshot:
        """Raises ValueError, TypeError."""
        meta, data = wire
        if type(data) is not bytes:
            raise ValueError("a snapshot has a field of the wrong type")
        return cls(SnapshotMeta.from_wire(meta), data)


@dataclass(slots=True)
class Message:
    """One message between two members.

    - APPEND: ``index``/``log_term`` are those of the entry before ``entries``; ``commit`` is the leader's. ``hint``
      NO_ANSWER: only a refusal is answered.
    - APPEND_RESP: ``index`` is the last entry known to match, or (``reject``) the refused ``index``, with the
      follower's best guess in ``hint``/``log_term``.
    - HEARTBEAT(_RESP): ``hint`` is the read sequence that is confirmed by the answer.
    - (PRE_)VOTE: ``index``/``log_term`` of the candidate's last entry; ``context`` says a leader asked for it.
    - READ_INDEX(_RESP): ``context`` is the reader's, ``index`` the safe read index.
    """

    kind: MessageKind
    to: int
    sender: int = NOBODY
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: list[Entry] = field(default_factory=list)
    commit: int = 0
    reject: bool = False
    hint: int = 0
    context: bytes = b""
    snapshot: Snapshot | None = None

    def to_wire(self) -> tuple[Any, ...]:
        return (
            int(self.kind),
            self.to,
            self.sender,
            self.term,
            self.log_term,
            self.index,
            tuple(e.to_wire() for e in self.entries),
            self.commit,
            self.reject,
            self.hint,
            self.context,
            None if self.snapshot is None else self.snapshot.to_wire(),
        )

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> Message:
        """Raises ValueError, TypeError: the core would choke on a field of the wrong type half-way."""
        kind, to, sender, term, log_term, index, entries, commit, reject, hint, context, snapshot = wire
        ints = type(to) is type(sender) is type(term) is type(log_term) is type(index) is type(commit) is type(hint)
        if not ints or type(hint) is not int or type(context) is not bytes:
            raise ValueError("a field has the wrong type")
        return cls(
            MessageKind(kind),
            to,
            sender,
            term,
            log_term,
            index,
            [Entry.from_wire(entry) for entry in entries],
            commit,
            bool(reject),
            hint,
            context,
            None if snapshot is None else Snapshot.from_wire(snapshot),
        )


class ConfOp(IntEnum):
    """Values are stored in the log: never renumber."""

    ADD_VOTER = 1
    ADD_LEARNER = 2
    REMOVE = 3


class ConfChange(NamedTuple):
    """A change of membership. No changes = leave the joint configuration.

    One voter added or removed (or learners alone) is applied in one step; more, or ``joint=True``, goes through a
    joint configuration which the leader leaves by itself (unless ``auto_leave=False``). ``context`` is the caller's
    (an address, say).
    """

    changes: tuple[tuple[int, int], ...] = ()
    context: bytes = b""
    joint: bool = False
    auto_leave: bool = True

    def encode(self) -> bytes:
        """The form kept in an entry: format, flags, count, then (op, id) pairs, then the context."""
        head = struct.pack("<BBH", 1, self.joint | self.auto_leave << 1, len(self.changes))
        return head + b"".join(struct.pack("<BQ", op, member) for op, member in self.changes) + self.context

    @classmethod
    def decode(cls, data: bytes) -> ConfChange:
        try:
            version, flags, count = struct.unpack_from("<BBH", data)
            if version != 1:
                raise ConfChangeRefused(f"membership change of unknown format {version}")
            changes = tuple(struct.unpack_from("<BQ", data, 4 + 9 * i) for i in range(count))
        except struct.error as e:
            raise ConfChangeRefused(f"membership change cannot be decoded: {e}") from e
        return cls(
            tuple((op, member) for op, member in changes),
            data[4 + 9 * count :],
            bool(flags & 1),
            bool(flags & 2),
        )


def add_voter(member: int, context: bytes = b"") -> ConfChange:
    return ConfChange(((ConfOp.ADD_VOTER, member),), context)


def add_learner(member: int, context: bytes = b"") -> ConfChange:
    return ConfChange(((ConfOp.ADD_LEARNER, member),), context)


def remove_member(member: int, context: bytes = b"") -> ConfChange:
    return ConfChange(((ConfOp.REMOVE, member),), context)


class Proposed(NamedTuple):
    """Where proposals went. They are committed iff the entries applied at these indexes carry this ``term``."""

    term: int
    first: int
    last: int


class ReadState(NamedTuple):
    """A read with ``context`` may be served once everything up to ``index`` is applied."""

    index: int  # type: ignore[assignment]
    context: bytes


class PeerStatus(NamedTuple):
    match: int
    next: int
    state: str
    active: bool
    learner: bool
    paused: bool


class Status(NamedTuple):
    id: int
    term: int
    vote: int
    role: Role
    leader: int
    commit: int
    applied: int
    persisted: int
    first_index: int
    last_index: int
    conf: ConfState
    transferee: int
    progress: Mapping[int, PeerStatus]
    """Per member, the leader's view; empty elsewhere."""


class LightReady(NamedTuple):
    """A Ready without what concerns the member's state."""

    messages: list[Message]
    read_states: list[ReadState]


@dataclass(slots=True)
class Ready:
    """What the shell has to do now. Numbers rise by one; do the disk work of Readys in their order.

    1. Send ``messages`` (any time from now on).
    2. If ``snapshot``: make it durable and the state machine's new state (finish or discard earlier applies first).
    3. Write ``entries`` then ``hard_state``; sync if ``must_sync``; append both to the LogStorage.
    4. Send ``persisted_messages``, call ``RawNode.on_persisted(number)``.
    5. Apply ``committed_entries`` in order (they were durable before this Ready), calling
       ``RawNode.apply_conf_change`` for each of kind CONF_CHANGE, then ``RawNode.advance_applied(index)``.
       May be done at once, in parallel with 1 to 4; not past a later Ready's snapshot.
    6. Serve ``read_states`` once applied reaches their index.
    """

    number: int
    soft_state: SoftState | None
    hard_state: HardState | None
    entries: list[Entry]
    snapshot: Snapshot | None
    committed_entries: list[Entry]
    messages: list[Message]
    persisted_messages: list[Message]
    read_states: list[ReadState]
    must_sync: bool
