"""StoreClient: the store for its users, whichever members are up. IO on the caller's event loop.

Fulfils cluster.registry.store.Store. Reads and watches go to the preferred member (the local one), writes and leases
to the leader, which is found by asking and by what members answer. Repeated are reads, and writes that were refused
before they could take effect; a write whose fate is unknown (timed out, or the connection broke after it had left)
raises OutcomeUnknown. A caller's ``deadline`` (on the loop's clock) bounds a call beside the client's time-out: past
it nothing is sent any more. Errors are those of raft.errors; ``.code`` is what callers branch on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

from raft.client_connection import ClientConnection, ConnectionLost, Redirect, seen
from raft.client_watch import watch_batches
from raft.config import Address, TlsFiles
from raft.errors import (
    TOO_MANY_KEYS,
    DeadlineExceeded,
    Invalid,
    OutcomeUnknown,
    StoreError,
    TooManyRequests,
    Unavailable,
)
from raft.mvcc.types import NO_PREVIOUS, Compare, EventBatch, KeyValue, Op, RangeResult, Response, TxnResult
from raft.tracing import TRACED, Tracer, span_name
from raft.transport import client_context

Endpoint = tuple[str, int]
CONNECT_S = 2.0
RETRY_MIN_S = 0.02
RETRY_MAX_S = 0.25
DELETE_KEYS = 5_000
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


class StoreClient:
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

    # --- the Store

    async def range(
        self,
        key: bytes,
        range_end: bytes | None = None,
        *,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        deadline: float | None = None,
    ) -> RangeResult:
        """[key, range_end) of one revision. Large results come in pages of that revision, which callers do not see."""
        options = (limit, revision, serializable, keys_only, count_only)
        raw = await self._read("range", key, range_end, *options, deadline=deadline)
        kvs, count, more, at = [KeyValue(*kv) for kv in raw[0]], raw[1], raw[2], raw[3]
        while more and not count_only and (not limit or len(kvs) < limit):
            start = kvs[-1].key + b"\0"
            left = limit - len(kvs) if limit else 0
            options = (left, at, serializable, keys_only, False)
            raw = await self._read("range", start, range_end, *options, deadline=deadline)
            kvs += [KeyValue(*kv) for kv in raw[0]]
            more = raw[2]
        return RangeResult(kvs, count, more, at)

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Op],
        otherwise: Sequence[Op] = (),
        *,
        deadline: float | None = None,
    ) -> TxnResult:
        """Raises OutcomeUnknown, DeadlineExceeded, TooLarge, NoSpace, LeaseNotFound, Invalid, Unavailable."""
        raw = await self._lead("txn", compares, then, otherwise, deadline=deadline)
        return TxnResult(raw[0], raw[1], [_response(r) for r in raw[2]])

    async def put(self, key: bytes, value: bytes, lease_id: int = 0) -> int:
        """Returns the revision."""
        raw = await self._lead("txn", (), (("put", key, value, lease_id),), ())
        revision: int = raw[1]
        return revision

    async def delete(self, key: bytes, range_end: bytes | None = None) -> int:
        """How many it deleted: at one revision, but for ranges of thousands of keys, which go in parts."""
        deleted = 0
        while True:
            try:
                result = await self.txn((), (("delete", key, range_end),))
                return deleted + int(result.responses[0][1])
            except Invalid as error:
                if not str(error).startswith(TOO_MANY_KEYS):
                    raise
            some = await self.range(key, range_end, limit=DELETE_KEYS, keys_only=True)
            if some.kvs:
                part = await self.txn((), (("delete", key, some.kvs[-1].key + b"\0"),))
                deleted += part.responses[0][1]

    async def read_index(self) -> int:
        revision: int = await self._read("read_index")
        return revision

    async def compact(self, revision: int) -> None:
        await self._lead("compact", revision)

    async def lease_grant(self, ttl_s: int, lease_id: int = 0) -> int:
        """With lease_id 0 it may be repeated: a lease nobody heard of expires."""
        granted = await self._lead("lease_grant", ttl_s, lease_id, repeatable=lease_id == 0)
        ident: int = granted[0]
        return ident

    async def lease_keep_alive(self, lease_id: int) -> int:
        ttl_s: int = await self._lead("lease_keep_alive", lease_id, repeatable=True)
        return ttl_s

    async def lease_revoke(self, lease_id: int) -> None:
        await self._lead("lease_revoke", lease_id)

    async def lease_time_to_live(self, lease_id: int) -> tuple[float, int, list[bytes]]:
        """(seconds left, ttl, keys)."""
        left_s, ttl_s, keys = await self._lead("lease_time_to_live", lease_id, repeatable=True)
        return left_s, ttl_s, keys

    async def lease_list(self) -> list[int]:
        ids: list[int] = await self._read("lease_list")
        return ids

    def watch(
        self, key: bytes, range_end: bytes | None = None, *, start_revision: int = 0, prev_kv: int = NO_PREVIOUS
    ) -> AsyncIterator[EventBatch]:
        """Batches in order, for ever; resumes on any member without a gap. Raises code ``compacted`` if it cannot."""
        return watch_batches(self, key, range_end, start_revision, prev_kv)

    # --- the group

    async def member_list(self) -> list[tuple[int, Address, bool]]:
        """(id, (host, peer port, client port), is a learner) of each."""
        return _members(await self._read("member_list"))

    async def member_add(self, member_id: int, address: Address) -> list[tuple[int, Address, bool]]:
        """As a learner, with an id never used before. Then join_member its directory, and start it."""
        return _members(await self._lead("member_add", member_id, *address))

    async def member_promote(self, member_id: int) -> list[tuple[int, Address, bool]]:
        """Make a learner a voter. Raises Unavailable (after the time-out) as long as it has not caught up."""
        return _members(await self._lead("member_promote", member_id))

    async def member_remove(self, member_id: int) -> list[tuple[int, Address, bool]]:
        return _members(await self._lead("member_remove", member_id))

    async def transfer_leader(self, to: int) -> None:
        await self._lead("transfer_leader", to, repeatable=True)

    async def alarm_list(self) -> list[tuple[int, str]]:
        return [(member, kind) for member, kind in await self._read("alarm_list")]

    async def alarm_disarm(self) -> list[tuple[int, str]]:
        return [(member, kind) for member, kind in await self._lead("alarm_disarm", repeatable=True)]

    async def status(self, endpoint: Endpoint) -> dict[str, Any]:
        """Of that member alone. Raises Unavailable."""
        return dict(await self._ask(endpoint, "status"))

    async def hash(self, endpoint: Endpoint) -> tuple[int, int, int, int]:
        """(hash, revision, compacted revision, applied index) of that member: equal hashes at equal revisions."""
        digest, revision, compacted, applied = await self._ask(endpoint, "hash")
        return digest, revision, compacted, applied

    async def hash_kv(self, endpoint: Endpoint, revision: int = 0) -> tuple[int, int, int]:
        """(hash, revision, compacted revision) of that member's records at ``revision``, which it reads for it."""
        digest, at, compacted = await self._ask(endpoint, "hash_kv", revision)
        return digest, at, compacted

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


def _members(raw: list[list[Any]]) -> list[tuple[int, Address, bool]]:
    return [(m[0], (m[1], m[2], m[3]), bool(m[4])) for m in raw]


def _response(raw: list[Any]) -> Response:
    if raw[0] == "range":
        return ("range", [KeyValue(*kv) for kv in raw[1]], raw[2])
    return tuple(raw)
