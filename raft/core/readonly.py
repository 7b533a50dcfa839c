"""Linearizable reads without a log entry: ReadIndex (Raft dissertation, 6.4). Pure.

A leader that has committed an entry of its own term notes its commit index, then proves that it still leads by a
round of heartbeats. Rounds are numbered; a heartbeat carries the newest number and its answer confirms that round and
all before it. Reads that arrive between two rounds share the next one.

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
    __slots__ = ("_early", "_waiting", "_wanted", "round")

    def __init__(self) -> None:
        self.round = 0
        self._wanted = False
        self._early: list[tuple[int, bytes]] = []
        self._waiting: deque[_Read] = deque()

    def clear(self) -> None:
        self.round = 0
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

    def start_round(self) -> int:
        self._wanted = False
        self.round += 1
        return self.round

    def confirm(self, round_: int) -> list[tuple[int, int, bytes]]:
        """A quorum confirmed ``round_``: the (reader, index, context) that may be answered, in order."""
        done = []
        while self._waiting and self._waiting[0].round <= round_:
            read = self._waiting.popleft()
            done.append((read.reader, read.commit, read.context))
        return done
