"""Linearizable reads, many at the price of one: waits for a read index, then until it is applied. Pure (time is ticks).

wait(fn): waiting --start()--> asked (one round at a time) --answered()--> confirmed --advance()--> fn(None)
                                  '-- no answer for RETRY_TICKS: asked again
                                  '-- nor for GIVE_UP_TICKS: fn(Unavailable)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from raft.core.errors import RaftError
from raft.errors import TooManyRequests, Unavailable

RETRY_TICKS = 6
GIVE_UP_TICKS = 80
MAX_WAITING = 20_000

Waiter = Callable[[Unavailable | None], None]


class ReadBarrier:
    def __init__(self, ask: Callable[[bytes], None], nonce: bytes, wake: Callable[[], None]) -> None:
        """``nonce`` must be another one at each start of a member: an answer to its earlier life must not match."""
        self._ask = ask
        self._nonce = nonce
        self._wake = wake
        self._counter = 0
        self._waiting: list[Waiter] = []
        self._asked: list[Waiter] = []
        self._contexts: list[bytes] = []
        self._asked_ticks = 0
        self._age_ticks = 0
        self._confirmed: deque[tuple[int, list[Waiter]]] = deque()

    def wait(self, fn: Waiter) -> None:
        """``fn(None)`` once this member has applied all that was committed when this was called.

        Raises TooManyRequests.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise TooManyRequests
        self._waiting.append(fn)
        self._wake()

    def start(self) -> None:
        """Ask for those that wait, unless a round is under way."""
        if self._asked or not self._waiting:
            return
        self._asked, self._waiting = self._waiting, []
        self._contexts = []
        self._age_ticks = 0
        self._send()

    def _send(self) -> None:
        self._counter += 1
        self._asked_ticks = 0
        context = self._nonce + self._counter.to_bytes(8, "big")
        self._contexts.append(context)
        try:
            self._ask(context)
        except RaftError:
            return  # no leader is known: tick asks again

    def answered(self, index: int, context: bytes) -> None:
        if self._asked and context in self._contexts:
            self._confirmed.append((index, self._asked))
            self._asked = []
            self.start()

    def advance(self, applied: int) -> None:
        """Everything up to ``applied`` is applied."""
        while self._confirmed and self._confirmed[0][0] <= applied:
            for fn in self._confirmed.popleft()[1]:
                fn(None)

    def tick(self) -> None:
        if not self._asked:
            return
        self._asked_ticks += 1
        self._age_ticks += 1
        if self._age_ticks >= GIVE_UP_TICKS:
            given_up, self._asked = self._asked, []
            for fn in given_up:
                fn(Unavailable("etcdserver: request timed out, possibly due to connection lost"))
            self.start()
        elif self._asked_ticks >= RETRY_TICKS:
            self._send()
            self._wake()
