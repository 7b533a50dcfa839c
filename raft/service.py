"""The client port: requests to what the member does about them. IO on the event loop.

Hot operations (txn, range, read_index, keep-alive) never make a task: they leave a callback where they wait. Reads
that are large, and the administration, run as tasks. Every request is answered once; a connection that goes away
takes its waiting answers with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from raft.admin import Admin
from raft.config import StateConfig
from raft.errors import TOO_MANY_KEYS, Invalid, NotLeader, StoreError, TooLarge, TooManyRequests
from raft.member import Member
from raft.mvcc.txn import check_txn
from raft.mvcc.types import EVERY_PREVIOUS, NO_PREVIOUS, PREVIOUS_OF_DELETES, Op, RangeResult, TxnResult
from raft.outbox import Outbox
from raft.tracing import TRACED
from raft.tracing import dispatch as traced
from raft.transport import Connection
from raft.wire import Hello, error_result, pack

log = logging.getLogger(__name__)
PAGE_BYTES = 1 << 20
MAX_RANGES_PER_CONNECTION = 64
KEEP_ALIVE = "lease_keep_alive"
UNKNOWN = "unknown"
"""What every operation that is none is counted as: the counters must not grow with what clients send."""

Handler = Callable[["ClientSession", int, list[Any]], None]


def range_wire(result: RangeResult) -> tuple[Any, ...]:
    return (result.kvs, result.count, result.more, result.revision)


class ClientSession:
    """One client connection."""

    def __init__(self, service: ClientService, connection: Connection) -> None:
        self.service = service
        self.member = service.member
        self.out = Outbox(connection)
        self.connection = connection
        self.tasks: dict[asyncio.Task[None], None] = {}
        connection.on_frame = self._on_frame
        connection.on_writable = self._on_writable
        connection.on_closed = self._on_closed

    def _on_frame(self, value: Any) -> None:
        if not isinstance(value, list):
            raise Invalid("a frame holds a list of requests")
        for request in value:
            if not isinstance(request, list) or len(request) < 2 or not isinstance(request[0], int):
                raise Invalid("a request is [id, operation, argument...]")
            self.dispatch(request[0], request[1], request[2:])

    def dispatch(self, request_id: int, operation: Any, arguments: list[Any]) -> None:
        handler = HANDLERS.get(operation) if isinstance(operation, str) else None
        if handler is None:
            self.fail(request_id, UNKNOWN, Invalid(f"operation {operation!r} is not known here"))
            return
        try:
            self.service.started[operation] += 1
            handler(self, request_id, arguments)
        except StoreError as error:
            self.fail(request_id, operation, error)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            self.fail(request_id, operation, Invalid(f"malformed {operation!r} request: {error}"))

    def ok(self, request_id: int, operation: str, result: Any) -> None:
        self.service.succeeded[operation] += 1
        self.out.answer(request_id, True, result)

    def fail(self, request_id: int, operation: str, error: StoreError) -> None:
        failed = self.service.failed
        failed[operation, error.code] = failed.get((operation, error.code), 0) + 1
        self.out.answer(request_id, False, error_result(error, self.member.leader_address()))

    def task(self, request_id: int, operation: str, work: Coroutine[Any, Any, Any]) -> None:
        if len(self.tasks) >= MAX_RANGES_PER_CONNECTION:
            work.close()
            raise TooManyRequests
        task = asyncio.get_running_loop().create_task(self._run(request_id, operation, work))
        self.tasks[task] = None
        task.add_done_callback(lambda t: self.tasks.pop(t, None))

    async def _run(self, request_id: int, operation: str, work: Coroutine[Any, Any, Any]) -> None:
        try:
            self.ok(request_id, operation, await work)
        except StoreError as error:
            self.fail(request_id, operation, error)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            log.exception("request failed")
            self.fail(request_id, operation, Invalid(f"malformed request: {error}"))

    def _on_writable(self) -> None:
        self.member.watches.set_writable(self.out, True)

    def _on_closed(self) -> None:
        self.member.watches.closed(self.out)
        for task in list(self.tasks):
            task.cancel()

    # --- hot operations

    def txn(self, request_id: int, arguments: list[Any]) -> None:
        compares, then, otherwise = arguments
        check_txn(compares, then, otherwise, self.service.config.max_txn_ops)
        command = pack(("txn", compares, then, otherwise))
        if len(command) > self.service.config.max_request_bytes:
            raise TooLarge(len(command), self.service.config.max_request_bytes)
        self._check_deletes(then)
        self._check_deletes(otherwise)
        self.member.admit(command, then, otherwise)
        self.member.propose(command, partial(self._txn_done, request_id))

    def _check_deletes(self, branch: Sequence[Op]) -> None:
        """Raises Invalid for what would hold up everybody else. Judged by what is there now: a bound, not a promise."""
        limit = self.service.config.max_delete_keys
        count = sum(self.member.store.count(op[1], op[2]) for op in branch if op[0] == "delete")
        if count > limit:
            raise Invalid(f"{TOO_MANY_KEYS} ({count} to delete, limit {limit}): delete them in parts")

    def _txn_done(self, request_id: int, result: TxnResult | StoreError) -> None:
        if isinstance(result, StoreError):
            self.fail(request_id, "txn", result)
            return
        for response in result.responses:
            if response[0] == "range":
                self.ok(request_id, "txn", result)
                return
        self.service.succeeded["txn"] += 1
        self.out.answer_small(request_id, result)

    def range(self, request_id: int, arguments: list[Any]) -> None:
        key, end, limit, revision, serializable, keys_only, count_only = arguments
        if not isinstance(key, bytes) or not key or not (end is None or isinstance(end, bytes)):
            raise Invalid("etcdserver: key is not provided")
        options = {"limit": limit, "revision": revision, "keys_only": keys_only, "count_only": count_only}
        self._read(request_id, "range", serializable, lambda: self._range_now(request_id, key, end, options))

    def _range_now(self, request_id: int, key: bytes, end: bytes | None, options: dict[str, Any]) -> None:
        steps = self.member.store.range_steps(key, end, max_bytes=PAGE_BYTES, **options)
        try:
            next(steps)
        except StopIteration as done:
            self.ok(request_id, "range", range_wire(done.value))
        else:
            self.task(request_id, "range", self._range_on(steps))

    async def _range_on(self, steps: Any) -> tuple[Any, ...]:
        while True:
            await asyncio.sleep(0)
            try:
                next(steps)
            except StopIteration as done:
                return range_wire(done.value)

    def _read(self, request_id: int, operation: str, serializable: bool, now: Callable[[], None]) -> None:
        """``now`` once this member has everything that was committed when the request came."""

        def confirmed(error: StoreError | None) -> None:
            try:
                if error is not None:
                    raise error
                now()
            except StoreError as failure:
                self.fail(request_id, operation, failure)
            except (TypeError, ValueError) as failure:
                self.fail(request_id, operation, Invalid(f"malformed request: {failure}"))

        if serializable:
            confirmed(None)
        else:
            self.member.consensus.read(confirmed)

    def ping(self, request_id: int, _: list[Any]) -> None:
        self.out.answer_small(request_id, None)

    def read_index(self, request_id: int, _: list[Any]) -> None:
        def now() -> None:
            self.member.watches.progress_of(self.out)
            self.ok(request_id, "read_index", self.member.store.revision)

        self._read(request_id, "read_index", False, now)

    def keep_alive(self, request_id: int, arguments: list[Any]) -> None:
        (lease_id,) = arguments
        node = self.member.consensus
        if not node.is_leader:
            raise NotLeader(node.leader)
        term = node.term

        def now() -> None:
            # Still the leader of the same term, confirmed by a quorum after the request came: ours is the clock.
            if not node.is_leader or node.term != term:
                raise NotLeader(node.leader)
            leases = self.member.store.leases
            ttl_s = leases.renew(lease_id, self.member.clock())
            if not leases.get(lease_id).checkpointed:
                self.ok(request_id, KEEP_ALIVE, ttl_s)
                return
            # The next leader must not go by a checkpoint from before the renewal.
            command = pack(("checkpoint", ((lease_id, 0),)))
            self.member.propose(command, partial(self._renewed, request_id, ttl_s))

        self._read(request_id, KEEP_ALIVE, False, now)

    def _renewed(self, request_id: int, ttl_s: int, result: StoreError | None) -> None:
        if result is not None:
            self.fail(request_id, KEEP_ALIVE, result)
        else:
            self.ok(request_id, KEEP_ALIVE, ttl_s)

    def watch(self, request_id: int, arguments: list[Any]) -> None:
        watch_id, key, end, start_revision, prev_kv = arguments
        if not isinstance(key, bytes) or not key or not (end is None or isinstance(end, bytes)):
            raise Invalid("etcdserver: key is not provided")
        if prev_kv not in (NO_PREVIOUS, EVERY_PREVIOUS, PREVIOUS_OF_DELETES):
            raise Invalid(f"previous values {prev_kv!r}: must be 0 (none), 1 (all) or 2 (of deletes)")
        self.ok(request_id, "watch", self.member.store.revision)
        try:
            self.member.watches.watch(self.out, int(watch_id), key, end, int(start_revision), int(prev_kv))
        except StoreError as error:
            self.out.send(pack([0, watch_id, -1, [error.code, str(error)]]))

    def unwatch(self, request_id: int, arguments: list[Any]) -> None:
        self.member.watches.unwatch(self.out, arguments[0])
        self.ok(request_id, "unwatch", None)


def _administration(name: str, operation: Callable[..., Coroutine[Any, Any, Any]]) -> Handler:
    def handler(session: ClientSession, request_id: int, arguments: list[Any]) -> None:
        session.task(request_id, name, operation(session.service.admin, *arguments))

    return handler


HANDLERS: dict[str, Handler] = {
    "ping": ClientSession.ping,
    "txn": ClientSession.txn,
    "range": ClientSession.range,
    "read_index": ClientSession.read_index,
    KEEP_ALIVE: ClientSession.keep_alive,
    "watch": ClientSession.watch,
    "unwatch": ClientSession.unwatch,
    TRACED: traced,
    **{name: _administration(name, operation) for name, operation in Admin.OPERATIONS.items()},
}


class ClientService:
    """Accepts client connections for a member."""

    def __init__(self, member: Member, config: StateConfig) -> None:
        self.member = member
        self.config = config
        self.admin = Admin(member)
        self.started = dict.fromkeys(HANDLERS, 0)
        """Requests by operation. A watch succeeds when it begins."""
        self.succeeded = dict.fromkeys(HANDLERS, 0)
        self.failed: dict[tuple[str, str], int] = {}
        """By operation and the error's code."""

    def accept(self, connection: Connection, hello: Hello) -> None:
        if hello.purpose == "snapshot":
            connection.on_frame = lambda _: self.admin.save_snapshot(connection)
        else:
            ClientSession(self, connection)
