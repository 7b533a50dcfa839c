"""Linearizable reads (dissertation 6.4) and membership changes (4.1 to 4.3)."""

from __future__ import annotations

import pytest

from raft.core.confchange import Membership, change
from raft.core.errors import ConfChangeRefused, NotLeader
from raft.core.quorum import Vote, acked_by_quorum, vote_result
from raft.core.types import (
    ConfChange,
    ConfOp,
    ConfState,
    Message,
    MessageKind,
    Role,
    Snapshot,
    SnapshotMeta,
    add_learner,
    add_voter,
    remove_member,
)
from tests.unit.raft_core.raft_net import Net


class TestReads:
    def test_at_the_leader_and_through_a_follower(self) -> None:
        net = Net(3)
        net.elect(1)
        net.propose(1, b"a")
        net[1].node.read_index(b"r1")
        net[2].node.read_index(b"r2")
        net.settle()
        assert net[1].reads == [(3, b"r1")] and net[2].reads == [(3, b"r2")]

    def test_a_single_member_answers_itself(self) -> None:
        net = Net(1)
        net.elect(1)
        net[1].node.read_index(b"r")
        net.settle()
        assert net[1].reads == [(2, b"r")]

    def test_a_deposed_leader_answers_nothing(self) -> None:
        net = Net(3)
        net.elect(1)
        net.isolate(1)
        net.elect(2)
        net.propose(2, b"a")
        net[1].node.read_index(b"r")
        net.settle()
        assert net[1].reads == []
        net.heal()
        net.tick(3)
        assert net[1].reads == []

    def test_it_waits_for_a_commit_in_the_leaders_term(self) -> None:
        net = Net(3)
        net.with_log(1, [1, 1])
        net.lost = lambda m: m.kind is MessageKind.APPEND
        net.elect(1)
        net[1].node.read_index(b"r")
        net.tick(1)
        assert net[1].reads == []
        net.heal()
        net.tick(2)
        assert net[1].reads == [(4, b"r")]

    def test_it_needs_a_round_that_starts_after_it(self) -> None:
        """Answers that were under way when the read came prove nothing about now."""
        net = Net(3)
        leader = net.elect(1)
        leader.node.read_index(b"first")
        asked = [m for m in leader.drain() if m.kind is MessageKind.HEARTBEAT]
        answers = []
        for m in asked:
            net[m.to].node.step(m)
            answers += net[m.to].drain()
        leader.node.read_index(b"second")
        for m in answers:
            leader.node.step(m)
        held = leader.drain()
        assert [c for _, c in leader.reads] == [b"first"]
        for m in held:
            net[m.to].node.step(m)
        net.settle()
        assert [c for _, c in leader.reads] == [b"first", b"second"]

    def test_reads_that_come_together_share_a_round(self) -> None:
        net = Net(3)
        net.elect(1)
        net.log.clear()
        for i in range(50):
            net[1].node.read_index(b"%d" % i)
        net.settle()
        assert len(net[1].reads) == 50
        assert len(net.sent(MessageKind.HEARTBEAT)) == 2

    def test_answers_of_another_member_or_round_do_not_count(self) -> None:
        net = Net(3, learners=[4])
        net.elect(1)
        net.lost = lambda m: m.to in (2, 3)
        net[1].node.read_index(b"r")
        net.settle()
        assert net[1].reads == []

    def test_without_a_leader(self) -> None:
        with pytest.raises(NotLeader):
            Net(3)[1].node.read_index(b"r")

    def test_heartbeat_answers_do_not_wait_for_entries_to_be_synced(self) -> None:
        net = Net(3)
        net.elect(1)
        net[2].hold_writes = net[3].hold_writes = True
        net.propose(1, b"a")
        net[1].node.read_index(b"r")
        net.settle()
        assert [c for _, c in net[1].reads] == [b"r"]


def read(net: Net, context: bytes) -> list[int]:
    """A read at the leader, member 1: whom it asked."""
    net.log.clear()
    net[1].node.read_index(context)
    net.settle()
    return [m.to for m in net.sent(MessageKind.HEARTBEAT, sender=1)]


def answered(net: Net) -> list[bytes]:
    return [context for _, context in net[1].reads]


class TestWhomARoundAsks:
    """A quorum of those who were prompt, as long as they are."""

    @pytest.mark.parametrize(("size", "enough"), [(2, 1), (3, 1), (4, 2), (5, 2), (7, 3)])
    def test_no_more_than_a_quorum_after_a_full_round(self, size: int, enough: int) -> None:
        net = Net(size)
        net.elect(1)
        assert len(read(net, b"full")) == size - 1
        assert len(read(net, b"few")) == enough and answered(net) == [b"full", b"few"]

    def test_those_who_answered_first(self) -> None:
        net = Net(3)
        net.elect(1)
        net.lost = lambda m: m.kind is MessageKind.HEARTBEAT_RESP and m.sender == 2
        assert read(net, b"full") == [2, 3]
        net.heal()
        assert read(net, b"few") == [3] and answered(net) == [b"full", b"few"]

    def test_everybody_while_an_earlier_read_waits(self) -> None:
        net = Net(3)
        net.elect(1)
        read(net, b"full")
        net.isolate(2)
        assert read(net, b"lost") == [2] and answered(net) == [b"full"]
        assert read(net, b"next") == [2, 3] and answered(net) == [b"full", b"lost", b"next"]
        assert read(net, b"prompt") == [3]

    def test_everybody_with_the_next_heartbeat(self) -> None:
        net = Net(3)
        net.elect(1)
        read(net, b"full")
        net.isolate(2)
        read(net, b"lost")
        net.tick(1, only=[1])
        assert answered(net) == [b"full", b"lost"]
        assert read(net, b"prompt") == [3]

    @pytest.mark.parametrize("how", ["report_unreachable", "report_disconnected"])
    def test_everybody_at_once_when_a_connection_breaks(self, how: str) -> None:
        net = Net(3)
        net.elect(1)
        read(net, b"full")
        net.isolate(2)
        read(net, b"lost")
        getattr(net[1].node, how)(2)
        net.settle()
        assert answered(net) == [b"full", b"lost"]

    def test_a_deposed_leader_is_not_confirmed_by_those_it_did_not_ask(self) -> None:
        net = Net(3)
        net.elect(1)
        read(net, b"full")
        net.isolate(1)
        net.elect(2)
        net.propose(2, b"a")
        assert read(net, b"r") == [2] and answered(net) == [b"full"]
        net.tick(1, only=[1])
        assert answered(net) == [b"full"]

    def test_learners_are_not_asked_in_place_of_voters(self) -> None:
        net = Net(3, learners=[4])
        net.elect(1)
        net.isolate(2, 3)
        assert read(net, b"full") == [2, 3, 4]
        net.heal()
        assert read(net, b"again") == [2, 3, 4] and answered(net) == [b"full", b"again"]
        assert read(net, b"few") == [2]

    def test_a_member_that_left_is_not_asked(self) -> None:
        net = Net(3)
        net.elect(1)
        read(net, b"full")
        net[1].node.propose_conf_change(remove_member(2))
        net.settle()
        assert read(net, b"r") == [3] and answered(net) == [b"full", b"r"]


class TestLightReady:
    def test_a_read_is_light_for_all_who_take_part(self) -> None:
        net = Net(3)
        net.elect(1)
        leader, follower = net[1].node, net[2].node
        leader.read_index(b"r")
        asked = leader.light_ready()
        assert asked is not None and [m.kind for m in asked.messages] == [MessageKind.HEARTBEAT] * 2
        follower.step(next(m for m in asked.messages if m.to == 2))
        answer = follower.light_ready()
        assert answer is not None and [m.kind for m in answer.messages] == [MessageKind.HEARTBEAT_RESP]
        leader.step(answer.messages[0])
        confirmed = leader.light_ready()
        assert confirmed is not None and [(s.index, s.context) for s in confirmed.read_states] == [(2, b"r")]
        assert not leader.has_ready() and not follower.has_ready()

    def test_what_is_written_applied_or_learned_is_not(self) -> None:
        net = Net(3)
        leader = net.elect(1)
        leader.node.read_index(b"r")
        leader.node.propose([b"a"])
        assert leader.node.light_ready() is None
        ready = leader.node.ready()  # nothing was taken from it
        assert {m.kind for m in ready.messages} == {MessageKind.APPEND, MessageKind.HEARTBEAT}
        assert [e.data for e in ready.entries] == [b"a"]
        net[2].node.step(next(m for m in ready.messages if m.to == 2 and m.kind is MessageKind.APPEND))
        assert net[2].node.light_ready() is None

    def test_an_answer_in_a_term_that_is_not_durable_waits_for_the_disk(self) -> None:
        net = Net(3)
        net.elect(1)
        follower = net[2].node
        follower.step(Message(MessageKind.HEARTBEAT, 2, 3, term=9, hint=1))
        assert follower.light_ready() is None
        ready = follower.ready()
        assert ready.must_sync and [m.kind for m in ready.persisted_messages] == [MessageKind.HEARTBEAT_RESP]
        assert MessageKind.HEARTBEAT_RESP not in {m.kind for m in ready.messages}


class TestMembership:
    def test_a_joining_member_gets_the_first_membership_with_a_snapshot(self) -> None:
        net = Net(3)
        net.elect(1)
        net.join(4)
        net[1].node.propose_conf_change(add_learner(4))
        net.settle()
        net.tick(2)
        net[1].node.propose_conf_change(add_voter(4))
        net.settle()
        assert net[4].node.status().conf == ConfState((1, 2, 3, 4))
        net.elect(4)

    def test_learners_get_entries_but_do_not_count(self) -> None:
        net = Net(3, learners=[4, 5])
        net.elect(1)
        net.propose(1, b"a")
        assert net[4].data() == [b"a"]
        net.isolate(2, 3)
        net.propose(1, b"b")
        assert net[1].data() == [b"a"]

    def test_a_removed_leader_steps_down_once_it_is_applied(self) -> None:
        net = Net(3)
        net.elect(1)
        net[1].node.propose_conf_change(remove_member(1))
        net.settle()
        assert net[1].role is Role.FOLLOWER and not net[1].node.campaign()
        net.elect(2)
        net.propose(2, b"a")
        assert net[3].data() == [b"a"] and net[1].data() == []

    def test_two_voters_change_through_a_joint_configuration_that_is_left_by_itself(self) -> None:
        net = Net(3)
        net.elect(1)
        net.join(4)
        net.join(5)
        seen = []
        swap = ConfChange(((ConfOp.ADD_VOTER, 4), (ConfOp.ADD_VOTER, 5), (ConfOp.REMOVE, 2), (ConfOp.REMOVE, 3)))
        net[1].node.propose_conf_change(swap)
        for _ in range(30):
            net.tick(1)
            seen.append(net[1].node.status().conf)
        assert seen[-1] == ConfState((1, 4, 5))
        changes = [ConfChange.decode(e.data) for e in net[1].applied if e.kind == 1]
        assert changes == [swap, ConfChange()]

    def test_in_a_joint_configuration_both_halves_must_agree(self) -> None:
        net = Net(3)
        net.elect(1)
        net.join(4)
        net.join(5)
        cc = ConfChange(((ConfOp.ADD_VOTER, 4), (ConfOp.ADD_VOTER, 5)), joint=True, auto_leave=False)
        net[1].node.propose_conf_change(cc)
        net.settle()
        net.tick(3)
        assert net[1].node.status().conf.voters_outgoing == (1, 2, 3)
        net.isolate(2, 3)  # 1, 4, 5: a majority of the new half, not of the old
        net.propose(1, b"a")
        assert net[1].data() == []
        net.heal()
        net.tick(2)
        assert net[1].data() == [b"a"]
        net[1].node.propose_conf_change(ConfChange())
        net.settle()
        assert net[5].node.status().conf == ConfState((1, 2, 3, 4, 5))

    def test_one_change_at_a_time(self) -> None:
        net = Net(3)
        net.elect(1)
        net[1].hold_applies = True
        net[1].node.propose_conf_change(add_learner(4))
        net.settle()
        with pytest.raises(ConfChangeRefused, match="in progress"):
            net[1].node.propose_conf_change(add_learner(5))
        net[1].apply()
        net[1].node.propose_conf_change(add_learner(5))

    def test_a_new_leader_waits_until_it_has_applied_what_was_there(self) -> None:
        net = Net(3)
        net.elect(1)
        net[2].hold_applies = True
        net.propose(1, b"a")
        net.elect(2)
        with pytest.raises(ConfChangeRefused, match="in progress"):
            net[2].node.propose_conf_change(add_learner(5))

    def test_no_campaign_with_a_committed_change_that_is_not_applied(self) -> None:
        net = Net(3)
        net.elect(1)
        net[2].hold_applies = True
        net[1].node.propose_conf_change(remove_member(3))
        net.settle()
        net.tick(1, only=[1])
        assert not net[2].node.campaign()
        net[2].apply()
        assert net[2].node.campaign()

    def test_shrinking_the_quorum_commits_what_waited(self) -> None:
        net = Net(2)
        net.elect(1)
        net[1].node.propose_conf_change(remove_member(2))
        net.settle()
        net.isolate(2)
        net.propose(1, b"a")
        assert net[1].data() == [b"a"]

    @pytest.mark.parametrize(
        ("cc", "says"),
        [
            (ConfChange(), "no joint"),
            (ConfChange(((ConfOp.REMOVE, 1), (ConfOp.REMOVE, 2), (ConfOp.REMOVE, 3))), "no voter"),
            (add_voter(0), "greater than 0"),
            (ConfChange(((9, 1),)), "unknown"),
        ],
    )
    def test_invalid_changes_are_refused_before_they_are_proposed(self, cc: ConfChange, says: str) -> None:
        net = Net(3)
        net.elect(1)
        with pytest.raises(ConfChangeRefused, match=says):
            net[1].node.propose_conf_change(cc)

    def test_an_invalid_change_in_the_log_changes_nothing(self) -> None:
        net = Net(3)
        assert net[1].node.apply_conf_change(ConfChange()) == ConfState((1, 2, 3))


def test_a_voter_becomes_a_learner_only_when_the_old_half_is_gone() -> None:
    start = Membership(frozenset((1, 2, 3)))
    joint = change(start, ConfChange(((ConfOp.ADD_LEARNER, 3), (ConfOp.ADD_VOTER, 4))))
    assert joint.conf_state() == ConfState((1, 2, 4), (), (1, 2, 3), (3,), True)
    assert change(joint, ConfChange()).conf_state() == ConfState((1, 2, 4), (3,))
    with pytest.raises(ConfChangeRefused, match="left before"):
        change(joint, add_voter(9))


@pytest.mark.parametrize(
    ("voters", "outgoing", "want"),
    [((1,), (), 10), ((1, 2), (), 10), ((1, 2, 3), (), 20), ((1, 2, 3, 4), (), 20), ((1, 2, 3), (1,), 10), ((), (), 0)],
)
def test_what_a_quorum_acknowledged(voters: tuple[int, ...], outgoing: tuple[int, ...], want: int) -> None:
    assert acked_by_quorum(voters, outgoing, {1: 10, 2: 20, 3: 30, 4: 40}.__getitem__) == want


def test_vote_results() -> None:
    assert vote_result((1, 2, 3), (), {1: True, 2: True}) is Vote.WON
    assert vote_result((1, 2, 3), (), {1: True, 2: False}) is Vote.PENDING
    assert vote_result((1, 2, 3), (), {1: False, 2: False}) is Vote.LOST
    assert vote_result((1, 2, 3), (4, 5), {1: True, 2: True, 4: True}) is Vote.PENDING
    assert vote_result((), (), {}) is Vote.LOST


def test_wire_forms_are_plain_and_round_trip() -> None:
    snapshot = Snapshot(SnapshotMeta(7, 3, ConfState((1, 2), (3,), (1,), (), True)), b"data")
    net = Net(1)
    net.elect(1)
    entries = net[1].storage.entries(2, 3, 100)
    message = Message(MessageKind.APPEND, 2, 1, 3, 2, 1, entries, 1, True, 4, b"ctx", snapshot)
    wire = message.to_wire()
    assert type(wire[6][0]) is tuple and type(wire[11]) is tuple
    assert Message.from_wire(wire) == message


@pytest.mark.parametrize(
    "cc", [ConfChange(), add_voter(1 << 40, b"10.0.0.1:2380"), ConfChange(((3, 1),), b"", True, False)]
)
def test_membership_changes_round_trip(cc: ConfChange) -> None:
    assert ConfChange.decode(cc.encode()) == cc


@pytest.mark.parametrize("data", [b"", b"\x09\x00\x00\x00", b"\x01\x00\x05\x00"])
def test_membership_changes_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(ConfChangeRefused):
        ConfChange.decode(data)
