"""How far a leader has brought one member. Pure.

                  refused / unreachable
            +---------------------------------+
            v                                 |
        PROBE ---- an APPEND was accepted --> REPLICATE
          ^  \\                                   |
          |   +-- its next entry is compacted <--+
          |   v
          SNAPSHOT (nothing is sent until it is reported, or an answer shows that it caught up)

- PROBE: one APPEND at a time, to find where the logs match. REPLICATE: pipelined within the in-flight window,
  ``next`` runs ahead of ``match``.
- Invariant: match < next. In SNAPSHOT, ``pending_snapshot`` is the index that was sent.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from raft.core.types import PeerStatus


class State(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    __slots__ = (
        "active",
        "confirmed_read",
        "inflight",
        "learner",
        "match",
        "max_inflight",
        "next",
        "pending_snapshot",
        "probe_sent",
        "state",
    )

    def __init__(self, next_index: int, max_inflight: int, *, match: int = 0, learner: bool = False) -> None:
        self.match = match
        self.next = next_index
        self.state = State.PROBE
        self.pending_snapshot = 0
        self.probe_sent = False
        self.active = False
        """Heard from since the last quorum check."""
        self.inflight: deque[int] = deque()
        """Last index of each APPEND that is not answered."""
        self.max_inflight = max_inflight
        self.learner = learner
        self.confirmed_read = 0
        """The newest read sequence whose heartbeat it has answered."""

    def _reset(self, state: State) -> None:
        self.state = state
        self.pending_snapshot = 0
        self.probe_sent = False
        self.inflight.clear()

    def become_probe(self) -> None:
        sent = self.pending_snapshot if self.state is State.SNAPSHOT else 0
        self._reset(State.PROBE)
        self.next = max(self.match + 1, sent + 1)

    def become_replicate(self) -> None:
        self._reset(State.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._reset(State.SNAPSHOT)
        self.pending_snapshot = index

    def is_paused(self) -> bool:
        if self.state is State.REPLICATE:
            return len(self.inflight) >= self.max_inflight
        return self.state is State.SNAPSHOT or self.probe_sent

    def sent_append(self, last_index: int, count: int) -> None:
        """An APPEND with ``count`` entries up to ``last_index`` was sent."""
        if self.state is State.PROBE:
            self.probe_sent = True
        elif count:
            self.next = last_index + 1
            self.inflight.append(last_index)

    def acknowledged(self, index: int) -> bool:
        """It holds everything up to ``index``. Whether that is news."""
        self.next = max(self.next, index + 1)
        while self.inflight and self.inflight[0] <= index:
            self.inflight.popleft()
        if index <= self.match:
            return False
        self.match = index
        self.probe_sent = False
        return True

    def refused(self, index: int, guess: int) -> bool:
        """It refused an APPEND after ``index``; logs may match at ``guess``. False if that is old news."""
        if self.state is State.REPLICATE:
            if index <= self.match:
                return False
            self.next = self.match + 1
            return True
        if self.next - 1 != index:
            return False
        self.next = max(min(index, guess + 1), self.match + 1)
        self.probe_sent = False
        return True

    def heartbeat_answered(self) -> None:
        """It is alive: a lost probe, or a lost APPEND of a full window, must not stall it for ever."""
        self.probe_sent = False
        if len(self.inflight) >= self.max_inflight:
            self.inflight.popleft()

    def status(self) -> PeerStatus:
        return PeerStatus(self.match, self.next, self.state.value, self.active, self.learner, self.is_paused())
