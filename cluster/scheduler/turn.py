"""Whose turn it is to bind. IO through the injected Client only.

One scheduler leads by its lease. But leases can be two, by accident: another name of it in a configuration, another
cluster's scheduler pointed at this store. And a standby that has just been elected may not have heard of the last binds
yet. So who decides takes a turn first, and waits until its picture has come as far; every bind compares the turn under
which it was decided:

    nobody's --hold(): take it, catch up--> ours --another took it: a bind says so--> lost --a pause--> hold()
                                              `--a bind's outcome is unknown--> doubted --at once--> hold()

Invariants: what is decided within a turn is decided knowing all that was bound before it, and nobody else binds within
it. Once a turn is taken, binds of earlier ones whose fate is unknown can no longer happen: the picture shows which did.

Two schedulers that both have pods to bind take turns: after a loss each waits for a random while, longer with each loss
in a row, in which the other gets on.
"""

from __future__ import annotations

import asyncio
import logging
import random

from cluster.api.errors import ApiError
from cluster.machinery.client import Client
from cluster.machinery.informer import Informer
from cluster.scheduler import metrics

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_PAUSE_S, _PAUSE_MAX_S = 0.1, 2.0


class Turns:
    def __init__(self, client: Client, pods: Informer, holder: str, rng: random.Random) -> None:
        self._client = client
        self._pods = pods
        self._holder = holder
        self._rng = rng
        self._ours = 0
        self._losses = 0
        self._taking = asyncio.Lock()

    async def hold(self) -> int:
        """The turn to decide and bind within; takes one when there is none, for as long as it needs."""
        async with self._taking:
            while not self._ours:
                await asyncio.sleep(self._pause_s())
                try:
                    turn = await self._client.take_turn(self._holder)
                except ApiError as error:
                    log.info("taking a turn to bind: %s", error.message)
                    await asyncio.sleep(_RETRY_S)
                    continue
                if self._losses:
                    log.warning("another scheduler binds pods of this cluster too: %s; by turns", turn.before)
                await self._pods.wait_reached(turn.revision)
                self._ours = turn.revision
            return self._ours

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
