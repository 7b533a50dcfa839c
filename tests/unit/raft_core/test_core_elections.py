"""Elections, rule by rule (Raft paper 5.1, 5.2, 5.4.1; dissertation 3.10, 6.2, 9.6)."""

from __future__ import annotations

import pytest

from raft.core.errors import InvariantBroken, NotLeader, ProposalDropped
from raft.core.types import Message, MessageKind, Role
from tests.unit.raft_core.raft_net import Host, Net


def test_a_majority_elects_one_leader_after_a_timeout() -> None:
    net = Net(3)
    net.tick(40)
    leaders = [h for h in net.hosts.values() if h.role is Role.LEADER]
    assert len(leaders) == 1
    assert {h.node.leader for h in net.hosts.values()} == {leaders[0].id}


def test_timeouts_are_random_between_one_and_two_periods() -> None:
    seen = {Net(3)[1].node._r.timeout_ticks} | {Net(3, election_ticks=10)[m].node._r.timeout_ticks for m in (1, 2, 3)}
    assert all(10 <= t < 20 for t in seen)


def test_a_single_member_leads_once_its_vote_is_durable() -> None:
    net = Net(1)
    host = net[1]
    host.hold_writes = True
    host.node.campaign()
    host.drain()
    assert host.role is Role.CANDIDATE
    host.hold_writes = False
    host.persist()
    net.settle()
    assert host.role is Role.LEADER
    assert host.node.status().commit == 2


def test_no_leader_without_a_majority() -> None:
    net = Net(5)
    net.isolate(3, 4, 5)
    net.tick(100)
    assert all(h.role is not Role.LEADER for h in net.hosts.values())


def test_a_cut_off_member_does_not_raise_its_term() -> None:
    """Pre-vote: when it returns it disturbs nobody."""
    net = Net(3)
    net.elect(1)
    term = net[1].node.term
    net.isolate(3)
    net.tick(100)
    assert net[3].node.term == term
    net.heal()
    net.tick(3)
    assert net[1].role is Role.LEADER and net[1].node.term == term


def test_members_that_hear_a_leader_refuse_to_vote() -> None:
    """Stickiness, for VOTE and PRE_VOTE alike."""
    net = Net(3)
    net.elect(1)
    net.tick(1)
    term = net[1].node.term
    for kind in (MessageKind.VOTE, MessageKind.PRE_VOTE):
        net[2].node.step(Message(kind, 2, 3, term + 1, log_term=99, index=99))
    net.settle()
    assert net[2].node.term == term and net[2].node.leader == 1


def test_one_vote_a_term_and_the_same_answer_twice() -> None:
    host = Net(3)[1]
    for candidate, granted in ((2, True), (2, True), (3, False)):
        host.node.step(Message(MessageKind.VOTE, 1, candidate, 5, log_term=1, index=1))
        (answer,) = host.drain()
        assert answer.kind is MessageKind.VOTE_RESP and answer.reject is not granted


def test_the_vote_survives_a_restart() -> None:
    host = Net(3)[1]
    host.node.step(Message(MessageKind.VOTE, 1, 2, 5, log_term=1, index=1))
    host.drain()
    host.restart()
    assert host.node.status().vote == 2
    host.node.step(Message(MessageKind.VOTE, 1, 3, 5, log_term=1, index=1))
    (answer,) = host.drain()
    assert answer.reject


def test_a_candidate_that_lost_keeps_its_vote() -> None:
    """It follows within the term it voted in: forgetting the vote then could elect two leaders."""
    net = Net(3, pre_vote=False)
    net.lost = lambda m: True
    net[1].node.campaign()
    net.settle()
    term = net[1].node.term
    for voter in (2, 3):
        net[1].node.step(Message(MessageKind.VOTE_RESP, 1, voter, term, reject=True))
    net[1].drain()
    assert net[1].role is Role.FOLLOWER and net[1].node.status().vote == 1
    net[1].node.step(Message(MessageKind.VOTE, 1, 2, term, log_term=9, index=9))
    (answer,) = net[1].drain()
    assert answer.reject


def test_a_vote_is_sent_only_when_it_is_durable() -> None:
    host = Net(3)[1]
    host.hold_writes = True
    host.node.step(Message(MessageKind.VOTE, 1, 2, 5, log_term=1, index=1))
    assert host.drain() == []
    assert host.held[-1].must_sync and host.held[-1].hard_state is not None
    assert [m.kind for m in host.persist()] == [MessageKind.VOTE_RESP]


def test_a_candidate_asks_for_votes_only_when_its_own_is_durable() -> None:
    host = Net(3, pre_vote=False)[1]
    host.hold_writes = True
    host.node.campaign()
    assert host.drain() == []
    assert {m.kind for m in host.persist()} == {MessageKind.VOTE}


@pytest.mark.parametrize(
    ("last_term", "last_index", "granted"),
    [(2, 4, True), (2, 3, True), (2, 2, False), (1, 9, False), (3, 1, True)],
)
def test_votes_go_only_to_logs_as_complete(last_term: int, last_index: int, granted: bool) -> None:
    net = Net(3)
    net.with_log(1, [1, 2])
    net[1].node.step(Message(MessageKind.VOTE, 1, 2, 9, log_term=last_term, index=last_index))
    (answer,) = net[1].drain()
    assert answer.reject is not granted


def test_a_higher_term_makes_a_leader_follow() -> None:
    net = Net(3)
    net.elect(1)
    net[1].node.step(Message(MessageKind.APPEND_RESP, 1, 2, term=9))
    assert net[1].role is Role.FOLLOWER and net[1].node.term == 9


def test_a_candidate_follows_the_leader_of_its_term() -> None:
    net = Net(3, pre_vote=False)
    net.isolate(2, 3)
    net[1].node.campaign()
    net.settle()
    assert net[1].role is Role.CANDIDATE
    net[1].node.step(Message(MessageKind.HEARTBEAT, 1, 2, net[1].node.term, commit=1))
    assert net[1].role is Role.FOLLOWER and net[1].node.leader == 2


def test_a_stale_leader_is_told_to_step_down() -> None:
    host = Net(3)[1]
    host.node.step(Message(MessageKind.HEARTBEAT, 1, 2, 7, commit=1))
    host.drain()
    host.node.step(Message(MessageKind.APPEND, 1, 3, 6, index=1, log_term=1))
    (answer,) = host.drain()
    assert answer.to == 3 and answer.term == 7


def test_two_leaders_in_a_term_stop_the_process() -> None:
    net = Net(3)
    net.elect(1)
    with pytest.raises(InvariantBroken, match="both lead"):
        net[1].node.step(Message(MessageKind.HEARTBEAT, 1, 2, net[1].node.term))


def test_check_quorum_unseats_a_leader_that_nobody_hears() -> None:
    net = Net(3)
    net.elect(1)
    net.isolate(1)
    net.tick(25, only=[1])
    assert net[1].role is not Role.LEADER
    with pytest.raises(NotLeader):
        net[1].node.propose([b"x"])


def test_a_leader_heard_by_a_quorum_stays() -> None:
    net = Net(3)
    net.elect(1)
    net.isolate(3)
    net.tick(50, only=[1, 2])
    assert net[1].role is Role.LEADER


def test_a_broken_connection_from_the_leader_ends_the_wait_and_the_voters_take_turns() -> None:
    net = Net(3)
    net.elect(1)
    net.isolate(1)
    for follower in (2, 3):
        net[follower].node.report_disconnected(1)
    net.tick(1, only=(2, 3))
    assert net[2].role is Role.LEADER and net[3].node.leader == 2


def test_the_second_in_turn_stands_when_the_first_is_gone_too() -> None:
    net = Net(5)
    net.elect(1)
    net.isolate(1, 2)
    for follower in (3, 4, 5):
        net[follower].node.report_disconnected(1)
    net.tick(2, only=(3, 4, 5))
    assert not any(net[m].role is Role.LEADER for m in (3, 4, 5))
    net.tick(1, only=(3, 4, 5))
    assert net[3].role is Role.LEADER


def test_who_alone_lost_the_connection_to_a_leader_disturbs_nobody() -> None:
    net = Net(3)
    net.elect(1)
    term = net[1].node.term
    net[3].node.report_disconnected(1)
    net[3].node.report_disconnected(2)
    net.tick(3, only=(3,))
    assert net[3].role is Role.PRE_CANDIDATE
    net.tick(2)
    assert net[1].role is Role.LEADER and net[1].node.term == term
    assert {host.node.leader for host in net.hosts.values()} == {1}


def test_a_new_leader_commits_a_noop() -> None:
    net = Net(3)
    net.elect(2)
    assert [e.data for e in net[1].applied] == [b""]


def test_granted_pre_votes_of_an_earlier_question_do_not_count() -> None:
    net = Net(3)
    net[1].node.campaign()
    net[1].drain()
    net[1].node.step(Message(MessageKind.PRE_VOTE_RESP, 1, 2, term=net[1].node.term))
    assert net[1].role is Role.PRE_CANDIDATE


class TestTransfer:
    def test_to_an_up_to_date_member(self) -> None:
        net = Net(3)
        net.elect(1).node.transfer_leader(2)
        net.settle()
        assert net[2].role is Role.LEADER and net[1].role is Role.FOLLOWER

    def test_waits_until_the_member_has_caught_up(self) -> None:
        net = Net(3)
        net.elect(1)
        net.isolate(2)
        net.propose(1, b"a")
        net[1].node.transfer_leader(2)
        net.settle()
        assert net[1].role is Role.LEADER
        net.heal()
        net.tick(2)
        assert net[2].role is Role.LEADER and net[2].data() == [b"a"]

    def test_proposals_wait_and_a_failed_transfer_is_given_up(self) -> None:
        net = Net(3)
        net.elect(1)
        net.isolate(2)
        net[1].node.transfer_leader(2)
        with pytest.raises(ProposalDropped, match="handed to member 2"):
            net[1].node.propose([b"x"])
        net.tick(11, only=[1, 3])
        net.propose(1, b"x")
        assert net[3].data() == [b"x"]

    @pytest.mark.parametrize("to", [1, 4, 9])
    def test_not_to_itself_a_learner_or_a_stranger(self, to: int) -> None:
        net = Net(3, learners=[4])
        with pytest.raises(ProposalDropped):
            net.elect(1).node.transfer_leader(to)


def test_a_learner_never_campaigns() -> None:
    net = Net(1, learners=[2])
    assert not net[2].node.campaign()
    net.isolate(1)
    net.tick(60)
    assert net[2].role is Role.FOLLOWER


def test_messages_for_others_are_ignored() -> None:
    host: Host = Net(3)[1]
    host.node.step(Message(MessageKind.HEARTBEAT, 2, 3, 9))
    host.node.step(Message(MessageKind.HEARTBEAT, 1, 1, 9))
    assert host.node.term == 1 and not host.node.has_ready()
