"""Wrong versions of the core, each breaking one rule, to see that the simulation notices (docs/consensus.md)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raft.core import confchange, elections, replication, state
from raft.core.confchange import Membership
from raft.core.log import RaftLog
from raft.core.node import RawNode
from raft.core.readonly import ReadQueue
from raft.core.state import RaftState
from raft.core.storage import LogStorage
from raft.core.types import ConfChange, Entry, Message, MessageKind
from raft.storage import wal_replay

Mutation = Callable[[pytest.MonkeyPatch], None]


def forgets_vote_when_following(mp: pytest.MonkeyPatch) -> None:
    """Whenever it becomes a follower, also within a term (raftos does)."""
    original = RaftState.become_follower

    def become_follower(r: RaftState, term: int, leader: int) -> None:
        original(r, term, leader)
        r.vote = 0

    mp.setattr(RaftState, "become_follower", become_follower)


def forgets_vote_at_restart(mp: pytest.MonkeyPatch) -> None:
    original = RaftState.__init__

    def init(self: RaftState, config: object, storage: LogStorage) -> None:
        original(self, config, storage)  # type: ignore[arg-type]
        self.vote = 0

    mp.setattr(RaftState, "__init__", init)


def promises_before_fsync(mp: pytest.MonkeyPatch) -> None:
    """Votes and acknowledgements are sent at once."""
    mp.setattr(state, "DURABLE_KINDS", frozenset())


def acks_before_fsync(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(state, "DURABLE_KINDS", state.DURABLE_KINDS - {MessageKind.APPEND_RESP})


def votes_before_fsync(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(state, "DURABLE_KINDS", state.DURABLE_KINDS - {MessageKind.VOTE_RESP})


def leader_counts_itself_before_fsync(mp: pytest.MonkeyPatch) -> None:
    original = replication.maybe_commit

    def maybe_commit(r: RaftState) -> bool:
        r.progress[r.id].match = r.log.last_index()
        return original(r)

    mp.setattr(replication, "maybe_commit", maybe_commit)


def commits_entries_of_older_terms(mp: pytest.MonkeyPatch) -> None:
    """Figure 8 of the paper."""

    original = replication.maybe_commit

    def maybe_commit(r: RaftState) -> bool:
        index = r.membership.acked(lambda member: r.progress[member].match)
        if not r.log.matches(index, r.term):
            return r.log.commit_to(index)
        return original(r)

    mp.setattr(replication, "maybe_commit", maybe_commit)


def votes_for_shorter_logs(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(RaftLog, "is_up_to_date", lambda self, index, term: True)


def votes_by_length_alone(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(RaftLog, "is_up_to_date", lambda self, index, term: index >= self.last_index())


def reads_without_asking_a_quorum(mp: pytest.MonkeyPatch) -> None:
    original = ReadQueue.confirm
    mp.setattr(ReadQueue, "confirm", lambda self, round_: original(self, self.round))


def reads_before_committing_in_its_term(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(replication, "add_read", lambda r, reader, context: r.reads.add(reader, context, r.log.committed))


def reads_join_a_round_under_way(mp: pytest.MonkeyPatch) -> None:
    original = ReadQueue.add

    def add(self: ReadQueue, reader: int, context: bytes, commit: int) -> None:
        original(self, reader, context, commit)
        last = self._waiting.pop()
        self._waiting.append(last._replace(round=max(1, self.round)))

    mp.setattr(ReadQueue, "add", add)


def truncates_at_every_append(mp: pytest.MonkeyPatch) -> None:
    """A delayed APPEND takes back entries that were acknowledged since."""
    original = RaftLog.append_after

    def append_after(self: RaftLog, index: int, term: int, entries: list[Entry]) -> int | None:
        if self.matches(index, term) and self.committed <= index < self.last_index():
            self._truncate(index + 1)
        return original(self, index, term, entries)

    mp.setattr(RaftLog, "append_after", append_after)


def skips_the_log_check(mp: pytest.MonkeyPatch) -> None:
    """Appends without comparing what comes before."""
    original = RaftLog.append_after

    def append_after(self: RaftLog, index: int, term: int, entries: list[Entry]) -> int | None:
        if index <= self.last_index() and index >= self.first_index():
            term = self.term(index)
        return original(self, index, term, entries)

    mp.setattr(RaftLog, "append_after", append_after)


def swaps_members_in_one_step(mp: pytest.MonkeyPatch) -> None:
    """No joint configuration however many voters change."""

    def enter(current: Membership, cc: ConfChange) -> Membership:
        changed = current
        for op, member in cc.changes:
            changed = confchange._one(changed, op, member, joint=False)
        return confchange._checked(changed)

    mp.setattr(confchange, "_enter", enter)


def overlapping_membership_changes(mp: pytest.MonkeyPatch) -> None:
    original = RawNode.propose_conf_change

    def propose(self: RawNode, cc: ConfChange) -> object:
        self._r.pending_conf_index = 0
        return original(self, cc)

    mp.setattr(RawNode, "propose_conf_change", propose)


def campaigns_with_unapplied_membership(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(elections, "_has_unapplied_conf_change", lambda r: False)


def claims_survive_truncation(mp: pytest.MonkeyPatch) -> None:
    """The race in log.py: a late report of an overwritten write counts."""
    mp.setattr(RaftLog, "_lower_claims", lambda self, last: None)


def replay_keeps_overwritten_entries(mp: pytest.MonkeyPatch) -> None:
    def add(self: wal_replay.Replayer, offset: int, entries: list[Entry]) -> None:
        last = self._entries[-1].index if self._entries else self._marker.index
        self._entries.extend(e for e in entries if e.index > last)

    mp.setattr(wal_replay.Replayer, "_add", add)


def heartbeats_carry_the_full_commit(mp: pytest.MonkeyPatch) -> None:
    def broadcast(r: RaftState) -> None:
        for member in r.progress:
            if member != r.id:
                r.send(Message(MessageKind.HEARTBEAT, member, commit=r.log.committed, hint=r.reads.round))

    mp.setattr(replication, "broadcast_heartbeat", broadcast)


def applies_twice(mp: pytest.MonkeyPatch) -> None:
    """Now and then the last entry that was applied is handed out once more."""
    original = RaftLog.next_committed

    def next_committed(self: RaftLog, max_bytes: int) -> list[Entry]:
        if self.can_apply() and self.applying % 16 == 0 and self.applying >= self.first_index():
            self.applying -= 1
        return original(self, max_bytes)

    mp.setattr(RaftLog, "next_committed", next_committed)


def goes_on_after_a_failed_sync(mp: pytest.MonkeyPatch) -> None:
    """As if a second sync that succeeds said anything about the first."""
    from tests.sim.sim_member import SimMember

    original = SimMember._synced

    def synced(self: SimMember, batch: list[object], offset: int) -> None:
        if self.sync_fails is not None and offset:
            self.sync_fails = None
            self.disk.sync_failed()
        original(self, batch, offset)  # type: ignore[arg-type]

    mp.setattr(SimMember, "_synced", synced)


def learners_count(mp: pytest.MonkeyPatch) -> None:
    def acked(self: Membership, value: Callable[[int], int]) -> int:
        return confchange.acked_by_quorum(self.incoming | self.learners, self.outgoing, value)

    mp.setattr(Membership, "acked", acked)


def forgets_the_snapshots_membership(mp: pytest.MonkeyPatch) -> None:
    mp.setattr(RawNode, "_set_membership", _only_changes(RawNode._set_membership))


def _only_changes(original: Callable[[RawNode, Membership], None]) -> Callable[[RawNode, Membership], None]:
    def set_membership(self: RawNode, membership: Membership) -> None:
        if self._r.membership.incoming:
            original(self, membership)

    return set_membership


MUTATIONS: dict[str, Mutation] = {
    f.__name__: f
    for f in (
        forgets_vote_when_following,
        forgets_vote_at_restart,
        promises_before_fsync,
        acks_before_fsync,
        votes_before_fsync,
        leader_counts_itself_before_fsync,
        commits_entries_of_older_terms,
        votes_for_shorter_logs,
        votes_by_length_alone,
        reads_without_asking_a_quorum,
        reads_before_committing_in_its_term,
        reads_join_a_round_under_way,
        truncates_at_every_append,
        skips_the_log_check,
        swaps_members_in_one_step,
        overlapping_membership_changes,
        campaigns_with_unapplied_membership,
        claims_survive_truncation,
        replay_keeps_overwritten_entries,
        heartbeats_carry_the_full_commit,
        applies_twice,
        goes_on_after_a_failed_sync,
        learners_count,
        forgets_the_snapshots_membership,
    )
}
