"""A blocked event loop is reported with the stack of what blocks it, once; nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any

from cluster.machine.loop_watch import LoopWatch


def blocks_the_loop(until: threading.Event) -> None:
    assert until.wait(60), "nobody noticed"


async def test_a_stall_is_reported_with_its_stack(caplog: Any) -> None:
    noticed, stalls, lags, pauses = threading.Event(), [], [], []

    def on_stall(lag_s: float) -> None:
        stalls.append(lag_s)
        noticed.set()

    watch = LoopWatch("part", on_lag=lags.append, on_pause=pauses.append, on_stall=on_stall)
    task = asyncio.create_task(watch.beat())
    with caplog.at_level(logging.WARNING, "cluster.machine.loop_watch"):
        await asyncio.sleep(0)
        blocks_the_loop(noticed)
        async with asyncio.timeout(30):
            while "has been stalled" not in caplog.text or not lags:
                await asyncio.sleep(0.01)
    gc.collect()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "blocks_the_loop" in caplog.text and "part: the event loop" in caplog.text
    assert stalls and min(stalls) >= 0.5  # a starved box may have a second one, real too
    assert max(lags) >= 0.4, "the histogram shows it too"
    assert pauses and min(pauses) >= 0
    assert watch._on_gc not in gc.callbacks
