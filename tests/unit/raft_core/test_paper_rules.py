"""Figure 2 of the Raft paper, one test for each of its rules, in its order; then those of sections 5 to 8.

The other files of this directory look closer (durability, flow control, membership, reads); this one is the checklist.
"""

from __future__ import annotations

import pytest

from raft.core.errors import InvariantBroken, NotLeader
from raft.core.types import Entry, Message, MessageKind, Role
from tests.unit.raft_core.raft_net import Net


def vote(net: Net, voter: int, candidate: int, term: int, index: int, log_term: int) -> bool | None:
    """The voter's answer to a request; None if it gives none."""
    net.log.clear()
    net[voter].node._r.election_elapsed = net[voter].node._r.config.election_ticks
    net[voter].node.step(Message(MessageKind.VOTE, voter, candidate, term, log_term, index))
    net.settle()
    answers = [m for m in net.sent(MessageKind.VOTE_RESP, voter) if m.term >= term or m.reject]
    return not answers[-1].reject if answers else None


def append(
    net: Net, to: int, leader: int, term: int, before: tuple[int, int], *entries: Entry, commit: int = 0
) -> Message | None:
    """The follower's answer."""
    net.log.clear()
    message = Message(MessageKind.APPEND, to, leader, term, before[1], before[0], list(entries), commit)
    net[to].node.step(message)
    net.settle()
    answers = net.sent(MessageKind.APPEND_RESP, to)
    return answers[0] if answers else None


def entry(index: int, term: int, data: bytes = b"x") -> Entry:
    return Entry(term, index, 0, data)


def log_of(net: Net, member: int) -> list[tuple[int, int]]:
    storage = net[member].storage
    return [(e.index, e.term) for e in storage.entries(storage.first_index(), storage.last_index() + 1, 1 << 30)]


class TestPersistentState:
    """Updated on stable storage before responding to RPCs."""

    def test_current_term(self) -> None:
        net = Net(3)
        append(net, 1, 2, 7, (1, 1))
        net[1].restart()
        assert net[1].node.status().term == 7

    def test_voted_for(self) -> None:
        net = Net(3)
        assert vote(net, 1, 2, 5, 1, 1) is True
        net[1].restart()
        assert vote(net, 1, 3, 5, 1, 1) is False

    def test_log(self) -> None:
        net = Net(3)
        append(net, 1, 2, 3, (1, 1), entry(2, 3))
        net[1].restart()
        assert log_of(net, 1) == [(2, 3)]


class TestRequestVote:
    def test_1_false_if_the_term_is_older(self) -> None:
        net = Net(3)
        append(net, 1, 2, 4, (1, 1))
        net[1].node._r.leader = 0
        assert vote(net, 1, 3, 3, 9, 9) in (False, None)
        assert net[1].node.status().term == 4

    def test_2_granted_if_not_voted_and_the_log_is_up_to_date(self) -> None:
        net = Net(3)
        assert vote(net, 1, 2, 2, 1, 1) is True

    def test_2_not_if_voted_for_somebody_else(self) -> None:
        net = Net(3)
        assert vote(net, 1, 2, 2, 1, 1) is True
        assert vote(net, 1, 3, 2, 1, 1) is False
        assert vote(net, 1, 2, 2, 1, 1) is True, "but the same candidate is told the same again"

    @pytest.mark.parametrize(
        ("index", "term", "granted"),
        [(3, 2, True), (4, 2, True), (2, 3, True), (2, 2, False), (9, 1, False)],
        ids=["equal", "longer", "later term", "shorter", "earlier term"],
    )
    def test_2_what_up_to_date_means(self, index: int, term: int, granted: bool) -> None:
        net = Net(3)
        net.with_log(1, [2, 2])
        assert vote(net, 1, 2, 5, index, term) is granted


class TestAppendEntries:
    def test_1_false_if_the_term_is_older(self) -> None:
        net = Net(3)
        append(net, 1, 2, 4, (1, 1))
        append(net, 1, 3, 3, (1, 1), entry(2, 3))
        assert log_of(net, 1) == [] and net[1].node.status().leader == 2

    def test_2_false_if_there_is_no_entry_like_the_one_before(self) -> None:
        net = Net(3)
        net.with_log(1, [2])
        for before in ((2, 1), (3, 2)):
            answer = append(net, 1, 2, 5, before, entry(before[0] + 1, 5))
            assert answer is not None and answer.reject
        assert log_of(net, 1) == [(2, 2)]

    def test_3_a_conflicting_entry_goes_and_all_that_follow_it(self) -> None:
        net = Net(3)
        net.with_log(1, [2, 2, 2])
        append(net, 1, 2, 5, (2, 2), entry(3, 5))
        assert log_of(net, 1) == [(2, 2), (3, 5)]

    def test_3_but_nothing_that_does_not_conflict(self) -> None:
        net = Net(3)
        net.with_log(1, [2, 2, 2])
        append(net, 1, 2, 5, (1, 1), entry(2, 2))
        assert log_of(net, 1) == [(2, 2), (3, 2), (4, 2)]

    def test_4_new_entries_are_appended(self) -> None:
        net = Net(3)
        answer = append(net, 1, 2, 5, (1, 1), entry(2, 5), entry(3, 5))
        assert log_of(net, 1) == [(2, 5), (3, 5)]
        assert answer is not None and (answer.reject, answer.index) == (False, 3)

    def test_5_the_commit_index_is_the_leaders_or_the_last_new_entrys(self) -> None:
        net = Net(3)
        append(net, 1, 2, 5, (1, 1), entry(2, 5), entry(3, 5), commit=2)
        assert net[1].node.status().commit == 2
        append(net, 1, 2, 5, (3, 5), entry(4, 5), commit=9)
        assert net[1].node.status().commit == 4


class TestAllServers:
    def test_what_is_committed_is_applied_in_order(self) -> None:
        net = Net(3)
        append(net, 1, 2, 5, (1, 1), entry(2, 5, b"a"), entry(3, 5, b"b"), entry(4, 5, b"c"), commit=3)
        assert [(e.index, e.data) for e in net[1].applied] == [(2, b"a"), (3, b"b")]

    @pytest.mark.parametrize("kind", [MessageKind.APPEND, MessageKind.APPEND_RESP, MessageKind.VOTE_RESP])
    def test_a_later_term_makes_a_follower_of_that_term(self, kind: MessageKind) -> None:
        net = Net(3)
        net.elect(1)
        net[1].node.step(Message(kind, 1, 2, 9, reject=True))
        net.settle()
        assert (net[1].role, net[1].node.status().term) == (Role.FOLLOWER, 9)


class TestFollowers:
    def test_answer_candidates_and_leaders(self) -> None:
        net = Net(3)
        assert vote(net, 1, 2, 2, 1, 1) is True
        assert append(net, 1, 2, 2, (1, 1)) is not None

    def test_no_word_of_a_leader_for_an_election_timeout_makes_a_candidate(self) -> None:
        net = Net(3, pre_vote=False)
        ticks = 0
        while net[1].role is Role.FOLLOWER:
            net[1].node.tick()
            ticks += 1
        assert net[1].role is Role.CANDIDATE and 10 <= ticks < 20

    def test_hearing_of_the_leader_resets_it(self) -> None:
        net = Net(3, pre_vote=False)
        for _ in range(10):
            for _ in range(9):
                net[1].node.tick()
            append(net, 1, 2, 2, (1, 1))
        assert net[1].role is Role.FOLLOWER

    def test_so_does_granting_a_vote(self) -> None:
        net = Net(3, pre_vote=False)
        for _ in range(9):
            net[1].node.tick()
        assert vote(net, 1, 2, 2, 1, 1) is True
        for _ in range(9):
            net[1].node.tick()
        assert net[1].role is Role.FOLLOWER


class TestCandidates:
    def test_raise_the_term_vote_for_themselves_and_ask_all_others(self) -> None:
        net = Net(3, pre_vote=False)
        net.isolate(1)
        net[1].node.campaign()
        net.settle()
        status = net[1].node.status()
        assert (status.term, status.vote) == (2, 1)
        assert {(m.to, m.term) for m in net.sent(MessageKind.VOTE, 1)} == {(2, 2), (3, 2)}

    def test_votes_of_a_majority_make_a_leader(self) -> None:
        net = Net(5, pre_vote=False)
        net.lost = lambda m: m.to in (4, 5) or m.sender in (4, 5)
        net[1].node.campaign()
        net.settle()
        assert net[1].role is Role.LEADER

    def test_fewer_do_not(self) -> None:
        net = Net(5, pre_vote=False)
        net.lost = lambda m: m.to in (3, 4, 5) or m.sender in (3, 4, 5)
        net[1].node.campaign()
        net.settle()
        assert net[1].role is Role.CANDIDATE

    def test_a_new_leaders_append_makes_a_follower(self) -> None:
        net = Net(3, pre_vote=False)
        net.isolate(1)
        net[1].node.campaign()
        net.settle()
        append(net, 1, 2, 2, (1, 1))
        assert (net[1].role, net[1].node.status().leader) == (Role.FOLLOWER, 2)

    def test_another_timeout_starts_another_election(self) -> None:
        net = Net(3, pre_vote=False)
        net.isolate(1)
        net[1].node.campaign()
        net.tick(20, only=(1,))
        assert net[1].node.status().term >= 3


class TestLeaders:
    def test_tell_everybody_at_once_and_again_when_idle(self) -> None:
        net = Net(3)
        net.elect(1)
        assert {m.to for m in net.sent(MessageKind.APPEND, 1)} == {2, 3}
        net.log.clear()
        net.tick(5, only=(1,))
        assert {m.to for m in net.sent(MessageKind.HEARTBEAT, 1)} == {2, 3}
        assert net[2].role is net[3].role is Role.FOLLOWER

    def test_answer_a_command_after_it_is_applied(self) -> None:
        net = Net(3)
        net.elect(1)
        where = net[1].node.propose([b"a"])
        assert net[1].data() == []
        net.settle()
        assert [(e.index, e.term) for e in net[1].applied if e.data == b"a"] == [(where.first, where.term)]

    def test_send_what_a_follower_lacks_from_its_next_index(self) -> None:
        net = Net(3)
        net.elect(1)
        net.isolate(3)
        net.propose(1, b"a", b"b")
        net.heal()
        net.log.clear()
        net.tick(2, only=(1,))
        assert net[3].data() == [b"a", b"b"]

    def test_go_back_after_a_refusal_and_try_again(self) -> None:
        net = Net(3)
        net.with_log(1, [2, 2, 2])
        net.elect(1)
        refusals = [m for m in net.sent(MessageKind.APPEND_RESP) if m.reject]
        assert {m.sender for m in refusals} == {2, 3}
        assert log_of(net, 2) == log_of(net, 1) == log_of(net, 3)

    def test_an_entry_of_its_term_on_a_majority_is_committed(self) -> None:
        net = Net(3)
        net.elect(1)
        net.isolate(3)
        net.propose(1, b"a")
        assert net[1].data() == [b"a"]

    def test_one_of_an_earlier_term_is_not_until_one_of_its_own_is(self) -> None:
        """One entry in a message, so that the old one reaches a majority first."""
        net = Net(3, max_size_per_msg=1)
        net.with_log(1, [2])
        own_term_is_lost = True

        def lost(m: Message) -> bool:
            has_old = log_of(net, 2) == [(2, 2)]
            return 3 in (m.to, m.sender) or (own_term_is_lost and has_old and any(e.term == 3 for e in m.entries))

        net.lost = lost
        net.elect(1)
        net.tick(3, only=(1,))
        assert log_of(net, 2) == [(2, 2)], "it is on a majority"
        assert net[1].node.status().commit == 1
        own_term_is_lost = False
        net.tick(3, only=(1,))
        assert net[1].node.status().commit == 3


def test_election_safety_a_second_leader_of_a_term_stops_the_process() -> None:
    net = Net(3)
    net.elect(1)
    with pytest.raises(InvariantBroken):
        net[1].node.step(Message(MessageKind.APPEND, 1, 2, 2, 1, 1))


def test_leader_append_only() -> None:
    net = Net(3)
    net.with_log(1, [2, 2])
    net.elect(1)
    before = log_of(net, 1)
    net.propose(1, b"a")
    assert log_of(net, 1)[: len(before)] == before


def test_commands_go_to_the_leader_and_others_say_who_it_is() -> None:
    net = Net(3)
    net.elect(1)
    with pytest.raises(NotLeader) as refused:
        net[3].node.propose([b"a"])
    assert refused.value.leader == 1


def test_section_8_a_leader_commits_a_no_op_at_the_start_of_its_term() -> None:
    net = Net(3)
    net.elect(1)
    assert [(e.index, e.term, e.data) for e in net[1].applied] == [(2, 2, b"")]


def test_section_8_a_read_hears_from_a_majority_first() -> None:
    net = Net(3)
    net.elect(1)
    net.log.clear()
    net[1].node.read_index(b"r")
    assert net[1].reads == []
    net.settle()
    assert len(net.sent(MessageKind.HEARTBEAT_RESP)) >= 1 and net[1].reads == [(2, b"r")]


def test_section_7_a_state_replaces_the_log_it_covers() -> None:
    net = Net(3)
    net.elect(1)
    net.isolate(3)
    net.propose(1, b"a", b"b")
    net[1].compact()
    net.heal()
    for member in (1,):
        for message in net[member].drain():
            net.log.append(message)
    net.tick(3, only=(1,))
    snapshots = net.sent(MessageKind.SNAPSHOT, 1)
    assert [m.to for m in snapshots] == [3]
    net[1].node.report_snapshot(3, True)
    net.propose(1, b"c")
    net.tick(2, only=(1,))
    assert net[3].node.status().commit == net[1].node.status().commit
    assert net[3].storage.first_index() > 2
