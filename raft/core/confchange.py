"""Memberships and how they change. Pure.

A membership takes effect when its entry is applied (as in etcd's raft, unlike the paper's "when appended"). What makes
that safe: at most one change is between proposed and applied, a member with committed but unapplied changes does not
campaign, and changes of more than one voter go through a joint configuration (Raft dissertation, 4.3).

Invariants of a Membership: learners are disjoint from both sets of voters; ``learners_next`` (voters that become
learners when the joint configuration is left) is a subset of ``outgoing`` and not of ``incoming``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from raft.core.errors import ConfChangeRefused
from raft.core.quorum import Vote, acked_by_quorum, majority, vote_result
from raft.core.types import ConfChange, ConfOp, ConfState


class Membership(NamedTuple):
    incoming: frozenset[int] = frozenset()
    outgoing: frozenset[int] = frozenset()
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    auto_leave: bool = False

    @classmethod
    def of(cls, conf: ConfState) -> Membership:
        return cls(
            frozenset(conf.voters),
            frozenset(conf.voters_outgoing),
            frozenset(conf.learners),
            frozenset(conf.learners_next),
            conf.auto_leave,
        )

    def conf_state(self) -> ConfState:
        return ConfState(
            tuple(sorted(self.incoming)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.outgoing)),
            tuple(sorted(self.learners_next)),
            self.auto_leave,
        )

    @property
    def joint(self) -> bool:
        return bool(self.outgoing)

    def is_voter(self, member: int) -> bool:
        return member in self.incoming or member in self.outgoing

    def voters(self) -> list[int]:
        return sorted(self.incoming | self.outgoing)

    def members(self) -> list[int]:
        return sorted(self.incoming | self.outgoing | self.learners | self.learners_next)

    def acked(self, acked: Callable[[int], int]) -> int:
        """The highest value that a quorum has acknowledged."""
        return acked_by_quorum(self.incoming, self.outgoing, acked)

    def others_of_quorum(self) -> int:
        """How many voters complete a quorum with one of them; 0 in a joint configuration, where it depends on which."""
        return 0 if self.joint else majority(len(self.incoming)) - 1

    def votes(self, votes: Mapping[int, bool]) -> Vote:
        return vote_result(self.incoming, self.outgoing, votes)


def change(current: Membership, cc: ConfChange) -> Membership:
    """The membership after ``cc``. Raises ConfChangeRefused if it is not valid in ``current``."""
    if not cc.changes:
        return _leave(current)
    if current.joint:
        raise ConfChangeRefused("a joint configuration must be left before the next change")
    if cc.joint:
        return _enter(current, cc)
    changed = current
    for op, member in cc.changes:
        changed = _one(changed, op, member, joint=False)
    if len(current.incoming ^ changed.incoming) > 1:
        return _enter(current, cc)
    return _checked(changed)


def _enter(current: Membership, cc: ConfChange) -> Membership:
    changed = current._replace(outgoing=current.incoming, auto_leave=cc.auto_leave)
    for op, member in cc.changes:
        changed = _one(changed, op, member, joint=True)
    return _checked(changed)


def _leave(current: Membership) -> Membership:
    if not current.joint:
        raise ConfChangeRefused("there is no joint configuration to leave")
    return _checked(Membership(incoming=current.incoming, learners=current.learners | current.learners_next))


def _one(m: Membership, op: int, member: int, *, joint: bool) -> Membership:
    if member <= 0:
        raise ConfChangeRefused(f"member id {member}: must be greater than 0")
    one = frozenset((member,))
    if op == ConfOp.ADD_VOTER:
        return m._replace(incoming=m.incoming | one, learners=m.learners - one, learners_next=m.learners_next - one)
    if op == ConfOp.ADD_LEARNER:
        if joint and member in m.outgoing:
            # Still a voter of the outgoing half: it may only become a learner when that half is gone.
            return m._replace(incoming=m.incoming - one, learners_next=m.learners_next | one)
        return m._replace(incoming=m.incoming - one, learners=m.learners | one)
    if op == ConfOp.REMOVE:
        return m._replace(incoming=m.incoming - one, learners=m.learners - one, learners_next=m.learners_next - one)
    raise ConfChangeRefused(f"unknown membership operation {op}")


def _checked(m: Membership) -> Membership:
    if not m.incoming:
        raise ConfChangeRefused("the change would leave no voter")
    return m
