"""Where work on long bodies is done, so that health checks, watches and other clients' requests go on meanwhile.

A thread takes its turns with the event loop's every few milliseconds. There is one, because each more would make the
loop wait longer for its turn: long bodies are worked on one after the other, by first come.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

T = TypeVar("T")


@lru_cache(maxsize=1)
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="long-bodies")


async def aside(work: Callable[..., T], *args: Any) -> T:
    """`work(*args)` in the thread, with the caller's context."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_worker(), partial(context.run, work, *args))
