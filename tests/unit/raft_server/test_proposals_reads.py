"""What waiters of writes and reads are told, and that they are told once."""

from __future__ import annotations

from typing import Any

import pytest

from raft.core.errors import NotLeader as CoreNotLeader
from raft.core.errors import ProposalDropped
from raft.core.types import Proposed
from raft.errors import NotLeader, OutcomeUnknown, StoreError, TooManyRequests, Unavailable
from raft.proposals import ENTRY_COMMANDS, Proposals
from raft.reads import GIVE_UP_TICKS, RETRY_TICKS, ReadBarrier
from raft.wire import pack, unpack


class Log:
    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.term = 5
        self.error: Exception | None = None

    def propose(self, payloads: list[bytes]) -> Proposed:
        if self.error is not None:
            raise self.error
        self.entries += [unpack(p) for p in payloads]
        return Proposed(self.term, len(self.entries), len(self.entries))


def made(max_pending: int = 10_000) -> tuple[Proposals, Log, list[Any]]:
    log, told = Log(), []
    return Proposals(log.propose, b"me", lambda: None, max_pending), log, told


def test_commands_share_an_entry_and_get_their_own_results() -> None:
    proposals, log, told = made()
    for i in range(3):
        proposals.submit(pack(["txn", i]), told.append)
    proposals.flush()
    [[_, origin, sequence, commands]] = log.entries
    assert commands == [["txn", 0], ["txn", 1], ["txn", 2]]
    proposals.applied(b"another life", sequence, [1, 2, 3])
    assert told == [] and proposals.pending == 3
    proposals.applied(origin, sequence, ["a", "b", "c"])
    proposals.applied(origin, sequence, ["a", "b", "c"])
    assert told == ["a", "b", "c"] and proposals.pending == 0


def test_entries_are_bounded() -> None:
    proposals, log, told = made()
    for _ in range(ENTRY_COMMANDS + 1):
        proposals.submit(pack(1), told.append)
    for _ in range(4):
        proposals.submit(pack(b"x" * 500_000), told.append)
    proposals.flush()
    assert [len(commands) for *_, commands in log.entries] == [ENTRY_COMMANDS, 3, 2]


def test_a_later_term_means_lost_for_certain() -> None:
    proposals, _log, told = made()
    proposals.submit(pack(1), told.append)
    proposals.flush()
    proposals.passed(5)
    assert told == []
    proposals.passed(6)
    assert [type(e) for e in told] == [Unavailable] and proposals.pending == 0


@pytest.mark.parametrize(
    ("error", "expected"), [(CoreNotLeader(3), NotLeader), (ProposalDropped("full"), TooManyRequests)]
)
def test_refused_before_it_is_in_the_log(error: Exception, expected: type[StoreError]) -> None:
    proposals, log, told = made()
    log.error = error
    proposals.submit(pack(1), told.append)
    proposals.flush()
    assert [type(e) for e in told] == [expected]
    assert getattr(told[0], "leader", 3) == 3


def test_overload_and_replaced_state() -> None:
    proposals, _, told = made(max_pending=2)
    proposals.submit(pack(1), told.append)
    proposals.submit(pack(1), told.append)
    with pytest.raises(TooManyRequests, match="too many requests"):
        proposals.submit(pack(1), told.append)
    proposals.flush()
    proposals.forget()
    assert [type(e) for e in told] == [OutcomeUnknown] * 2 and proposals.pending == 0


class Asked:
    def __init__(self) -> None:
        self.contexts: list[bytes] = []
        self.error: Exception | None = None

    def __call__(self, context: bytes) -> None:
        self.contexts.append(context)
        if self.error is not None:
            raise self.error


def test_reads_share_a_round_and_wait_until_applied() -> None:
    asked, told = Asked(), []
    barrier = ReadBarrier(asked, b"n", lambda: None)
    barrier.wait(lambda e: told.append(("first", e)))
    barrier.wait(lambda e: told.append(("second", e)))
    barrier.start()
    barrier.wait(lambda e: told.append(("third", e)))
    barrier.start()
    assert len(asked.contexts) == 1, "a read that came after the question needs a question of its own"
    barrier.answered(7, b"somebody else's")
    barrier.answered(7, asked.contexts[0])
    barrier.advance(6)
    assert told == []
    barrier.advance(7)
    assert told == [("first", None), ("second", None)]
    barrier.answered(7, asked.contexts[1])
    barrier.advance(7)
    assert told[2:] == [("third", None)]


def test_a_round_without_answer_is_asked_again_and_given_up() -> None:
    asked, told = Asked(), []
    asked.error = CoreNotLeader()
    barrier = ReadBarrier(asked, b"n", lambda: None)
    barrier.wait(told.append)
    barrier.start()
    for _ in range(RETRY_TICKS):
        barrier.tick()
    assert len(set(asked.contexts)) == 2
    for _ in range(GIVE_UP_TICKS):
        barrier.tick()
    assert [type(e) for e in told] == [Unavailable]
    barrier.answered(1, asked.contexts[-1])
    barrier.advance(1)
    assert len(told) == 1
