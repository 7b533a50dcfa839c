"""Waiting for what holds in the end. Deadlines are generous: a busy box is no failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def until(holds: Callable[[], object], within_s: float = 60.0) -> None:
    """Look again, every few turns of the loop. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


async def until_then_end(holds: Callable[[], object], task: asyncio.Task[Any]) -> None:
    """As `until`, for what `task` brings about, which is ended then. Fails at once when it has ended by itself."""

    def look() -> object:
        answer = holds()
        assert answer or not task.done(), task
        return answer

    try:
        await until(look)
    finally:
        await end(task)


async def end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
