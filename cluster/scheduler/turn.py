"""Whose turn it is to bind. IO through the injected Client only.

Of two schedulers that lead under leases of their own, and of a standby that has not heard of the last binds yet, none
may decide on a picture that lacks what another has bound. So who decides takes a turn, and waits until its picture has
come as far; every bind compares the turn within which it was decided:

    nobody's --hold(): take it, catch up--> ours --another took it: a bind says so--> lost --a pause--> hold()
                                              `--a bind's outcome is unknown--> doubted --at once--> hold()

Invariants:
- what is decided within a turn is decided knowing all that was bound before it, and nobody else binds within it;
- once a turn is taken, binds of earlier ones whose fate is unknown can no longer happen: the picture shows which did;
- after a loss each waits for a random while, longer with each loss in a row, in which the other gets on;
- a turn that cannot be had is asked for ever more rarely, aloud, and not for ever.

Errors:

    Exception
    └── NoTurn      for PATIENCE_S: this instance is of no use; it is to be started anew, and another to lead
"""

from __future__ import annotations

import asyncio
import logging
import random

from cluster.api.errors import ApiError
from cluster.machinery.client import Client, Turn
from cluster.machinery.clock import Clock
from cluster.machinery.informer import Informer
from cluster.scheduler import metrics

log = logging.getLogger(__name__)

CATCH_UP_S = 10.0
PATIENCE_S = 60.0
_RETRY_S, _RETRY_MAX_S = 0.2, 5.0
_PAUSE_S, _PAUSE_MAX_S = 0.1, 2.0
_SAID_FROM = 3
"""Failures in a row: an election of the store's leader causes fewer."""


class NoTurn(Exception):
    """None could be had, or the picture of the pods does not move."""


class Turns:
    def __init__(self, client: Client, pods: Informer, holder: str, rng: random.Random, clock: Clock) -> None:
        self._client = client
        self._pods = pods
        self._holder = holder
        self._rng = rng
        self._clock = clock
        self._ours = 0
        self._losses = 0
        self._failures = 0
        self._asked: float | None = None
        self._taking = asyncio.Lock()

    @property
    def awaited_s(self) -> float:
        """How long a turn has been waited for by now; 0 when nobody does."""
        return 0.0 if self._asked is None else self._clock() - self._asked

    async def hold(self) -> int:
        """The turn to decide and bind within; takes one when there is none. Raises NoTurn."""
        async with self._taking:
            if not self._ours:
                self._asked, self._failures = self._clock(), 0
            try:
                while not self._ours:
                    await asyncio.sleep(self._pause_s())
                    self._ours = await self._take()
            finally:
                self._asked = None
            return self._ours

    async def _take(self) -> int:
        """0 when that failed, and was waited for a while."""
        try:
            turn = await self._client.take_turn(self._holder)
            self._say_who(turn)
            async with asyncio.timeout(CATCH_UP_S):
                await self._pods.wait_reached(turn.revision)
            return turn.revision
        except ApiError as error:
            await self._failed(error.message)
        except TimeoutError:
            await self._failed(f"no word of the pods up to revision {turn.revision} within {CATCH_UP_S:g} s")
        return 0

    def _say_who(self, turn: Turn) -> None:
        """Our own was the last one, too, when it was the lease that we lost."""
        if self._losses and turn.before != self._holder:
            log.warning("another scheduler binds pods of this cluster too: %s; by turns", turn.before)

    async def _failed(self, why: str) -> None:
        waited_s = self.awaited_s
        if waited_s >= PATIENCE_S:
            raise NoTurn(f"no turn to bind pods for {waited_s:.0f} s: {why}")
        self._failures += 1
        level = logging.INFO if self._failures < _SAID_FROM else logging.WARNING
        log.log(level, "no turn to bind pods yet: %s", why)
        await asyncio.sleep(min(_RETRY_S * 2.0 ** min(self._failures - 1, 10), _RETRY_MAX_S))

    def kept(self) -> None:
        """Something was bound."""
        self._losses = 0

    def lost(self, turn: int) -> None:
        """A bind within this turn said that another has taken one."""
        if self._ours == turn:
            self._ours = 0
            self._losses += 1
            metrics.TURNS_LOST.inc()

    def doubt(self, turn: int) -> None:
        """Nobody knows whether a bind within this turn was written."""
        if self._ours == turn:
            self._ours = 0

    def give_up(self) -> None:
        """No longer leading."""
        self._ours = self._losses = 0

    def _pause_s(self) -> float:
        if not self._losses:
            return 0.0
        return min(_PAUSE_S * 2.0 ** min(self._losses - 1, 10), _PAUSE_MAX_S) * (0.5 + self._rng.random())
