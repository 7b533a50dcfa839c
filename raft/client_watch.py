"""A watch that outlives its connection. IO on the caller's event loop.

It remembers the last revision it handed out and, when the connection breaks, asks the next member for what follows:
no gap, no repetition. A reader that falls behind stops the flow (the watch is dropped and resumed from history when
the reader has caught up), so what waits for it is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from raft.client_calls import Calls
from raft.client_connection import ClientConnection
from raft.errors import Unavailable, from_wire
from raft.mvcc.types import EventBatch

BUFFER_EVENTS = 20_000
TOGETHER_EVENTS = 128
"""Of several revisions that came together: as many as a reader is given in one piece. Others have their turn once it
waits, which it does only when nothing is left."""
RETRY_MIN_S, RETRY_MAX_S = 0.05, 1.0
"""Thousands of watches of one process try again together: at a constant pause they would leave a handshake no time."""


class _Stream:
    """One stretch of a watch, on one connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._batches: deque[tuple[int, Any]] = deque()
        self._events = 0
        self._news = asyncio.Event()
        self._watch_id = 0
        self.overrun = False

    async def start(self, key: bytes, end: bytes | None, start_revision: int, prev_kv: int) -> int:
        """The member's revision when it began."""
        self._watch_id, answer = self._connection.watch(self._got, key, end, start_revision, prev_kv)
        revision: int = await answer
        return revision

    def _got(self, revision: int, events: Any) -> None:
        if revision >= 0 and self._events + len(events) > BUFFER_EVENTS and self._batches:
            self.overrun = True
            self.stop()
        if self.overrun:
            return
        if revision >= 0:
            self._events += len(events)
        self._batches.append((revision, events))
        self._news.set()

    async def next(self) -> tuple[int, Any]:
        """What is there: the events of one revision, or of several that came together, so that whoever is told of many
        small writes is told once; or progress. (-2, None) once the connection broke, or once all is read after an
        overrun."""
        while not self._batches:
            if self.overrun:
                return -2, None
            self._news.clear()
            await self._news.wait()
        batches = self._batches
        revision, events = batches.popleft()
        if revision < 0 or not events:
            return revision, events
        events = list(events)  # it may be another watch's, too
        while batches and batches[0][0] >= 0 and batches[0][1] and len(events) < TOGETHER_EVENTS:
            revision, more = batches.popleft()
            events += more
        self._events -= len(events)
        return revision, events

    def stop(self) -> None:
        self._connection.unwatch(self._watch_id)


async def watch_batches(
    client: Calls, key: bytes, end: bytes | None, start_revision: int, prev_kv: int
) -> AsyncIterator[EventBatch]:
    next_revision = start_revision
    attempt = 0
    while True:
        try:
            connection = await client.connection(client.nearest_first(attempt))
            stream = _Stream(connection)
            try:
                begun_at = await stream.start(key, end, next_revision, prev_kv)
                # From now on: from there on, also if the connection breaks before the first event.
                next_revision = next_revision or begun_at + 1
                attempt = 0
                while True:
                    revision, events = await stream.next()
                    if revision == -1:
                        raise from_wire(*events)
                    if revision == -2:
                        break
                    if revision < next_revision:
                        continue
                    next_revision = revision + 1
                    yield EventBatch(revision, events)
            finally:
                stream.stop()
            if stream.overrun:
                continue
        except Unavailable:
            if client.closed:
                raise
        await asyncio.sleep(min(RETRY_MIN_S * 1.5 ** min(attempt, 10), RETRY_MAX_S))
        attempt += 1
