"""A Store that lives in memory: the tests' stand-in for the replicated one, and an oracle of its contract.

Keeps every revision, so reads and watches at old revisions work until `compact`. Leases run on the injected clock
(`tick` expires them). Not for production: one process, nothing on disk.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


class StoreError(Exception):
    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


@dataclass(frozen=True, slots=True)
class KV:
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class RangeResult:
    kvs: list[KV]
    count: int
    more: bool
    revision: int


@dataclass(frozen=True, slots=True)
class TxnResult:
    succeeded: bool
    revision: int
    responses: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Event:
    type: int
    kv: KV
    prev_kv: KV | None


@dataclass(frozen=True, slots=True)
class Batch:
    revision: int
    events: list[Event]


@dataclass(slots=True)
class _Lease:
    ttl_s: int
    expires: float
    keys: set[bytes] = field(default_factory=set)


class MemoryStore:
    """Fulfils `cluster.registry.store.Store`. `fail` (a code) makes the next transaction raise; `txns` counts them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.revision = 1
        self.compacted = 0
        self.fail = ""
        self.txns = 0
        self._live: dict[bytes, KV] = {}
        self._keys: list[bytes] = []
        self._history: list[Batch] = []
        self._leases: dict[int, _Lease] = {}
        self._next_lease = 1000
        self._changed: asyncio.Event | None = None

    # --- reads

    @staticmethod
    def _in_time(deadline: float | None) -> None:
        if deadline is not None and deadline <= asyncio.get_running_loop().time():
            raise StoreError("deadline_exceeded", "context deadline exceeded")

    def _span(self, live_keys: list[bytes], key: bytes, range_end: bytes | None) -> list[bytes]:
        if range_end is None:
            i = bisect.bisect_left(live_keys, key)
            return [key] if i < len(live_keys) and live_keys[i] == key else []
        lo = bisect.bisect_left(live_keys, key)
        hi = len(live_keys) if range_end == b"\0" else bisect.bisect_left(live_keys, range_end)
        return live_keys[lo:hi]

    def _at(self, revision: int) -> tuple[dict[bytes, KV], list[bytes]]:
        if revision in (0, self.revision):
            return self._live, self._keys
        if revision < self.compacted:
            raise StoreError("compacted")
        if revision > self.revision:
            raise StoreError("future_revision")
        live = dict(self._live)
        for batch in reversed(self._history):  # undo what came later
            if batch.revision <= revision:
                break
            for e in reversed(batch.events):
                if e.prev_kv is None:
                    live.pop(e.kv.key, None)
                else:
                    live[e.kv.key] = e.prev_kv
        return live, sorted(live)

    def _range(self, key: bytes, range_end: bytes | None, limit: int, revision: int) -> tuple[list[KV], int]:
        live, ordered = self._at(revision)
        span = self._span(ordered, key, range_end)
        return [live[k] for k in (span[:limit] if limit else span)], len(span)

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
        self._in_time(deadline)
        self.tick()
        kvs, count = self._range(key, range_end, limit, revision)
        if count_only:
            kvs = []
        if keys_only:
            kvs = [replace(kv, value=b"") for kv in kvs]
        return RangeResult(kvs, count, not count_only and count > len(kvs), self.revision)

    async def read_index(self, *, tell_watches: bool = False) -> int:
        return self.revision

    # --- writes

    def _holds(self, compare: tuple[Any, ...]) -> bool:
        key, target, op, operand = compare
        kv = self._live.get(key)
        names = {"mod": "mod_revision", "create": "create_revision"}
        have: Any = getattr(kv, names.get(target, target)) if kv else (b"" if target == "value" else 0)
        return bool(
            {"=": have == operand, "!=": have != operand}.get(op, have > operand if op == ">" else have < operand)
        )

    def _no_duplicates(self, side: str, ops: Sequence[tuple[Any, ...]]) -> None:
        """A key that is put may be put once, and not deleted in the same transaction."""
        puts = [op[1] for op in ops if op[0] == "put"]
        deletes = [(op[1], op[2] if len(op) > 2 else None) for op in ops if op[0] == "delete"]
        keys = sorted(set(puts))
        if len(keys) < len(puts) or (keys and any(list(self._span(keys, *span)) for span in deletes)):
            raise StoreError("invalid", f"{side}: etcdserver: duplicate key given in txn request")

    def _put(self, events: list[Event], revision: int, key: bytes, value: bytes, lease: int) -> None:
        if lease and lease not in self._leases:
            raise StoreError("lease_not_found")
        old = self._live.get(key)
        kv = KV(key, value, old.create_revision if old else revision, revision, old.version + 1 if old else 1, lease)
        if old is None:
            bisect.insort(self._keys, key)
        elif old.lease and old.lease in self._leases:
            self._leases[old.lease].keys.discard(key)
        if lease:
            self._leases[lease].keys.add(key)
        self._live[key] = kv
        events.append(Event(0, kv, old))

    def _delete(self, events: list[Event], revision: int, key: bytes, range_end: bytes | None) -> int:
        span = list(self._span(self._keys, key, range_end))
        for k in span:
            old = self._live.pop(k)
            self._keys.remove(k)
            if old.lease in self._leases:
                self._leases[old.lease].keys.discard(k)
            events.append(Event(1, KV(k, b"", 0, revision, 0), old))
        return len(span)

    def _commit(self, revision: int, events: list[Event]) -> None:
        if events:
            self.revision = revision
            self._history.append(Batch(revision, events))
            if self._changed is not None:
                self._changed.set()

    async def txn(
        self,
        compares: Sequence[tuple[Any, ...]],
        then: Sequence[tuple[Any, ...]],
        otherwise: Sequence[tuple[Any, ...]] = (),
        *,
        deadline: float | None = None,
    ) -> TxnResult:
        self._in_time(deadline)
        self.tick()
        self.txns += 1
        if self.fail:
            code, self.fail = self.fail, ""
            raise StoreError(code)
        for side, ops in (("then", then), ("otherwise", otherwise)):
            self._no_duplicates(side, ops)
        ok = all(self._holds(c) for c in compares)
        revision, events, responses = self.revision + 1, list[Event](), list[tuple[Any, ...]]()
        for op in then if ok else otherwise:
            if op[0] == "put":
                self._put(events, revision, op[1], op[2], op[3] if len(op) > 3 else 0)
                responses.append(("put", None))
            elif op[0] == "delete":
                responses.append(("delete", self._delete(events, revision, op[1], op[2] if len(op) > 2 else None)))
            else:
                kvs, count = self._range(op[1], op[2] if len(op) > 2 else None, op[3] if len(op) > 3 else 0, 0)
                responses.append(("range", kvs, count))
        self._commit(revision, events)
        return TxnResult(ok, self.revision, responses)

    async def compact(self, revision: int) -> None:
        if revision > self.revision:
            raise StoreError("future_revision")
        if revision <= self.compacted:
            raise StoreError("compacted")
        self.compacted = revision
        self._history = [b for b in self._history if b.revision > revision]

    # --- leases

    def tick(self) -> None:
        """Expire leases whose time has come."""
        now = self.clock()
        for lease_id in [i for i, lease in self._leases.items() if lease.expires <= now]:
            self._drop(lease_id)

    def _drop(self, lease_id: int) -> None:
        lease = self._leases.pop(lease_id)
        events: list[Event] = []
        for key in sorted(lease.keys):
            self._delete(events, self.revision + 1, key, None)
        self._commit(self.revision + 1, events)

    async def lease_grant(self, ttl_s: int, lease_id: int = 0) -> int:
        self._next_lease += 1
        lease_id = lease_id or self._next_lease
        self._leases[lease_id] = _Lease(ttl_s, self.clock() + ttl_s)
        return lease_id

    async def lease_keep_alive(self, lease_id: int) -> int:
        self.tick()
        lease = self._leases.get(lease_id)
        if lease is None:
            raise StoreError("lease_not_found")
        lease.expires = self.clock() + lease.ttl_s
        return lease.ttl_s

    async def lease_revoke(self, lease_id: int) -> None:
        if lease_id not in self._leases:
            raise StoreError("lease_not_found")
        self._drop(lease_id)

    # --- watch

    async def watch(
        self, key: bytes, range_end: bytes | None = None, *, start_revision: int = 0, prev_kv: int = 0
    ) -> AsyncIterator[Batch]:
        if start_revision and start_revision <= self.compacted:
            raise StoreError("compacted")
        if self._changed is None:
            self._changed = asyncio.Event()
        at = (start_revision or self.revision + 1) - 1
        while True:
            changed = self._changed
            if at < self.revision:
                first = bisect.bisect_right(self._history, at, key=lambda b: b.revision)
                upto = self.revision
                for batch in self._history[first:]:
                    hits = [
                        e if prev_kv == 1 or (prev_kv == 2 and e.type == 1) else replace(e, prev_kv=None)
                        for e in batch.events
                        if self._span([e.kv.key], key, range_end)
                    ]
                    if hits:
                        yield Batch(batch.revision, hits)
                at = upto
                yield Batch(at, [])
                continue
            await changed.wait()
            if changed is self._changed:
                self._changed = asyncio.Event()
