"""The one door between the store and whatever makes its members agree. Pure: types alone.

    commands, reads, ticks, peers' messages --> Engine --> committed entries, in order, once --> StateMachine

Two fulfil it, chosen by ``StateConfig.engine``: ``native`` (raft.consensus over raft.core) and ``raftos``
(raft.engines.raftos_engine over an upstream library). Nothing else in the store knows which of them runs, and an engine
knows nothing of keys, revisions and clients.

What an engine promises (docs/consensus.md says which of them keeps what):
- an entry that was applied on one member is applied on every member, at the same index, once, after the same entries;
- ``submit``'s waiter hears of its result only when the entry is durable on a majority;
- ``read``'s waiter is called when everything that was acknowledged before the call is applied here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from raft.config import Address, StateConfig
from raft.core.types import ConfChange, ConfState, Entry, Message, Proposed, SnapshotMeta, SoftState, Status
from raft.errors import Unavailable


class StateMachine(Protocol):
    """What committed entries are applied to."""

    def apply(self, entry: Entry) -> None: ...

    def apply_membership(self, entry: Entry, change: ConfChange, conf: ConfState) -> None: ...

    async def install(self, meta: SnapshotMeta) -> None:
        """Become the state that was received for ``meta``; the log says so durably already."""

    def led_by(self, soft: SoftState, term: int) -> None:
        """Who leads, or this member's role, changed."""


class Engine(Protocol):
    """Everything happens on one event loop; nothing here blocks but ``stop``."""

    failed: asyncio.Future[None]
    """Set when the member cannot go on, and never cleared."""

    async def run(self) -> None:
        """Until cancelled, or raises what the member cannot go on from."""

    def stop(self) -> None:
        """Make durable what was handed to the log, and close it. Blocks."""

    def tick(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...

    # --- propose a batch, learn what was committed

    def submit(self, command: bytes, done: Callable[[Any], None]) -> None:
        """``done`` gets the result or a StoreError. Many commands share an entry. Raises Unavailable, TooLarge."""

    def answered(self, origin: bytes, sequence: int, results: list[Any]) -> None:
        """The state machine has applied an entry with these results."""

    # --- linearizable reads

    def read(self, done: Callable[[Unavailable | None], None]) -> None:
        """``done(None)`` once this member has all that was committed before. Raises Unavailable."""

    # --- members and leadership

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader(self) -> int:
        """Who leads, 0 if nobody is known to."""

    @property
    def term(self) -> int: ...

    def status(self) -> Status: ...

    def propose_membership(self, change: ConfChange) -> Proposed:
        """Raises core.errors.NotLeader, ProposalDropped, ConfChangeRefused."""

    def transfer_leader(self, to: int) -> None:
        """Raises core.errors.NotLeader, ProposalDropped."""

    # --- the wire and the disk

    def step(self, messages: list[Message]) -> None:
        """From other members. Raises core.errors.RaftError, which the member cannot go on from."""

    def unreachable(self, member: int) -> None:
        """A message to it was lost for sure."""

    def disconnected(self, member: int) -> None:
        """The connection from it broke: if it leads, it has probably ended. A hint, nothing more."""

    def snapshot_sent(self, member: int, ok: bool) -> None: ...

    def flushed(self, meta: SnapshotMeta) -> None:
        """The state at ``meta`` is durable outside the log: what is far enough behind it may go."""

    @property
    def pending(self) -> int:
        """Commands that wait for a commit."""

    @property
    def refused(self) -> int:
        """Commands that were refused or lost."""


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What an engine works with, from the member it belongs to."""

    id: int
    config: StateConfig
    applied: SnapshotMeta
    """How far the state is applied already."""
    addresses: dict[int, Address]
    machine: StateMachine
    send: Callable[[list[Message]], None]
    """Over the framed, authenticated connections between members."""
    observe_sync: Callable[[float], None]


class OpenLog(Protocol):
    """A member's log, opened and locked, before there is an engine to use it."""

    @property
    def received(self) -> SnapshotMeta | None:
        """The state that a leader sent and that the log refers to: it may have to be put in place first."""

    def engine(self, parts: EngineParts) -> Engine:
        """Once. Raises errors.Corrupt if the log and ``parts.applied`` do not belong together. Needs a running loop."""

    def close(self) -> None:
        """Only if ``engine`` was not called or failed."""
