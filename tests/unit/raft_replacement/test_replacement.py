"""A lost member is replaced step by step, whoever does the next step."""

from __future__ import annotations

from raft.replacement import AddLearner, Done, Grant, Member, Promote, Remove, Request, next_step

A, B, C = Member(1, "a", False), Member(2, "b", False), Member(3, "c", False)


def test_the_old_identity_goes_first() -> None:
    assert next_step([A, B, C], Request("a", "n1"), None, 3) == Remove(1)


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
    assert next_step(members, Request("a", "n2"), Grant("n1", 8), 8) == Remove(8)
    assert next_step([B, C], Request("a", "n2"), Grant("n1", 8), 8) == AddLearner(9, "a")


def test_the_whole_way_ends() -> None:
    members, grant, request, last = [A, B, C], None, Request("a", "n"), 3
    for _ in range(10):
        step = next_step(members, request, grant, last)
        if isinstance(step, Remove):
            members = [m for m in members if m.id != step.member_id]
        elif isinstance(step, AddLearner):
            grant, last = Grant("n", step.member_id), step.member_id
            members = [*members, Member(step.member_id, step.host, True)]
        elif isinstance(step, Promote):
            members = [Member(m.id, m.host, False) for m in members]
        else:
            break
    assert sorted((m.id, m.host, m.learner) for m in members) == [(2, "b", False), (3, "c", False), (4, "a", False)]
