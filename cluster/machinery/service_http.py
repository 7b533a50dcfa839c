"""What clients of servers behind the cluster's Services share: who tells a Service's address, and one kept session.

IO: network, in what `LazySession.open` returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import aiohttp

Resolve = Callable[[str, str], Awaitable[str]]
"""(namespace, name) of a Service -> its cluster IP; raises ApiError."""

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of one answer, which is held in memory: several times what the API itself takes as a body."""


class LazySession:
    """A session made at first use, on the loop that runs then; its connections are kept and belong to that loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession()
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
