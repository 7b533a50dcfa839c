"""One client connection to one member: many calls at once in few frames, and the watches on it. IO.

Calls made in one turn of the loop leave in one frame; answers come back by request id, in any order. When the
connection breaks, every call and watch on it learns so at once, and whether its request had left. One timer serves the
deadlines of all calls: it stands at the earliest of them.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import Any

from raft.config import PEER_ROLE
from raft.errors import Invalid, NotLeader, StoreError, Unavailable, from_wire
from raft.mvcc.types import Event, KeyValue
from raft.transport import Connection, dial
from raft.wire import Hello, frames_of, pack

PING_S = 0.5
SILENT_PINGS = 4


class ConnectionLost(Unavailable):
    """The connection broke after the request had left: the member may have acted on it."""


class Redirect(NotLeader):
    """Not done: only the leader does it, at ``address`` if that is known."""

    def __init__(self, text: str, address: tuple[str, int] | None) -> None:
        super().__init__(0)
        self.args = (text,)
        self.address = address


def decode_error(value: Any) -> StoreError:
    code, text, host, port = value
    if code == "unavailable" and ("no leader" in text or "not leader" in text):
        return Redirect(text, (host, port) if host else None)
    return from_wire(code, text)


def _event(raw: list[Any]) -> Event:
    prev = raw[2]
    return Event(raw[0], KeyValue(*raw[1]), None if prev is None else KeyValue(*prev))


class ClientConnection:
    """Use connect."""

    def __init__(self, connection: Connection, address: tuple[str, int], member_id: int) -> None:
        self.address = address
        self.member_id = member_id
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._last_id = 0
        self._calls: dict[int, tuple[asyncio.Future[Any], float]] = {}
        self._due = math.inf
        self._alarm: asyncio.TimerHandle | None = None
        self._queue: list[bytes] = []
        self._watches: dict[int, Callable[[int, Any], None]] = {}
        self._told = ""
        self._heard = 0
        self._unanswered = 0
        self._pulse = self._loop.call_later(PING_S, self._ping)
        connection.on_frame = self._on_frame
        connection.on_closed = self._on_closed

    @classmethod
    async def connect(cls, address: tuple[str, int], tls: ssl.SSLContext | None, timeout_s: float) -> ClientConnection:
        """Raises Unavailable, Invalid."""
        hello = Hello("client", "", 0)
        connection, _, member = await dial(address[0], address[1], tls, hello, (PEER_ROLE,), timeout_s)
        return cls(connection, address, member)

    @property
    def open(self) -> bool:
        return not self._connection.closed

    def call(self, operation: str, *arguments: Any, until: float = math.inf) -> asyncio.Future[Any]:
        """The result. Raises what the member answers, Redirect, ConnectionLost; Unavailable if it never left;
        TimeoutError at ``until`` (the loop's time).
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._connection.closed:
            future.set_exception(Unavailable(f"no connection to {self.address[0]}:{self.address[1]}"))
            return future
        self._last_id = ident = self._last_id + 1
        item = pack((ident, operation, *arguments))
        if not self._queue:
            self._loop.call_soon(self._flush)
        self._queue.append(item)
        self._calls[ident] = (future, until)
        if until < self._due:
            self._wait_until(until)
        return future

    def _wait_until(self, due: float) -> None:
        self._due = due
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if due == math.inf else self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        for ident in [ident for ident, (_, until) in self._calls.items() if until <= now]:
            future, _ = self._calls.pop(ident)
            if not future.done():
                future.set_exception(TimeoutError())
        self._wait_until(min((until for _, until in self._calls.values()), default=math.inf))

    def _flush(self) -> None:
        items, self._queue = self._queue, []
        if not self._connection.closed:
            self._connection.send_bytes(b"".join(frames_of(items)))

    def watch(
        self,
        on_batch: Callable[[int, Any], None],
        key: bytes,
        end: bytes | None,
        start_revision: int,
        prev_kv: int,
    ) -> tuple[int, asyncio.Future[Any]]:
        """``on_batch(revision, events)``; revision -1: ended, with [code, text]; -2: the connection broke. The list of
        events may be another watch's, too: it is not to be changed.

        The future is the member's revision when the watch began.
        """
        watch_id = self._last_id + 1
        self._watches[watch_id] = on_batch
        return watch_id, self.call("watch", watch_id, key, end, start_revision, prev_kv)

    def unwatch(self, watch_id: int) -> None:
        if self._watches.pop(watch_id, None) is not None and self.open:
            self.call("unwatch", watch_id).add_done_callback(seen)

    def _ping(self) -> None:
        """Whether the member is alive. Counted in pings, not in seconds: our own stalls do not count against it."""
        if self._connection.bytes_received != self._heard:
            self._heard, self._unanswered = self._connection.bytes_received, 0
        else:
            self._unanswered += 1
        if self._unanswered > SILENT_PINGS:
            self._told = ": it does not answer"
            self._connection.abort()
            return
        self.call("ping").add_done_callback(seen)
        self._pulse = self._loop.call_later(PING_S, self._ping)

    def _on_frame(self, value: Any) -> None:
        if not isinstance(value, list):
            raise Invalid("a frame holds a list")
        if value and value[0] == "error":
            self._told = f": {value[-1]}"
            return
        calls = self._calls
        for item in value:
            if item[0] == 0:
                self._watched(item[1], item[2], item[3])
                continue
            found = calls.pop(item[0], None)
            if found is None or found[0].done():
                continue
            if item[1]:
                found[0].set_result(item[2])
            else:
                found[0].set_exception(decode_error(item[2]))

    def _watched(self, watch_ids: int | list[int], revision: int, said: Any) -> None:
        """Several watches of one range hear of the same events, decoded once."""
        if revision >= 0:
            said = [_event(raw) for raw in said]
        for watch_id in (watch_ids,) if isinstance(watch_ids, int) else watch_ids:
            on_batch = self._watches.get(watch_id)
            if on_batch is not None:
                on_batch(revision, said)

    def _on_closed(self) -> None:
        self._stop_timers()
        error = ConnectionLost(f"the connection to {self.address[0]}:{self.address[1]} broke{self._told}")
        calls, self._calls = self._calls, {}
        watches, self._watches = self._watches, {}
        for future, _ in calls.values():
            if not future.done():
                future.set_exception(error)
        for on_batch in watches.values():
            on_batch(-2, None)

    def _stop_timers(self) -> None:
        self._pulse.cancel()
        self._wait_until(math.inf)

    def close(self) -> None:
        self._stop_timers()
        self._connection.close()


def seen(future: asyncio.Future[Any]) -> None:
    """Done callback for what nobody may be waiting for any more: its error is not news."""
    if not future.cancelled():
        future.exception()
