"""Log replication and commitment, rule by rule (Raft paper 5.3, 5.4)."""

from __future__ import annotations

import pytest

from raft.core.errors import ConfigError, InvariantBroken, NotLeader, ProposalDropped
from raft.core.memory import MemoryStorage
from raft.core.node import RawNode
from raft.core.types import NO_ANSWER, ConfState, HardState, Message, MessageKind, Role
from tests.sim.sim_mutations import commits_entries_of_older_terms
from tests.unit.raft_core.raft_net import Net, entry


def test_an_entry_on_a_majority_is_committed_and_applied_everywhere_in_order() -> None:
    net = Net(3)
    net.elect(1)
    net.propose(1, b"a", b"b")
    net.propose(1, b"c")
    assert all(h.data() == [b"a", b"b", b"c"] for h in net.hosts.values())


def test_propose_says_where_the_entries_went() -> None:
    net = Net(3)
    net.elect(1)
    proposed = net[1].node.propose([b"a", b"b"])
    net.settle()
    assert [(e.term, e.index) for e in net[2].applied[-2:]] == [(proposed.term, i) for i in (3, 4)]
    assert (proposed.first, proposed.last) == (3, 4)


def test_only_the_leader_takes_proposals_and_says_who_it_is() -> None:
    net = Net(3)
    net.elect(1)
    with pytest.raises(NotLeader) as e:
        net[2].node.propose([b"a"])
    assert e.value.leader == 1
    with pytest.raises(ProposalDropped, match="empty"):
        net[1].node.propose([b""])


def commits_alone(net: Net) -> list[Message]:
    return [m for m in net.sent(MessageKind.APPEND) if m.hint == NO_ANSWER]


def test_what_tells_a_commit_alone_is_not_answered() -> None:
    net = Net(3)
    net.elect(1)
    net.log.clear()
    net.propose(1, b"a")
    with_entries = [m for m in net.sent(MessageKind.APPEND) if m.entries]
    assert len(with_entries) == 2 == len(commits_alone(net))
    assert len(net.sent(MessageKind.APPEND_RESP)) == len(with_entries)
    assert all(h.data() == [b"a"] for h in net.hosts.values())


def test_a_lost_commit_is_told_again_by_the_next_heartbeat() -> None:
    net = Net(3)
    net.elect(1)
    net.lost = lambda m: m.hint == NO_ANSWER
    net.propose(1, b"a")
    assert net[1].data() == [b"a"] and net[2].data() == []
    net.tick(1)
    assert net[2].data() == [b"a"] == net[3].data()


def test_a_lost_acknowledgement_is_asked_for_again() -> None:
    net = Net(3)
    net.elect(1)
    net.isolate(3)
    net.propose(1, b"a")
    net.lost = lambda m: 3 in (m.to, m.sender) or m.kind is MessageKind.APPEND_RESP
    net.propose(1, b"b")
    assert net[1].data() == [b"a"]
    net.isolate(3)
    net.tick(2)
    assert net[1].data() == [b"a", b"b"] == net[2].data()


def test_a_commit_alone_is_refused_where_the_logs_do_not_match() -> None:
    net = Net(3)
    net.elect(1)
    term = net[1].node.term
    message = Message(MessageKind.APPEND, 2, sender=1, term=term, index=9, log_term=term, commit=9, hint=NO_ANSWER)
    net[2].node.step(message)
    [answer] = net[2].drain()
    assert answer.kind is MessageKind.APPEND_RESP and answer.reject


def test_without_a_majority_nothing_is_committed() -> None:
    net = Net(5)
    net.elect(1)
    net.isolate(3, 4, 5)
    net.propose(1, b"a")
    assert net[1].data() == [] == net[2].data()
    net.heal()
    net.tick(3)
    assert all(h.data() == [b"a"] for h in net.hosts.values())


def test_the_leader_counts_itself_only_when_its_disk_has_it() -> None:
    """One follower is down: without the leader's own disk there is no majority."""
    net = Net(3)
    net.elect(1)
    net.isolate(3)
    net[1].hold_writes = True
    net.propose(1, b"a")
    assert net[1].node.status().commit == 2
    net[1].hold_writes = False
    net[1].persist()
    net.settle()
    assert net[2].data() == [b"a"]


def test_the_leader_sends_in_parallel_with_its_own_write() -> None:
    """Both followers can commit an entry that the leader's disk does not have yet; it applies it only afterwards."""
    net = Net(3)
    net.elect(1)
    net[1].hold_writes = True
    net.propose(1, b"a")
    assert net[1].node.status().commit == 3
    assert net[1].data() == []
    net[1].hold_writes = False
    net[1].persist()
    net.settle()
    assert net[1].data() == [b"a"] == net[2].data()


def test_a_follower_acknowledges_only_what_its_disk_has() -> None:
    net = Net(3)
    net.elect(1)
    net.isolate(3)
    net[2].hold_writes = True
    net.propose(1, b"a")
    assert net[1].node.status().commit == 2
    net[2].hold_writes = False
    late = net[2].persist()
    assert [m.kind for m in late] == [MessageKind.APPEND_RESP]


def figure_8() -> Net:
    """1 leads in term 4 and has brought term 2's entry to a majority; 3, whose log ends in term 3, is cut off."""
    net = Net(3, max_size_per_msg=1)
    net.with_log(1, [2], term=3)
    net.with_log(3, [3], term=3)
    net.isolate(3)
    # Only term 2's entry gets through, not the no-op of term 4.
    isolated = net.lost
    net.lost = lambda m: isolated(m) or (net[2].storage.last_index() == 2 and any(e.term == 4 for e in m.entries))
    net.elect(1)
    net.tick(2, only=[1, 2])
    assert net[1].node.term == 4
    assert net[2].storage.term(2) == 2
    return net


def test_entries_of_older_terms_are_not_committed_by_counting() -> None:
    net = figure_8()
    assert net[1].node.status().commit == 1, "a majority has it, and that alone commits nothing"
    # So 3, whose log ends in a higher term, may still win and overwrite it.
    net.isolate(1)
    net.elect(3)
    assert net[2].storage.term(2) == 3
    net.heal()
    net.tick(3)
    assert net[1].storage.term(2) == 3


def test_who_commits_them_by_counting_would_lose_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong core of docs/consensus.md, which the simulation catches by luck alone."""
    commits_entries_of_older_terms(monkeypatch)
    net = figure_8()
    assert net[1].node.status().commit == 2 and net[1].data() == [b"x"], "it tells its client that this is kept"
    net.isolate(1)
    net.elect(3)
    terms = {member: next(e.term for e in net[member].applied if e.index == 2) for member in (1, 3)}
    assert terms == {1: 2, 3: 3}, "and another leader applies another entry in its place"


def test_committing_one_of_its_own_commits_all_before() -> None:
    net = Net(3)
    net.with_log(1, [2], term=3)
    net.elect(1)
    assert net[2].data() == [b"x"]


FIGURE_7 = {
    "a": [1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 4],
    "c": [1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 4, 4, 4, 4],
    "f": [1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("case", FIGURE_7)
def test_a_leader_repairs_any_followers_log(case: str) -> None:
    """Figure 7: missing entries, extra entries, both."""
    net = Net(3)
    net.with_log(1, [1, 1, 4, 4, 5, 5, 6, 6, 6], term=7)
    net.with_log(2, FIGURE_7[case], term=7)
    net.with_log(3, [1, 1], term=7)
    net.isolate(2)
    net.elect(1)
    net.heal()
    net.tick(3)
    last = net[1].storage.last_index()
    want = net[1].storage.entries(2, last + 1, 1 << 20)
    assert net[2].storage.entries(2, net[2].storage.last_index() + 1, 1 << 20) == want


def test_a_conflicting_term_is_skipped_in_one_step() -> None:
    net = Net(3)
    net.with_log(1, [1, 4, 5], term=5)
    net.with_log(2, [1, *[2] * 50], term=5)
    net.isolate(2)
    net.elect(1)
    net.heal()
    net.log.clear()
    net.tick(2)
    assert net[2].storage.term(4) == 5
    assert len([m for m in net.sent(MessageKind.APPEND_RESP, 2) if m.reject]) <= 2


def test_a_delayed_append_does_not_take_back_newer_entries() -> None:
    net = Net(3)
    net.elect(1)
    net.propose(1, b"a")
    old = next(m for m in net.log if m.kind is MessageKind.APPEND and m.to == 2 and m.entries)
    net.propose(1, b"b")
    net[2].node.step(Message.from_wire(old.to_wire()))
    net.settle()
    assert net[2].storage.last_index() == 4 and net[2].data() == [b"a", b"b"]


def test_nor_newer_entries_that_are_only_acknowledged() -> None:
    host = Net(3)[1]
    old = Message(MessageKind.APPEND, 1, 2, 2, 1, 1, [entry(2, 2)])
    host.node.step(old)
    host.node.step(Message(MessageKind.APPEND, 1, 2, 2, 2, 2, [entry(2, 3)]))
    host.drain()
    host.node.step(Message.from_wire(old.to_wire()))
    host.drain()
    assert host.node.status().last_index == 3


def test_a_commit_index_past_the_log_stops_the_process() -> None:
    net = Net(3)
    with pytest.raises(InvariantBroken, match="wiped"):
        net[1].node.step(Message(MessageKind.HEARTBEAT, 1, 2, 3, commit=50))


def test_a_conflict_with_a_committed_entry_stops_the_process() -> None:
    net = Net(3)
    net.elect(1)
    net.propose(1, b"a")
    forged = Message(MessageKind.APPEND, 2, 3, 9, log_term=2, index=3, entries=[entry(9, 4)])
    net[2].node._r.log.committed = 3
    net[2].node.step(forged)
    with pytest.raises(InvariantBroken, match="committed"):
        net[2].node._r.log._truncate(2)


class TestFlow:
    def test_inflight_window(self) -> None:
        net = Net(3, max_inflight=4)
        net.elect(1)
        net[2].hold_writes = True
        for i in range(10):
            net.propose(1, b"%d" % i)
        sent = [m for m in net.sent(MessageKind.APPEND, 1) if m.to == 2 and m.entries and m.index >= 2]
        assert len(sent) == 4
        net[2].hold_writes = False
        for m in net[2].persist():
            net[1].node.step(m)
        net.settle()
        assert len(net[2].data()) == 10

    def test_messages_are_limited_in_size_but_carry_one_entry_at_least(self) -> None:
        net = Net(3, max_size_per_msg=100)
        net.elect(1)
        net.isolate(2)
        net.propose(1, b"x" * 500, *[b"y" * 30] * 6)
        net.heal()
        net.log.clear()
        net.tick(3)
        sizes = [len(m.entries) for m in net.sent(MessageKind.APPEND, 1) if m.to == 2 and m.entries]
        assert max(sizes) == 2 and len(net[2].data()) == 7

    def test_uncommitted_bytes_are_limited_and_freed_by_commits(self) -> None:
        net = Net(3, max_uncommitted_bytes=300)
        net.elect(1)
        net.isolate(2, 3)
        net.propose(1, b"x" * 250)
        with pytest.raises(ProposalDropped, match="wait to be committed"):
            net[1].node.propose([b"y" * 50])
        net.heal()
        net.tick(2)
        net.propose(1, b"y" * 50)
        assert len(net[3].data()) == 2

    def test_one_large_proposal_always_fits(self) -> None:
        net = Net(1, max_uncommitted_bytes=10)
        net.elect(1)
        net.propose(1, b"x" * 100)
        assert len(net[1].data()) == 1

    def test_an_unreachable_member_is_probed_again(self) -> None:
        net = Net(3)
        net.elect(1)
        net.isolate(2)
        net.propose(1, b"a")
        net[1].node.report_unreachable(2)
        assert net[1].node.status().progress[2].state == "probe"
        net.heal()
        net.tick(2)
        assert net[1].node.status().progress[2].state == "replicate" and net[2].data() == [b"a"]

    def test_a_ready_carries_committed_entries_in_limited_portions(self) -> None:
        net = Net(1, max_apply_bytes=50)
        host = net.elect(1)
        host.hold_applies = True
        host.node.propose([b"x" * 40] * 3)
        sizes = []
        for _ in range(9):
            ready = host.node.ready()
            host.storage.append(ready.entries)
            host.node.on_persisted(ready.number)
            sizes.append(len(ready.committed_entries))
        assert sum(sizes) == 3 and max(sizes) == 1


class TestSnapshots:
    def _behind(self) -> Net:
        net = Net(3)
        net.elect(1)
        net.isolate(3)
        for i in range(5):
            net.propose(1, b"%d" % i)
        net[1].compact()
        net.heal()
        return net

    def test_a_member_behind_the_log_gets_one_and_then_entries(self) -> None:
        net = self._behind()
        net.tick(2)
        assert net[3].node.status().first_index == 8
        net.propose(1, b"after")
        assert net[3].data()[-1:] == [b"after"]
        assert net[1].node.status().progress[3].state == "replicate"

    def test_nothing_is_sent_to_it_until_it_is_reported(self) -> None:
        net = self._behind()
        net.lost = lambda m: m.kind is MessageKind.SNAPSHOT
        net.tick(8)
        assert len(net.sent(MessageKind.SNAPSHOT)) == 1
        net[1].node.report_snapshot(3, False)
        net.heal()
        net.tick(3)
        assert len(net.sent(MessageKind.SNAPSHOT)) == 2
        assert net[3].node.status().commit == net[1].node.status().commit

    def test_its_acknowledgement_waits_for_the_disk_and_entries_after_it_wait_too(self) -> None:
        net = self._behind()

        def hold(m: Message) -> bool:
            net[3].hold_writes |= m.kind is MessageKind.SNAPSHOT
            return False

        net.lost = hold
        net.tick(2)
        status = net[3].node.status()
        assert (status.commit, status.applied) == (7, 2)
        assert not net[3].node.campaign()
        net[3].hold_writes = False
        assert MessageKind.APPEND_RESP in {m.kind for m in net[3].persist()}
        assert net[3].node.status().applied == 7

    def test_one_that_is_held_already_changes_nothing(self) -> None:
        net = Net(3)
        net.elect(1)
        net.propose(1, b"a")
        net[1].compact()
        before = net[2].node.status()
        snapshot = net[1].storage.snapshot()
        net[2].node.step(Message(MessageKind.SNAPSHOT, 2, 1, before.term, snapshot=snapshot))
        net.settle()
        assert net[2].node.status() == before


def test_a_late_report_of_an_overwritten_write_does_not_count() -> None:
    """The race in log.py."""
    net = Net(3)
    host = net[1]
    host.hold_writes = True
    host.node.step(Message(MessageKind.APPEND, 1, 2, 2, 1, 1, [entry(2, 2), entry(2, 3)]))
    host.drain()
    first = host.held.pop(0)
    host.node.step(Message(MessageKind.APPEND, 1, 3, 3, 1, 1, [entry(3, 2)]))
    host.drain()
    host.storage.append(first.entries)
    host.node.on_persisted(first.number)
    assert host.node.status().persisted == 1
    host.persist()
    assert host.node.status().persisted == 2 and host.storage.term(2) == 3


def test_committed_entries_are_handed_out_only_when_durable_here() -> None:
    net = Net(3)
    net[1].hold_writes = True
    net[1].node.step(Message(MessageKind.APPEND, 1, 2, 2, 1, 1, [entry(2, 2)], commit=2))
    net[1].drain()
    assert net[1].node.status().commit == 2 and net[1].applied == []
    net[1].persist()
    net[1].hold_writes = False
    net[1].drain()
    assert [e.index for e in net[1].applied] == [2]


class TestRestart:
    def test_everything_durable_comes_back(self) -> None:
        net = Net(3)
        net.elect(1)
        net.propose(1, b"a")
        term = net[1].node.term
        for host in net.hosts.values():
            host.restart()
        assert all(h.node.status().commit == 3 and h.role is Role.FOLLOWER for h in net.hosts.values())
        net.elect(2)
        assert net[2].node.term > term
        net.propose(2, b"b")
        assert net[1].data()[-1] == b"b"

    def test_a_state_machine_ahead_of_the_snapshot_is_not_given_its_entries_again(self) -> None:
        storage = MemoryStorage.bootstrap(ConfState((1,)))
        storage.append([entry(1, 2), entry(1, 3)])
        storage.set_hard_state(HardState(1, 0, 3))
        net = Net(1)
        net[1].storage = storage
        net[1].config = {"applied": 2}
        net[1].restart()
        net[1].drain()
        assert [e.index for e in net[1].applied] == [3]

    @pytest.mark.parametrize("commit", [0, 9])
    def test_a_log_that_lost_committed_entries_is_refused(self, commit: int) -> None:
        storage = MemoryStorage.bootstrap(ConfState((1,)))
        storage.set_hard_state(HardState(1, 0, commit))
        net = Net(1)
        if commit == 0:
            net[1].config = {"applied": 5}
        net[1].storage = storage
        with pytest.raises(InvariantBroken):
            net[1].restart()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"id": 0}, "greater than 0"),
        ({"heartbeat_ticks": 0}, "at least 1"),
        ({"election_ticks": 2}, "heartbeat_ticks"),
        ({"check_quorum": False}, "check_quorum"),
        ({"max_inflight": 0}, "max_inflight"),
    ],
)
def test_unsafe_configurations_are_refused(setting: dict[str, int], says: str) -> None:
    import random

    from raft.core.config import Config

    config = Config(**{"id": 1, "rng": random.Random(0), **setting})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=says):
        RawNode(config, MemoryStorage())
