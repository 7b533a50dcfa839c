"""Majorities, simple and joint. Pure.

A joint configuration (Raft dissertation, 4.3) decides only what both of its halves decide, so every function here
takes the two halves and an empty half agrees with everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import IntEnum

UNBOUNDED = 1 << 62
"""What an empty set of voters has "acknowledged"."""


class Vote(IntEnum):
    PENDING = 0
    WON = 1
    LOST = 2


def majority(n: int) -> int:
    return n // 2 + 1


def _half_acked(voters: Collection[int], acked: Callable[[int], int]) -> int:
    if not voters:
        return UNBOUNDED
    values = sorted(acked(v) for v in voters)
    return values[len(values) - majority(len(values))]


def acked_by_quorum(incoming: Collection[int], outgoing: Collection[int], acked: Callable[[int], int]) -> int:
    """The highest value that a quorum has reached. 0 if there is no voter at all."""
    value = min(_half_acked(incoming, acked), _half_acked(outgoing, acked))
    return 0 if value == UNBOUNDED else value


def _half_vote(voters: Collection[int], votes: Mapping[int, bool]) -> Vote:
    if not voters:
        return Vote.WON
    granted = sum(1 for v in voters if votes.get(v) is True)
    refused = sum(1 for v in voters if votes.get(v) is False)
    need = majority(len(voters))
    if granted >= need:
        return Vote.WON
    return Vote.LOST if len(voters) - refused < need else Vote.PENDING


def vote_result(incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]) -> Vote:
    if not incoming and not outgoing:
        return Vote.LOST
    halves = (_half_vote(incoming, votes), _half_vote(outgoing, votes))
    if Vote.LOST in halves:
        return Vote.LOST
    return Vote.PENDING if Vote.PENDING in halves else Vote.WON
