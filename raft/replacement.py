"""How a member whose disk was lost is replaced: one small step at a time. Pure; the steps are done elsewhere.

The machine comes back with an empty directory and asks to join (a request with a nonce of its own). Its old member id
is gone with its disk: votes and entries it acknowledged may be missing now, so that id must never speak again.

    request ──old member of that host──> Remove ──> AddLearner ──granted──> Promote (refused until caught up) ──> Done

Invariants: a member id is never reused (ids only grow, see `last_id`); a step is derived from the membership as it is,
so a supervisor that dies between two steps is continued by the next one. Source: Raft dissertation, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    id: int
    host: str
    learner: bool


@dataclass(frozen=True, slots=True)
class Request:
    """`host` wants to be a member; `nonce` tells this life of its disk from earlier ones."""

    host: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to the request with this nonce: be this member."""

    nonce: str
    member_id: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Write `last_id` down first: once the member with the greatest id is out of the list, nothing else tells of it."""

    member_id: int
    last_id: int


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Write the grant first, then add the member: a grant without a member is repeated, never the other way round."""

    member_id: int
    host: str


@dataclass(frozen=True, slots=True)
class Promote:
    member_id: int


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing left to do: the request may be deleted."""


Step = Remove | AddLearner | Promote | Done


def next_step(members: Sequence[Member], request: Request, grant: Grant | None, last_id: int) -> Step:
    """What to do next for one request. `last_id` is the greatest member id ever used."""
    granted = grant.member_id if grant is not None and grant.nonce == request.nonce else 0
    greatest = max([last_id, *(member.id for member in members)])
    for member in members:
        if member.host == request.host and member.id != granted:
            return Remove(member.id, greatest)
    own = next((member for member in members if member.id == granted), None)
    if own is None:
        return AddLearner(granted or greatest + 1, request.host)
    return Promote(own.id) if own.learner else Done()
