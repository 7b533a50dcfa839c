"""What lives on leaves the collector's sight; dead cycles among it are still found; a stopped process is as before."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.machine import garbage
from cluster.machine.garbage import Garbage


class Ring:
    def __init__(self) -> None:
        self.me = self


@asynccontextmanager
async def running(keeper: Garbage) -> AsyncIterator[None]:
    task = asyncio.create_task(keeper.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_survivors_are_frozen_and_the_oldest_generation_stays_empty() -> None:
    async with running(Garbage()):
        frozen = gc.get_freeze_count()
        kept = [[i] for i in range(3 * garbage.YOUNG * garbage.MIDDLE)]
        assert gc.get_freeze_count() > frozen + len(kept) / 2
        assert len(gc.get_objects(2)) < garbage.YOUNG


async def test_a_young_cycle_is_collected_as_ever() -> None:
    async with running(Garbage()):
        gone = weakref.ref(Ring())
        kept = [[i] for i in range(3 * garbage.YOUNG)]
        assert gone() is None
        del kept


async def test_a_cycle_that_died_frozen_is_found_by_a_whole_pass() -> None:
    keeper = Garbage()
    async with running(keeper):
        ring = Ring()
        gc.freeze()
        gone = weakref.ref(ring)
        del ring
        gc.collect()
        assert gone() is not None, "out of the collector's sight"
        keeper.collect_all()
        assert gone() is None


async def test_a_whole_pass_is_due_when_much_was_frozen_since_and_not_too_often() -> None:
    now = 0.0
    keeper = Garbage(clock=lambda: now)
    async with running(keeper):
        kept = [[i] for i in range(gc.get_freeze_count() + 200_000)]
        gc.freeze()
        assert not keeper.due()
        now = garbage.WHOLE_S
        assert keeper.due()
        keeper.collect_all()
        now *= 2
        assert not keeper.due()
        del kept


async def test_the_collector_is_left_as_it_was() -> None:
    before = gc.get_threshold(), list(gc.callbacks)
    async with running(Garbage()):
        assert gc.get_threshold() != before[0]
    assert (gc.get_threshold(), gc.callbacks) == before
    assert gc.get_freeze_count() == 0
