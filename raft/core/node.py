"""RawNode: the one door to the consensus core. Pure: no IO, no clock; time is ``tick``, luck is ``Config.rng``.

    node.tick() / node.step(message) / node.propose([...]) / node.read_index(ctx)
    while node.has_ready():
        rd = node.ready()         # what to do: see types.Ready
        ...                       # send, write, sync
        node.on_persisted(rd.number)
        ...                       # apply
        node.advance_applied(index)

(``node.light_ready()`` first is quicker where there is often nothing to write or apply.)

Several Readys may be under way at once; report them in order. Everything must happen on one thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.core import confchange, elections, raft, replication
from raft.core.confchange import Membership
from raft.core.config import Config
from raft.core.errors import ConfChangeRefused, NotLeader, ProposalDropped
from raft.core.state import RaftState
from raft.core.storage import LogStorage
from raft.core.types import (
    NOBODY,
    ConfChange,
    ConfState,
    EntryKind,
    LightReady,
    Message,
    MessageKind,
    Proposed,
    Ready,
    Role,
    SoftState,
    Status,
)


class RawNode:
    def __init__(self, config: Config, storage: LogStorage) -> None:
        """Raises ConfigError, InvariantBroken (storage and hard state do not fit together)."""
        self._r = RaftState(config, storage)
        self._number = 0
        self._handed_hard = self._r.hard_state()
        self._handed_soft = self._soft_state()

    def _soft_state(self) -> SoftState:
        return SoftState(self._r.leader, self._r.role)

    # --- events in

    def tick(self) -> None:
        raft.tick(self._r)

    def step(self, message: Message) -> None:
        """A message from another member."""
        if message.to == self._r.id and message.sender not in (NOBODY, self._r.id):
            raft.step(self._r, message)

    def campaign(self) -> bool:
        """Stand for election now (after a pre-vote, if configured). False if this member must not."""
        return elections.campaign(self._r, pre_vote=self._r.config.pre_vote)

    def propose(self, payloads: Sequence[bytes]) -> Proposed:
        """One entry each, consecutive. Says where they went, not that they are committed.

        Payloads must not be empty: an empty entry is a leader's no-op. Raises NotLeader, ProposalDropped.
        """
        self._need_leader()
        if not payloads or not all(payloads):
            raise ProposalDropped("an empty proposal")
        return replication.propose(self._r, EntryKind.NORMAL, payloads)

    def propose_conf_change(self, cc: ConfChange) -> Proposed:
        """Raises NotLeader, ProposalDropped, ConfChangeRefused (invalid now, or another is in progress)."""
        self._need_leader()
        r = self._r
        if r.pending_conf_index > r.log.applied:
            raise ConfChangeRefused(
                f"another membership change may be in progress (entry {r.pending_conf_index} is not applied yet)"
            )
        confchange.change(r.membership, cc)
        proposed = replication.propose(r, EntryKind.CONF_CHANGE, [cc.encode()])
        r.pending_conf_index = proposed.last
        return proposed

    def read_index(self, context: bytes) -> None:
        """Ask for a linearizable read point; a Ready's ``read_states`` answers with the same ``context``.

        ``context`` must be unique for this member, restarts included. No answer comes if the leader changes or
        messages are lost: ask again. Raises NotLeader if no leader is known.
        """
        r = self._r
        if r.role is Role.LEADER:
            replication.add_read(r, r.id, context)
        elif r.leader != NOBODY:
            r.send(Message(MessageKind.READ_INDEX, r.leader, context=context))
        else:
            raise NotLeader

    def transfer_leader(self, to: int) -> None:
        """Hand leadership over. Gives up after an election time-out. Raises NotLeader, ProposalDropped."""
        self._need_leader()
        if not elections.transfer_leader(self._r, to):
            raise ProposalDropped(f"member {to} cannot be made leader: not another voter of this group")

    def report_unreachable(self, member: int) -> None:
        """A message to it was lost for sure."""
        replication.report_unreachable(self._r, member)

    def report_disconnected(self, member: int) -> None:
        """The connection from it broke, which a process that ends does and a slow one does not."""
        elections.suspect(self._r, member)
        self._r.reads.lost(member)

    def report_snapshot(self, member: int, ok: bool) -> None:
        """The snapshot for it was delivered or failed. Must be called for every SNAPSHOT message sent."""
        replication.report_snapshot(self._r, member, ok)

    def _need_leader(self) -> None:
        if self._r.role is not Role.LEADER:
            raise NotLeader(self._r.leader)

    # --- actions out

    def has_ready(self) -> bool:
        r = self._r
        return bool(r.outbox or r.read_states or r.reads.round_wanted) or self._concerns_state()

    def _concerns_state(self) -> bool:
        """There is something to write, to apply or to know, or to say once it is written."""
        r = self._r
        log = r.log
        return bool(
            r.durable_outbox
            or log.handed < log.last_index()
            or log.can_apply()
            or (log.pending_snapshot is not None and not log.snapshot_handed)
            or (r.term, r.vote, log.committed) != self._handed_hard
            or (r.leader, r.role) != self._handed_soft
        )

    def light_ready(self) -> LightReady | None:
        """What there is to do if that is only to send and to answer reads, as with heartbeats; None if it is more. It
        takes no number and has nothing to report. (Messages of a Ready may leave before anything of it is written.)"""
        if self._concerns_state():
            return None
        r = self._r
        if r.reads.round_wanted:
            replication.start_read_round(r)
        light = LightReady(r.outbox, r.read_states)
        r.outbox, r.read_states = [], []
        return light

    def ready(self) -> Ready:
        """Everything there is to do since the last one."""
        r = self._r
        if r.reads.round_wanted:
            replication.start_read_round(r)
        self._number += 1
        entries = r.log.unhanded()
        snapshot = r.log.pending_snapshot if not r.log.snapshot_handed else None
        hard, soft = r.hard_state(), self._soft_state()
        must_sync = bool(entries) or snapshot is not None or hard[:2] != self._handed_hard[:2]
        committed = r.log.next_committed(r.config.max_apply_bytes)
        ready = Ready(
            number=self._number,
            soft_state=soft if soft != self._handed_soft else None,
            hard_state=hard if hard != self._handed_hard else None,
            entries=entries,
            snapshot=snapshot,
            committed_entries=committed,
            messages=r.outbox,
            persisted_messages=r.durable_outbox,
            read_states=r.read_states,
            must_sync=must_sync,
        )
        r.outbox, r.durable_outbox, r.read_states = [], [], []
        self._handed_hard, self._handed_soft = hard, soft
        r.log.begin_write(self._number, hard)
        return ready

    def on_persisted(self, number: int) -> None:
        """Ready ``number`` and all before it are durable, and in the LogStorage."""
        r = self._r
        write = r.log.end_write(number)
        if write is None:
            return
        r.durable_hard_state = write.hard_state
        if write.snapshot is not None:
            self._set_membership(Membership.of(write.snapshot.conf))
        if r.role is Role.LEADER:
            replication.on_durable(r)
        else:
            elections.on_durable(r, write.hard_state)

    def advance_applied(self, index: int) -> None:
        """Everything up to ``index`` is applied. Call apply_conf_change for those among it first."""
        r = self._r
        r.log.applied_to(index)
        if r.role is Role.LEADER and r.membership.auto_leave and r.log.applied >= r.pending_conf_index:
            self._leave_joint()

    def _leave_joint(self) -> None:
        try:
            proposed = replication.propose(self._r, EntryKind.CONF_CHANGE, [ConfChange().encode()])
        except ProposalDropped:
            return  # tried again with the next entry that is applied
        self._r.pending_conf_index = proposed.last

    def apply_conf_change(self, cc: ConfChange) -> ConfState:
        """A committed membership change is applied now: returns the membership from here on.

        A change that is not valid any more (proposed twice, say) changes nothing.
        """
        try:
            self._set_membership(confchange.change(self._r.membership, cc))
        except ConfChangeRefused:
            pass  # every member refuses it alike: the membership it is applied to is the same everywhere
        return self._r.membership.conf_state()

    def _set_membership(self, membership: Membership) -> None:
        r = self._r
        r.membership = membership
        if r.role is not Role.LEADER:
            return
        if not membership.is_voter(r.id):
            r.become_follower(r.term, NOBODY)
            return
        r.set_progress()
        r.reads.choose_anew()
        if not membership.is_voter(r.transferee):
            r.transferee = NOBODY
        replication.maybe_commit(r)
        replication.broadcast_append(r)
        replication.answer_reads(r)

    # --- looking

    def status(self) -> Status:
        r = self._r
        return Status(
            id=r.id,
            term=r.term,
            vote=r.vote,
            role=r.role,
            leader=r.leader,
            commit=r.log.committed,
            applied=r.log.applied,
            persisted=r.log.persisted,
            first_index=r.log.first_index(),
            last_index=r.log.last_index(),
            conf=r.membership.conf_state(),
            transferee=r.transferee,
            progress={member: pr.status() for member, pr in r.progress.items()},
        )

    @property
    def is_leader(self) -> bool:
        return self._r.role is Role.LEADER

    @property
    def leader(self) -> int:
        """Who leads, 0 if nobody is known to."""
        return self._r.leader

    @property
    def term(self) -> int:
        return self._r.term
