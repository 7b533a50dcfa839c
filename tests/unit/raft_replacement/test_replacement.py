"""A lost member is replaced step by step, whoever does the next step."""

from __future__ import annotations

import pytest

from raft.replacement import AddLearner, Done, Grant, Member, Promote, Remove, Request, next_step

A, B, C = Member(1, "a", False), Member(2, "b", False), Member(3, "c", False)


def test_the_old_identity_goes_first() -> None:
    assert next_step([A, B, C], Request("a", "n1"), None, 3) == Remove(1, 3)


def test_then_a_learner_with_an_id_never_used() -> None:
    assert next_step([B, C], Request("a", "n1"), None, 7) == AddLearner(8, "a")
    assert next_step([B, C], Request("a", "n1"), None, 0) == AddLearner(4, "a")


def test_a_grant_without_its_member_is_repeated_with_the_same_id() -> None:
    assert next_step([B, C], Request("a", "n1"), Grant("n1", 8), 8) == AddLearner(8, "a")


def test_promotion_and_end() -> None:
    grant = Grant("n1", 8)
    assert next_step([B, C, Member(8, "a", True)], Request("a", "n1"), grant, 8) == Promote(8)
    assert next_step([B, C, Member(8, "a", False)], Request("a", "n1"), grant, 8) == Done()


def test_wiped_again_before_it_was_promoted() -> None:
    """A grant for an earlier nonce counts for nothing: that life's learner is removed as well."""
    members = [B, C, Member(8, "a", True)]
    assert next_step(members, Request("a", "n2"), Grant("n1", 8), 8) == Remove(8, 8)
    assert next_step([B, C], Request("a", "n2"), Grant("n1", 8), 8) == AddLearner(9, "a")


@pytest.mark.parametrize("host", ["a", "b", "c"])
def test_the_whole_way_ends(host: str) -> None:
    """Also for the member with the greatest id, of which nothing is left in the list once it is removed."""
    members, grant, request, last, removed = [A, B, C], None, Request(host, "n"), 0, set[int]()
    for _ in range(10):
        step = next_step(members, request, grant, last)
        if isinstance(step, Remove):
            last = step.last_id
            removed.add(step.member_id)
            members = [m for m in members if m.id != step.member_id]
        elif isinstance(step, AddLearner):
            assert step.member_id not in removed
            grant, last = Grant("n", step.member_id), step.member_id
            members = [*members, Member(step.member_id, step.host, True)]
        elif isinstance(step, Promote):
            members = [Member(m.id, m.host, False) for m in members]
        else:
            break
    others = [(m.id, m.host, False) for m in (A, B, C) if m.host != host]
    assert sorted((m.id, m.host, m.learner) for m in members) == [*others, (4, host, False)]
