"""Quorums, joint configurations, membership changes and the log against oracles too dumb to be wrong."""

from __future__ import annotations

import itertools
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from raft.core import confchange
from raft.core.confchange import Membership
from raft.core.errors import ConfChangeRefused, InvariantBroken
from raft.core.log import RaftLog
from raft.core.memory import MemoryStorage
from raft.core.quorum import Vote, acked_by_quorum, vote_result
from raft.core.types import ConfChange, ConfOp, ConfState, Entry, HardState

members = st.sets(st.integers(1, 7), max_size=5)


def majorities(voters: set[int]) -> list[set[int]]:
    """Every set of voters that is more than half of them, by trying them all."""
    found = [set(some) for n in range(len(voters) + 1) for some in itertools.combinations(sorted(voters), n)]
    return [some for some in found if 2 * len(some) > len(voters)] if voters else [set()]


@given(members, members, st.dictionaries(st.integers(1, 7), st.integers(0, 9)))
def test_what_a_quorum_has_is_what_some_majority_of_each_half_has(
    incoming: set[int], outgoing: set[int], acked: dict[int, int]
) -> None:
    def best(voters: set[int]) -> int:
        return max(min((acked.get(v, 0) for v in some), default=99) for some in majorities(voters))

    expected = min(best(incoming), best(outgoing))
    got = acked_by_quorum(incoming, outgoing, lambda v: acked.get(v, 0))
    assert got == (0 if not incoming and not outgoing else expected)


@given(members, members, st.dictionaries(st.integers(1, 7), st.booleans()))
def test_an_election_is_decided_when_no_further_vote_can_change_it(
    incoming: set[int], outgoing: set[int], votes: dict[int, bool]
) -> None:
    undecided = sorted((incoming | outgoing) - set(votes))

    def wins(granted: set[int]) -> bool:
        halves = [voters for voters in (incoming, outgoing) if voters]
        return bool(halves) and all(any(some <= granted for some in majorities(voters)) for voters in halves)

    granted = {v for v, yes in votes.items() if yes}
    futures = [
        wins(granted | set(more)) for n in range(len(undecided) + 1) for more in itertools.combinations(undecided, n)
    ]
    expected = Vote.WON if all(futures) else Vote.LOST if not any(futures) else Vote.PENDING
    assert vote_result(incoming, outgoing, votes) is expected


change = st.lists(st.tuples(st.sampled_from(list(ConfOp)), st.integers(1, 6)), max_size=4).map(tuple)


@given(st.lists(st.tuples(change, st.booleans()), max_size=8))
@settings(max_examples=200)
def test_two_memberships_in_a_row_never_have_separate_majorities(steps: list[tuple[Any, bool]]) -> None:
    membership = Membership.of(ConfState(voters=(1, 2, 3)))
    for changes, joint in steps:
        try:
            after = confchange.change(membership, ConfChange(changes, joint=joint))
        except ConfChangeRefused:
            continue
        for a, b in itertools.product(quorums(membership), quorums(after)):
            assert a & b, f"{membership} and {after} can decide apart"
        assert after.incoming, "there is always somebody to vote"
        assert not after.learners & (after.incoming | after.outgoing)
        membership = after


def quorums(membership: Membership) -> list[set[int]]:
    halves = [majorities(set(half)) for half in (membership.incoming, membership.outgoing) if half]
    return [set().union(*some) for some in itertools.product(*halves)]


class DumbLog:
    """A list of terms; entry 1 is the bootstrap entry."""

    def __init__(self) -> None:
        self.terms = [0, 1]
        self.committed = 1

    def append_after(self, index: int, term: int, terms: list[int]) -> int | None:
        if index >= len(self.terms) or self.terms[index] != term:
            return None
        for at, one in enumerate(terms, index + 1):
            if at < len(self.terms) and self.terms[at] != one:
                if at <= self.committed:
                    raise InvariantBroken
                del self.terms[at:]
            if at == len(self.terms):
                self.terms.append(one)
        return index + len(terms)


log_step = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)),
    st.tuples(st.just("commit"), st.integers(0, 3)),
    st.tuples(st.just("begin")),
    st.tuples(st.just("end"), st.integers(1, 3)),
    st.tuples(st.just("apply")),
)


@given(st.lists(log_step, max_size=40), st.integers(0, 1 << 30))
@settings(max_examples=150, deadline=None)
def test_the_log_is_a_list_of_terms_whatever_is_on_its_way_to_the_disk(steps: list[Any], seed: int) -> None:
    rng = random.Random(seed)
    storage = MemoryStorage.bootstrap(ConfState(voters=(1, 2, 3)))
    log, dumb = RaftLog(storage, 1, 1), DumbLog()
    number, writes, applied = 0, [], [1]
    term = 1
    for step in steps:
        if step[0] == "append":
            term += step[2]
            before = max(1, len(dumb.terms) - 1 - step[1])
            sent = [rng.randint(dumb.terms[before], term) for _ in range(step[3])]
            sent.sort()
            entries = [Entry(t, before + 1 + i, 0, b"x") for i, t in enumerate(sent)]
            wrong = rng.random() < 0.2
            log_term = dumb.terms[before] + wrong
            try:
                expected = dumb.append_after(before, log_term, sent)
            except InvariantBroken:
                return  # a leader that overwrites what is committed: both stop (see test_core_replication)
            assert log.append_after(before, log_term, entries) == expected
        elif step[0] == "commit":
            dumb.committed = max(dumb.committed, len(dumb.terms) - 1 - step[1])
            log.commit_to(dumb.committed)
        elif step[0] == "begin":
            number += 1
            unhanded = log.unhanded()
            log.begin_write(number, HardState(term, 0, log.committed))
            writes.append((number, unhanded))
        elif step[0] == "end" and writes:
            done, writes = writes[: step[1]], writes[step[1] :]
            for _, entries in done:
                storage.append(entries)
            log.end_write(done[-1][0])
        elif step[0] == "apply":
            for found in log.next_committed(1 << 20):
                assert (found.index, found.term) == (applied[-1] + 1, dumb.terms[found.index])
                applied.append(found.index)
        assert log.last_index() == len(dumb.terms) - 1 and log.committed == dumb.committed
        assert [log.term(i) for i in range(1, log.last_index() + 1)] == dumb.terms[1:]
        assert applied[-1] <= min(log.committed, log.persisted)
        durable = [storage.term(i) for i in range(1, min(log.persisted, storage.last_index()) + 1)]
        assert durable == dumb.terms[1 : len(durable) + 1], "durable means: what the log says is on the disk"
