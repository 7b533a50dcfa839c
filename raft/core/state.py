"""A member's state and its changes of role. Pure.

                 +------------------------ higher term, or a leader of this term -----------------+
                 v                                                                                |
    start --> FOLLOWER -- time-out --> PRE_CANDIDATE -- majority would vote --> CANDIDATE -- majority --> LEADER
                 ^                                                                                        |
                 +------------------------ lost touch with a majority (check-quorum) ---------------------+

Two ways out for messages. ``outbox``: may be sent at once. ``durable_outbox``: promises (votes, acknowledgements),
sent only when everything decided so far is on this member's disk. Invariant: a message that another member may count
towards a quorum never leaves by ``outbox`` unless what it promises is durable already.

What handlers do lives beside: elections.py, follower.py, replication.py; raft.py dispatches.
"""

from __future__ import annotations

from raft.core.confchange import Membership
from raft.core.config import Config
from raft.core.errors import InvariantBroken
from raft.core.log import RaftLog
from raft.core.progress import Progress
from raft.core.readonly import ReadQueue
from raft.core.storage import LogStorage
from raft.core.types import NOBODY, HardState, Message, MessageKind, ReadState, Role

DURABLE_KINDS = frozenset(
    (MessageKind.VOTE, MessageKind.VOTE_RESP, MessageKind.APPEND_RESP, MessageKind.PRE_VOTE_RESP),
)
"""A vote request is among them: a candidate's vote for itself must survive before anyone answers it."""


class RaftState:
    __slots__ = (
        "config",
        "durable_hard_state",
        "durable_outbox",
        "election_elapsed",
        "heartbeat_elapsed",
        "id",
        "leader",
        "log",
        "membership",
        "outbox",
        "pending_conf_index",
        "progress",
        "read_states",
        "reads",
        "role",
        "term",
        "timeout_ticks",
        "transferee",
        "uncommitted_bytes",
        "vote",
        "votes",
    )

    def __init__(self, config: Config, storage: LogStorage) -> None:
        config.validate()
        hard_state, conf = storage.initial_state()
        applied = max(config.applied, storage.first_index() - 1)
        self.config = config
        self.id = config.id
        self.log = RaftLog(storage, max(hard_state.commit, applied), applied)
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.durable_hard_state = HardState(self.term, self.vote, self.log.committed)
        self.membership = Membership.of(conf)
        self.role = Role.FOLLOWER
        self.leader = NOBODY
        self.votes: dict[int, bool] = {}
        self.progress: dict[int, Progress] = {}
        self.reads = ReadQueue()
        self.transferee = NOBODY
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.timeout_ticks = 0
        self.outbox: list[Message] = []
        self.durable_outbox: list[Message] = []
        self.read_states: list[ReadState] = []
        self._reset(self.term)

    # --- small questions

    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    def promotable(self) -> bool:
        """May it ever campaign: a voter, with no snapshot half-way in."""
        return self.membership.is_voter(self.id) and self.log.pending_snapshot is None

    def committed_in_term(self) -> bool:
        return self.log.matches(self.log.committed, self.term)

    def hears_leader(self) -> bool:
        """Leader stickiness: with check-quorum, a leader heard from this recently cannot have been replaced."""
        return self.config.check_quorum and self.leader != NOBODY and self.election_elapsed < self.config.election_ticks

    # --- sending

    def send(self, message: Message) -> None:
        message.sender = self.id
        if message.term == 0:
            message.term = self.term
        if message.to == self.id:
            raise InvariantBroken(f"member {self.id} sends {message.kind.name} to itself")
        if message.kind in DURABLE_KINDS or (
            message.kind is MessageKind.HEARTBEAT_RESP and self.durable_hard_state.term != self.term
        ):
            self.durable_outbox.append(message)
        else:
            self.outbox.append(message)

    # --- roles

    def _reset(self, term: int) -> None:
        if term < self.term:
            raise InvariantBroken(f"term would go back from {self.term} to {term}")
        if term != self.term:
            self.term = term
            self.vote = NOBODY
        self.leader = NOBODY
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.timeout_ticks = self.config.election_ticks + self.config.rng.randrange(0, self.config.election_ticks)
        self.votes = {}
        self.progress = {}
        self.reads.clear()
        self.transferee = NOBODY
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0

    def become_follower(self, term: int, leader: int) -> None:
        self._reset(term)
        self.role = Role.FOLLOWER
        self.leader = leader

    def become_pre_candidate(self) -> None:
        """Asks without raising its term, so that a member that cannot win disturbs nobody."""
        self.role = Role.PRE_CANDIDATE
        self.leader = NOBODY
        self.votes = {}
        self.election_elapsed = 0

    def become_candidate(self) -> None:
        self._reset(self.term + 1)
        self.role = Role.CANDIDATE
        self.vote = self.id

    def become_leader(self) -> None:
        if self.role is not Role.CANDIDATE:
            raise InvariantBroken(f"a {self.role.name} cannot become leader")
        self._reset(self.term)
        self.role = Role.LEADER
        self.leader = self.id
        # A conservative bound: any membership change in the log is at or before it.
        self.pending_conf_index = self.log.last_index()
        self.set_progress()

    # --- membership

    def set_progress(self) -> None:
        """A leader's book on each member: keeps what is known, adds newcomers, forgets those who left."""
        known = self.progress
        learners = self.membership.learners | self.membership.learners_next
        self.progress = {}
        for member in self.membership.members():
            pr = known.get(member)
            if pr is None:
                pr = Progress(self.log.last_index() + 1, self.config.max_inflight)
                pr.active = True  # or check-quorum would count a newcomer as lost before it could answer
            pr.learner = member in learners and not self.membership.is_voter(member)
            self.progress[member] = pr
        own = self.progress.get(self.id)
        if own is not None:
            own.acknowledged(self.log.persisted)
