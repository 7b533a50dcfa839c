"""Linearizable reads without a log entry: ReadIndex (Raft dissertation, 6.4). Pure.

A leader that has committed an entry of its own term notes its commit index, then proves that it still leads by a
round of heartbeats. Rounds are numbered; a heartbeat carries the newest number and its answer confirms that round and
all before it. Reads that arrive between two rounds share the next one.

A full round asks everybody. The others ask only so many of those who answered the last full round first (the prompt
ones) that a quorum is complete: nothing is believed that a quorum did not say, and for each of the rest a message, two
wake-ups and an answer are saved. Once one of them is not prompt any more (the next read finds the last one waiting, the
connection breaks, a heartbeat is due), the next round is full, and finds out anew who is.

Numbers start anew with each leadership; answers of another term never get here, and a term has one leadership only.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class _Read(NamedTuple):
    round: int
    commit: int
    reader: int
    context: bytes


class ReadQueue:
    __slots__ = ("_early", "_full", "_prompt", "_waiting", "_wanted", "round")

    def __init__(self) -> None:
        self.round = 0
        self._full = 0
        self._prompt: list[int] = []
        self._wanted = False
        self._early: list[tuple[int, bytes]] = []
        self._waiting: deque[_Read] = deque()

    def clear(self) -> None:
        self.round = self._full = 0
        self._prompt.clear()
        self._wanted = False
        self._early.clear()
        self._waiting.clear()

    def hold(self, reader: int, context: bytes) -> None:
        """A read that came before the leader committed anything in its term."""
        self._early.append((reader, context))

    def release_held(self) -> list[tuple[int, bytes]]:
        held, self._early = self._early, []
        return held

    def add(self, reader: int, context: bytes, commit: int) -> None:
        """A read at ``commit``; it needs a round that starts after now."""
        self._waiting.append(_Read(self.round + 1, commit, reader, context))
        self._wanted = True

    @property
    def round_wanted(self) -> bool:
        return self._wanted

    @property
    def full_round_due(self) -> bool:
        """The last round was not full."""
        return self.round > self._full

    def start_round(self, enough: int) -> list[int]:
        """Whom to ask; nobody: everybody. ``enough`` others make a quorum (0: do not choose)."""
        late = bool(self._waiting) and self._waiting[0].round <= self.round
        self._wanted = False
        self.round += 1
        if 0 < enough <= len(self._prompt) and not late:
            return self._prompt[:enough]
        self._full = self.round
        self._prompt.clear()
        return []

    def answered(self, member: int, round_: int) -> None:
        """A voter's first answer to ``round_``."""
        if round_ == self._full:
            self._prompt.append(member)

    def lost(self, member: int) -> None:
        """What was asked of it may not have arrived: ask everybody, at once if somebody waits."""
        if member in self._prompt:
            self.choose_anew()

    def choose_anew(self) -> None:
        """Who is prompt is not known any more."""
        self._prompt.clear()
        self._wanted = bool(self._waiting)

    def confirm(self, round_: int) -> list[tuple[int, int, bytes]]:
        """A quorum confirmed ``round_``: the (reader, index, context) that may be answered, in order."""
        done = []
        while self._waiting and self._waiting[0].round <= round_:
            read = self._waiting.popleft()
            done.append((read.reader, read.commit, read.context))
        return done
