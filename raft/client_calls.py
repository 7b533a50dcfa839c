"""Whom a client asks, again and whether: its connections, and calls to any member or to the leader. IO.

Reads go to the preferred member (the local one), then to the others, but for the read index, which the leader knows
first; what only the leader does goes to the leader,
which is found by asking and by what members answer. Repeated are reads, and writes that were refused before they could
take effect; a write whose fate is unknown (timed out, or the connection broke after it had left) raises
OutcomeUnknown.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Sequence
from typing import Any

from raft.client_connection import ClientConnection, ConnectionLost, Redirect, seen
from raft.config import TlsFiles
from raft.errors import DeadlineExceeded, Invalid, OutcomeUnknown, StoreError, TooManyRequests, Unavailable
from raft.tracing import TRACED, Tracer, span_name
from raft.transport import client_context

Endpoint = tuple[str, int]
CONNECT_S = 2.0
LEADER_S = 0.25
"""So long a leader is asked what another member can answer, too: a healthy one takes a thousandth of it."""
RETRY_MIN_S = 0.02
RETRY_MAX_S = 0.25
PATIENCE_S = 1.0
"""So long what a member refused for overload is tried again; then its caller learns of it, and may slow down."""


class _Attempt:
    """``sent``: it is with a member that has not answered. ``refusal``: why it was not done before, as text."""

    def __init__(self) -> None:
        self.sent = False
        self.refusal = ""

    def refused(self, error: StoreError) -> None:
        self.sent = False
        self.refusal = f"; last answer: {error}"


class Calls:
    """The part of StoreClient that knows the members."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        tls: TlsFiles | None = None,
        *,
        prefer: Endpoint | None = None,
        timeout_s: float = 10.0,
        tracer: Tracer | None = None,
    ) -> None:
        """``prefer``: the member to read and watch from while it answers (default: the first). ``tracer``: calls made
        in a sampled span are spans of their own, on both sides."""
        if not endpoints:
            raise Invalid("a client needs at least one endpoint")
        self.endpoints = [(str(host), int(port)) for host, port in endpoints]
        self._prefer = (str(prefer[0]), int(prefer[1])) if prefer is not None else self.endpoints[0]
        if self._prefer not in self.endpoints:
            self.endpoints.append(self._prefer)
        self._leader = self._prefer
        self._tls: ssl.SSLContext | None = None if tls is None else client_context(tls)
        self._timeout_s = timeout_s
        self._tracer = tracer
        self._connections: dict[Endpoint, ClientConnection] = {}
        self._connecting: dict[Endpoint, asyncio.Task[ClientConnection]] = {}
        self.closed = False

    async def close(self) -> None:
        self.closed = True
        for task in list(self._connecting.values()):
            task.cancel()
        for connection in list(self._connections.values()):
            connection.close()
        self._connections = {}

    # --- connections

    async def connection(self, endpoint: Endpoint) -> ClientConnection:
        """An open one; concurrent callers share the attempt. Raises Unavailable, Invalid."""
        found = self._ready(endpoint)
        if found is not None:
            return found
        if self.closed:
            raise Unavailable("this client is closed")
        task = self._connecting.get(endpoint)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._connect(endpoint))
            task.add_done_callback(seen)
            self._connecting[endpoint] = task
        return await asyncio.shield(task)

    async def _connect(self, endpoint: Endpoint) -> ClientConnection:
        try:
            connection = await ClientConnection.connect(endpoint, self._tls, CONNECT_S)
            self._connections[endpoint] = connection
            return connection
        finally:
            del self._connecting[endpoint]

    def nearest_first(self, attempt: int) -> Endpoint:
        """The preferred member, then the others in turn."""
        others = [endpoint for endpoint in self.endpoints if endpoint != self._prefer]
        return [self._prefer, *others][attempt % len(self.endpoints)]

    def _next_leader(self, tried: Endpoint) -> None:
        if self._leader == tried:
            at = self.endpoints.index(tried) if tried in self.endpoints else -1
            self._leader = self.endpoints[(at + 1) % len(self.endpoints)]

    # --- calls

    def _until(self, operation: str, deadline: float | None) -> tuple[float, bool]:
        """When to give up, and whether that is the caller's deadline. Raises DeadlineExceeded when it has passed."""
        now = asyncio.get_running_loop().time()
        own = now + self._timeout_s
        if deadline is None or deadline >= own:
            return own, False
        if deadline <= now:
            raise DeadlineExceeded(operation)
        return deadline, True

    async def _open(self, endpoint: Endpoint, until: float) -> ClientConnection:
        """Raises Unavailable, Invalid; TimeoutError at ``until``."""
        async with asyncio.timeout_at(until):
            return await self.connection(endpoint)

    async def _read(self, operation: str, *arguments: Any, deadline: float | None = None) -> Any:
        """From any member, repeated until one answers."""
        until, callers = self._until(operation, deadline)
        try:
            return await self._read_on(operation, arguments, until)
        except TimeoutError as error:
            if callers:
                raise DeadlineExceeded(operation) from error
            raise Unavailable(f"etcdserver: request timed out ({operation}): no member answered") from error

    async def _from_leader(self, operation: str) -> Any:
        """Its answer, or None: no connection to it is open, or it does not answer soon. Then it may lead no more, and
        stays unknown until the next write finds the one who does."""
        asked = self._leader
        connection = self._ready(asked)
        if connection is None or asked == self._prefer:
            return None
        try:
            return await self._call(connection, operation, (), asyncio.get_running_loop().time() + LEADER_S)
        except TooManyRequests:  # it leads, and has much to do
            return None
        except (Unavailable, TimeoutError):
            if self._leader == asked:  # else a write has found another meanwhile
                self._leader = self._prefer
            return None

    async def _read_on(self, operation: str, arguments: tuple[Any, ...], until: float) -> Any:
        attempt, patient_until = 0, 0.0
        while True:
            try:
                endpoint = self.nearest_first(attempt) if attempt else self._prefer
                connection = self._ready(endpoint) or await self._open(endpoint, until)
                return await self._call(connection, operation, arguments, until)
            except TooManyRequests:
                now = asyncio.get_running_loop().time()
                patient_until = patient_until or now + PATIENCE_S
                if now > patient_until:
                    raise
            except Unavailable:
                if self.closed:
                    raise
            attempt += 1
            if attempt % len(self.endpoints) == 0:
                await _pause(RETRY_MAX_S / 4, until)

    async def _lead(
        self, operation: str, *arguments: Any, repeatable: bool = False, deadline: float | None = None
    ) -> Any:
        """By the leader. ``repeatable``: doing it twice is the same as doing it once."""
        until, callers = self._until(operation, deadline)
        attempt = _Attempt()
        try:
            return await self._lead_on(operation, arguments, repeatable, attempt, until)
        except TimeoutError as error:
            text = f"etcdserver: request timed out ({operation}){attempt.refusal}"
            if attempt.sent and not repeatable:
                raise OutcomeUnknown(text) from error
            raise (DeadlineExceeded(operation, attempt.refusal) if callers else Unavailable(text)) from error

    async def _lead_on(
        self, operation: str, arguments: tuple[Any, ...], repeatable: bool, attempt: _Attempt, until: float
    ) -> Any:
        pause_s = RETRY_MIN_S
        patient_until = 0.0
        while True:
            endpoint = self._leader
            try:
                connection = self._ready(endpoint) or await self._open(endpoint, until)
                attempt.sent = True
                return await self._call(connection, operation, arguments, until)
            except Redirect as error:
                attempt.refused(error)
                if self._follow(endpoint, error.address) and pause_s == RETRY_MIN_S:
                    pause_s *= 1.5
                    continue
            except ConnectionLost as error:
                self._next_leader(endpoint)
                if not repeatable:
                    raise OutcomeUnknown(f"{operation}: {error}; it may or may not have been done") from error
                attempt.refused(error)
            except TooManyRequests as error:
                now = asyncio.get_running_loop().time()
                patient_until = patient_until or now + PATIENCE_S
                if now > patient_until:
                    raise
                attempt.refused(error)
            except Unavailable as error:
                if self.closed:
                    raise
                attempt.refused(error)
                if self._ready(endpoint) is None:
                    self._next_leader(endpoint)
            await _pause(pause_s, until)
            pause_s = min(1.5 * pause_s, RETRY_MAX_S)

    def _call(
        self, connection: ClientConnection, operation: str, arguments: tuple[Any, ...], until: float
    ) -> Awaitable[Any]:
        if self._tracer is not None and span_name(operation) and self._tracer.traceparent():
            return self._traced(self._tracer, connection, operation, arguments, until)
        return connection.call(operation, *arguments, until=until)

    @staticmethod
    async def _traced(
        tracer: Tracer, connection: ClientConnection, operation: str, arguments: tuple[Any, ...], until: float
    ) -> Any:
        with tracer.span(span_name(operation), kind="client"):
            return await connection.call(TRACED, tracer.traceparent(), operation, *arguments, until=until)

    def _ready(self, endpoint: Endpoint) -> ClientConnection | None:
        """The connection there is, without waiting: what nearly every call finds."""
        connection = self._connections.get(endpoint)
        return connection if connection is not None and connection.open else None

    def _follow(self, tried: Endpoint, leader: Endpoint | None) -> bool:
        """Where a member pointed. Whether that is somewhere else."""
        if leader is None or leader == tried:
            self._next_leader(tried)
            return False
        self._leader = leader
        return True

    async def _ask(self, endpoint: Endpoint, operation: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await (await self.connection(endpoint)).call(operation, *arguments)
        except TimeoutError as error:
            raise Unavailable(f"{endpoint[0]}:{endpoint[1]} does not answer") from error


async def _pause(seconds: float, until: float) -> None:
    """Raises TimeoutError if ``until`` comes first."""
    left_s = until - asyncio.get_running_loop().time()
    await asyncio.sleep(min(seconds, max(left_s, 0.0)))
    if left_s <= seconds:
        raise TimeoutError
