"""An asyncio loop whose time is virtual: when nothing is ready, the clock jumps to the next timer.

Everything that runs on it is in one thread and does no IO, so a run is a function of its seed. Threads' work
(`asyncio.to_thread`) is done at once, in its place.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class Stuck(Exception):
    """Nothing is ready and no timer is set: nobody will ever wake up again."""


class _Timers(selectors.BaseSelector):
    """In the place of the selector: to wait is to let the clock jump."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self.now += max(timeout, 0.0)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> Any:
        return None

    def get_map(self) -> Any:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._timers = _Timers()
        super().__init__(self._timers)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._timers.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done
