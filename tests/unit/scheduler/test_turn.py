"""A turn that is hard to have: asked for ever more rarely, said aloud, and not waited for for ever."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest

from cluster.api.errors import ApiError, forbidden
from cluster.machinery.client import Turn
from cluster.scheduler import turn as turns
from cluster.scheduler.turn import NoTurn, Turns


class Time:
    """Sleeping moves the clock and nothing else; `slept`: how long each time, when at all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 0.0, list[float]()
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        self.now += delay_s
        if delay_s:
            self.slept.append(delay_s)


class Store:
    """Turns as a script says, then for ever as it said last."""

    def __init__(self, *script: Turn | ApiError) -> None:
        self.script = list(script)
        self.taken = 0

    async def take_turn(self, _: str) -> Turn:
        self.taken += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, ApiError):
            raise step
        return step


class Pods:
    def __init__(self, reached: int) -> None:
        self.reached = reached

    async def wait_reached(self, revision: int) -> None:
        if revision > self.reached:
            await asyncio.Event().wait()


NO = forbidden("pods", "", "not for you")


def made(time: Time, store: Store, reached: int = 100) -> Turns:
    pods: Any = Pods(reached)
    client: Any = store
    return Turns(client, pods, "m1", random.Random(1), time)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


async def test_after_each_failure_it_waits_longer_and_says_why(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    ours = made(time, Store(*[NO] * 7, Turn(9)))
    assert await ours.hold() == 9
    assert time.slept == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    said = [record.levelno for record in caplog.records]
    assert logging.WARNING in said and "not for you" in caplog.text
    assert ours.awaited_s == 0.0


async def test_one_that_cannot_be_had_ends_the_waiting(time: Time) -> None:
    ours = made(time, Store(NO))
    with pytest.raises(NoTurn, match=r"no turn to bind pods for 6. s: .*not for you"):
        await ours.hold()
    assert turns.PATIENCE_S <= time.now < turns.PATIENCE_S + 6


async def test_a_picture_that_does_not_move_is_not_waited_for_for_ever(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "CATCH_UP_S", 0.001)
    store = Store(Turn(9))
    with pytest.raises(NoTurn, match="no word of the pods up to revision 9"):
        await made(time, store, reached=8).hold()
    assert store.taken > 2, "asking the store tells watches how far they are"


async def test_another_is_named_only_when_it_was_another(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """After a loss of the lease, too, the turn is over; but the last one was our own."""
    ours = made(time, Store(Turn(7), Turn(9, "m1"), Turn(11, "m2")))
    for turn in (7, 9):
        assert await ours.hold() == turn
        assert "another scheduler" not in caplog.text
        ours.lost(turn)
    assert await ours.hold() == 11
    assert "another scheduler binds pods of this cluster too: m2" in caplog.text


async def test_who_waits_shows_for_how_long(time: Time) -> None:
    ours = made(time, Store(Turn(9)), reached=8)
    waiting = asyncio.ensure_future(ours.hold())
    while not ours.awaited_s:
        time.now += 1
        await asyncio.wait([waiting], timeout=0.001)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert ours.awaited_s == 0.0
