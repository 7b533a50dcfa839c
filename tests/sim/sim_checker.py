"""What must never happen, checked while it would happen (Raft paper, figure 3, and what clients were told).

- election safety: one leader a term; one vote a member and term
- log matching: an (index, term) means one entry with one predecessor, on every disk, for ever
- leader completeness: a new leader holds everything committed in earlier terms
- state machine safety: one entry is applied at an index; equal indexes mean equal states
- acknowledged writes stay; reads see every write and read that ended before they began
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from raft.core.memory import BOOTSTRAP_INDEX
from raft.core.node import RawNode
from raft.core.types import Entry, Message, MessageKind
from tests.sim.sim_world import SimFailure


class Committed(NamedTuple):
    entry: Entry
    by_term: int
    """Of the leader that first counted a quorum for it."""


class Checker:
    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.entries: dict[tuple[int, int], tuple[int, Entry]] = {}
        self.committed: dict[int, Committed] = {}
        self.last_committed = 1
        self.states: dict[int, int] = {BOOTSTRAP_INDEX: 0}
        self.acknowledged: dict[int, Entry] = {}
        self.visible = 0
        """The highest index whose effect some client has seen."""
        self.acks = 0
        self.reads = 0
        self.on_leader: Callable[[int], None] = lambda member: None

    # --- members

    def leader(self, member: int, node: RawNode) -> None:
        """``member`` has just become leader."""
        log, term = node._r.log, node.term
        other = self.leaders.setdefault(term, member)
        if other != member:
            raise SimFailure(f"election safety: members {other} and {member} both lead in term {term}")
        first = log.first_index()
        for index, committed in self.committed.items():
            if committed.by_term < term and index >= first and not log.matches(index, committed.entry.term):
                raise SimFailure(f"leader completeness: leader {member} of term {term} lacks committed entry {index}")
        self.on_leader(member)

    def sent(self, message: Message) -> None:
        """A vote is given by an answer, or by asking for votes."""
        if message.kind is MessageKind.VOTE:
            self._vote(message.sender, message.term, message.sender)
        elif message.kind is MessageKind.VOTE_RESP and not message.reject:
            self._vote(message.sender, message.term, message.to)

    def _vote(self, voter: int, term: int, candidate: int) -> None:
        other = self.votes.setdefault((voter, term), candidate)
        if other != candidate:
            raise SimFailure(f"one vote a term: member {voter} votes for {other} and {candidate} in term {term}")

    def logged(self, member: int, before_term: int, entries: Sequence[Entry]) -> None:
        """``member`` writes ``entries`` after one of ``before_term``."""
        for entry in entries:
            known = self.entries.setdefault((entry.index, entry.term), (before_term, entry))
            if known != (before_term, entry):
                raise SimFailure(f"log matching: member {member} writes {entry} after term {before_term}, not {known}")
            before_term = entry.term

    def commits(self, member: int, term: int, entries: Sequence[Entry]) -> None:
        """Leader ``member`` counted a quorum for ``entries``."""
        for entry in entries:
            known = self.committed.setdefault(entry.index, Committed(entry, term))
            if known.entry != entry:
                raise SimFailure(f"state machine safety: member {member} commits {entry}, {known.entry} was committed")
            if term < known.by_term:
                self.committed[entry.index] = Committed(entry, term)
            self.last_committed = max(self.last_committed, entry.index)

    def learns(self, member: int, index: int, node: RawNode) -> None:
        """A follower's commit index moved to ``index``."""
        known = self.committed.get(index)
        if index == BOOTSTRAP_INDEX:
            return
        if known is None or not node._r.log.matches(index, known.entry.term):
            raise SimFailure(f"state machine safety: member {member} takes entry {index} as committed; it is {known}")

    def applies(self, member: int, entry: Entry, state: int) -> None:
        known = self.committed.get(entry.index)
        if known is None or known.entry != entry:
            raise SimFailure(f"state machine safety: member {member} applies {entry}; committed is {known}")
        if self.states.setdefault(entry.index, state) != state:
            raise SimFailure(f"state machine safety: member {member} differs after applying {entry.index}")

    def installs(self, member: int, index: int, state: int) -> None:
        if self.states.get(index) != state:
            raise SimFailure(f"member {member} installs a snapshot at {index} that is not the state there")

    # --- clients

    def acknowledge(self, entry: Entry) -> None:
        self.acknowledged[entry.index] = entry
        self.visible = max(self.visible, entry.index)
        self.acks += 1

    def served_read(self, member: int, needed: int, applied: int) -> None:
        """A read that began when ``needed`` was visible is served from state ``applied``."""
        if applied < needed:
            raise SimFailure(f"stale read: member {member} serves a read at {applied}; {needed} was visible before")
        self.visible = max(self.visible, applied)
        self.reads += 1

    def all_acknowledged(self, applied: int) -> None:
        """At the end: nothing that was acknowledged is missing or changed."""
        for index, entry in self.acknowledged.items():
            committed = self.committed.get(index)
            if index > applied or committed is None or committed.entry != entry:
                raise SimFailure(f"acknowledged write {entry} was lost (committed there: {committed})")
