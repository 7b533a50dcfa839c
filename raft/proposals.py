"""Writes on their way through the log: many callers' commands in one entry, and what became of them. Pure.

An entry's data is msgpack ``[FORMAT, origin, sequence, [command...]]``; ``origin`` names this member's present life, so
that results find their waiters and nobody else's.

What a waiter is told: its result; or, when an entry of a later term is applied first, Unavailable: the log is ordered
by term, so its own entry can never follow, and asking again is safe. Nothing, as long as neither is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from raft.core.errors import NotLeader as CoreNotLeader
from raft.core.errors import ProposalDropped, RaftError
from raft.core.types import Proposed
from raft.errors import NotLeader, OutcomeUnknown, StoreError, TooManyRequests, Unavailable
from raft.wire import array_header, pack

FORMAT = 2
READABLE = (1, FORMAT)
"""Entries of 1 hold the same commands but `checkpoint`."""
ENTRY_BYTES = 1 << 20
ENTRY_COMMANDS = 512

Waiter = Callable[[Any], None]
"""Gets the result, or the StoreError."""


class Proposals:
    def __init__(
        self,
        propose: Callable[[list[bytes]], Proposed],
        origin: bytes,
        wake: Callable[[], None],
        max_pending: int,
        *,
        entry_bytes: int = ENTRY_BYTES,
    ) -> None:
        self._propose = propose
        self.origin = origin
        self._head = pack(origin)
        self._wake = wake
        self._max_pending = max_pending
        self._entry_bytes = entry_bytes
        self._sequence = 0
        self._queue: list[tuple[bytes, Waiter]] = []
        self._flying: dict[int, tuple[int, list[Waiter]]] = {}
        self.pending = 0
        self.failed = 0

    def submit(self, command: bytes, waiter: Waiter) -> None:
        """``command`` is packed. Raises TooManyRequests when too many wait already."""
        if self.pending >= self._max_pending:
            self.refuse()
        self.pending += 1
        self._queue.append((command, waiter))
        self._wake()

    def refuse(self) -> NoReturn:
        """Nothing was proposed: safe to ask again. Raises TooManyRequests."""
        self.failed += 1
        raise TooManyRequests

    @property
    def flying(self) -> int:
        """Entries proposed whose fate is not known yet."""
        return len(self._flying)

    def flush(self) -> None:
        """Propose what has gathered, in entries of bounded size."""
        queue, self._queue = self._queue, []
        start = size = 0
        for i, (command, _) in enumerate(queue):
            if i > start and (size + len(command) > self._entry_bytes or i - start >= ENTRY_COMMANDS):
                self._propose_one(queue[start:i])
                start, size = i, 0
            size += len(command)
        if start < len(queue):
            self._propose_one(queue[start:])

    def _propose_one(self, batch: list[tuple[bytes, Waiter]]) -> None:
        self._sequence += 1
        parts = [b"\x94", pack(FORMAT), self._head, pack(self._sequence), array_header(len(batch))]
        parts += [command for command, _ in batch]
        waiters = [waiter for _, waiter in batch]
        try:
            proposed = self._propose([b"".join(parts)])
        except CoreNotLeader as error:
            self._finish(waiters, NotLeader(error.leader))
        except ProposalDropped as error:
            self._finish(waiters, TooManyRequests(f"etcdserver: too many requests ({error})"))
        except RaftError as error:
            self._finish(waiters, Unavailable(f"etcdserver: {error}"))
        else:
            self._flying[self._sequence] = (proposed.term, waiters)

    def _finish(self, waiters: list[Waiter], error: StoreError) -> None:
        self.pending -= len(waiters)
        self.failed += len(waiters)
        for waiter in waiters:
            waiter(error)

    def applied(self, origin: bytes, sequence: int, results: list[Any]) -> None:
        """An entry's commands were applied."""
        if origin != self.origin:
            return
        _, waiters = self._flying.pop(sequence, (0, []))
        self.pending -= len(waiters)
        for waiter, result in zip(waiters, results, strict=False):
            waiter(result)

    def passed(self, term: int) -> None:
        """An entry of ``term`` is being applied: what was proposed in earlier ones will never be."""
        if not self._flying:
            return
        lost = [sequence for sequence, (proposed, _) in self._flying.items() if proposed < term]
        for sequence in lost:
            self._finish(self._flying.pop(sequence)[1], Unavailable("etcdserver: leader changed"))

    def forget(self) -> None:
        """The state was replaced by a leader's: entries between were not seen, so nobody knows."""
        for sequence in list(self._flying):
            waiters = self._flying.pop(sequence)[1]
            self._finish(waiters, OutcomeUnknown("etcdserver: leader changed; the outcome is not known here"))
