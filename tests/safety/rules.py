"""The rules of the safety suite, each for any engine: told to one member (safety_subject), true or AssertionError.

``RULES`` is in the order of the table in docs/consensus.md. Sources: the Raft paper (figure 2, sections 5.2 to 5.4, 8)
and dissertation (4.2.3 disruption, 6.2 check-quorum, 6.4 reads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.safety.safety_subject import Item, Subject

Check = Callable[[Subject], None]


class Rule(NamedTuple):
    text: str
    check: Check


def _agree(subject: Subject, *data: bytes, term: int = 2) -> None:
    """Member 2 leads in ``term`` and has ``data`` acknowledged and committed."""
    items = [Item(term, d) for d in data]
    for i, item in enumerate(items):
        assert subject.append(2, term, i, term if i else 0, [item], i)
    assert subject.append(2, term, len(items), term, [], len(items))
    assert subject.append(2, term, len(items), term, [], len(items))


def one_vote_a_term(subject: Subject) -> None:
    assert subject.vote(2, 5, 0, 0)
    assert not subject.vote(3, 5, 0, 0)


def one_vote_a_term_after_a_lost_election(subject: Subject) -> None:
    term = subject.stand()
    subject.append(2, term, 0, 0, [], 0)
    assert not subject.leads
    assert not subject.vote(3, term, 0, 0), f"votes for itself and for member 3 in term {term}"


def the_vote_survives_a_restart(subject: Subject) -> None:
    assert subject.vote(2, 5, 0, 0)
    subject.kill()
    assert not subject.vote(3, 5, 0, 0), "votes for members 2 and 3 in term 5"


def the_term_survives_a_power_cut(subject: Subject) -> None:
    assert subject.vote(2, 5, 0, 0)
    subject.cut_power()
    assert subject.term >= 5, f"back in term {subject.term}, promised term 5"


def an_acknowledged_entry_survives_a_power_cut(subject: Subject) -> None:
    _agree(subject, b"a", b"b")
    subject.cut_power()
    assert subject.items == [Item(2, b"a"), Item(2, b"b")], f"it has {subject.items}"


def nothing_is_acknowledged_after_a_failed_sync(subject: Subject) -> None:
    _agree(subject, b"a")
    subject.fail_sync()
    assert not subject.append(2, 2, 1, 2, [Item(2, b"b")], 1), "acknowledges what is on no disk"


def votes_go_only_to_logs_as_complete(subject: Subject) -> None:
    _agree(subject, b"a", b"b")
    subject.wait(3000)
    assert not subject.vote(3, subject.term + 5, 1, 2), "votes for a shorter log"


def late_votes_elect_nobody(subject: Subject) -> None:
    term = subject.stand()
    subject.vote_answer(2, term - 1, granted=True)
    assert not subject.leads, f"leads in term {term} by a vote of term {term - 1}"


def late_acknowledgements_commit_nothing(subject: Subject) -> None:
    term = subject.lead()
    assert subject.leads
    subject.propose(b"x")
    subject.append_answer(2, term - 1, subject.positions)
    subject.append_answer(3, term - 1, 0)
    assert b"x" not in subject.applied, f"commits by an acknowledgement of term {term - 1}"


def a_late_append_cuts_nothing(subject: Subject) -> None:
    _agree(subject, b"a", b"b", b"c")
    subject.append(2, 2, 0, 0, [Item(2, b"a")], 0)
    assert len(subject.items) == 3, f"a repeated datagram leaves {len(subject.items)} of 3 acknowledged entries"


def gaps_and_conflicts_are_repaired(subject: Subject) -> None:
    _agree(subject, b"a")
    assert not subject.append(2, 2, 3, 2, [Item(2, b"d")], 1)
    assert subject.append(2, 2, 1, 2, [Item(2, b"old")], 1)
    assert subject.append(3, 4, 1, 2, [Item(4, b"new")], 1)
    assert subject.items == [Item(2, b"a"), Item(4, b"new")]


def a_deposed_leader_is_refused(subject: Subject) -> None:
    assert subject.append(3, 4, 0, 0, [Item(4, b"a")], 0)
    assert not subject.append(2, 2, 0, 0, [Item(2, b"z")], 1)
    assert subject.items == [Item(4, b"a")]


def the_tail_of_a_dead_leader_is_finished(subject: Subject) -> None:
    assert subject.append(2, 2, 0, 0, [Item(2, b"tail")], 0)
    term = subject.lead()
    assert subject.leads
    for follower in (2, 3, 2):
        subject.append_answer(follower, term, subject.positions)
    assert subject.applied == [b"tail"]


def nothing_commits_without_a_majority(subject: Subject) -> None:
    subject.lead()
    subject.propose(b"x")
    subject.wait(100)
    assert b"x" not in subject.applied


def a_cut_off_leader_answers_no_reads(subject: Subject) -> None:
    term = subject.lead()
    for follower in (2, 3, 2):
        subject.append_answer(follower, term, subject.positions)
    subject.read()
    subject.wait(3000)
    assert subject.reads_served == 0
    assert not subject.leads, "still believes that it leads"


def a_member_that_was_cut_off_disturbs_nobody(subject: Subject) -> None:
    _agree(subject, b"a")
    term = subject.term
    subject.vote(3, term + 7, 0, 0)
    assert subject.term == term, f"leaves term {term} and its leader for a candidate that cannot win"


def a_torn_record_is_cut_off(subject: Subject) -> None:
    _agree(subject, b"a", b"b")
    subject.append(2, 2, 2, 2, [Item(2, b"in the middle of this one")], 2)
    subject.tear()
    assert subject.items[:2] == [Item(2, b"a"), Item(2, b"b")]


def a_damaged_record_is_noticed(subject: Subject) -> None:
    _agree(subject, b"damage me", b"b")
    try:
        subject.damage()
    except Exception as error:
        assert type(error).__name__ == "Refused", error
        return
    raise AssertionError(f"starts with {subject.items[0].data!r} where it acknowledged b'damage me'")


def one_entry_of_a_megabyte(subject: Subject) -> None:
    subject.lead()
    noise = bytes((i * 7919 + (i >> 3) * 104729) >> 3 & 255 for i in range(1 << 20))
    subject.propose(noise)
    assert any(len(item.data) == 1 << 20 for item in subject.items)


RULES = (
    Rule("one vote a term", one_vote_a_term),
    Rule("one vote a term, also after losing an election", one_vote_a_term_after_a_lost_election),
    Rule("a vote survives a restart", the_vote_survives_a_restart),
    Rule("the term survives a power cut", the_term_survives_a_power_cut),
    Rule("an acknowledged entry survives a power cut", an_acknowledged_entry_survives_a_power_cut),
    Rule("nothing is acknowledged after a sync failed", nothing_is_acknowledged_after_a_failed_sync),
    Rule("votes go only to logs as complete", votes_go_only_to_logs_as_complete),
    Rule("late votes elect nobody", late_votes_elect_nobody),
    Rule("late acknowledgements commit nothing", late_acknowledgements_commit_nothing),
    Rule("a repeated or late append cuts nothing", a_late_append_cuts_nothing),
    Rule("gaps and conflicts in the log are repaired", gaps_and_conflicts_are_repaired),
    Rule("a deposed leader is refused", a_deposed_leader_is_refused),
    Rule("the tail of a dead leader is finished", the_tail_of_a_dead_leader_is_finished),
    Rule("nothing commits without a majority", nothing_commits_without_a_majority),
    Rule("a cut-off leader answers no reads and steps down", a_cut_off_leader_answers_no_reads),
    Rule("a member that was cut off disturbs nobody", a_member_that_was_cut_off_disturbs_nobody),
    Rule("a torn last record is cut off", a_torn_record_is_cut_off),
    Rule("a damaged record is noticed", a_damaged_record_is_noticed),
    Rule("an entry of 1 MiB is taken", one_entry_of_a_megabyte),
)
