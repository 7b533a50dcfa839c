"""The store's state machine: keys with revisions, in memory only their newest positions. Pure; values in a Backend.

- Every transaction that writes gets the next revision; all its writes carry it. A failed one changes nothing.
- The index maps a key to the position of its newest record, negative if that record is a delete. Older versions are
  found by walking ``previous`` backward, so memory follows keys, not history.
- ``compacted`` = C: every revision from C on can be read. Removing what C made unreadable ("scrub") is done later, in
  slices: a record at S <= C makes the one it supersedes unreadable, and a delete at S <= C makes itself unreadable.
- ``hash`` is the sum of digests of all live records: equal on all members that applied the same log, and checked
  against the records when a store is opened.

One writer; readers on the same thread. Source: etcd's documentation of its data model and KV API guarantees.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Sequence

from raft.errors import Compacted, Corrupt, FutureRevision, LeaseNotFound
from raft.mvcc import record as rec
from raft.mvcc.backend import SUB_BITS, Backend
from raft.mvcc.keys import SortedKeys
from raft.mvcc.lease import Leases
from raft.mvcc.txn import holds
from raft.mvcc.types import Compare, Event, KeyValue, Op, RangeResult, Response, TxnResult

_META = b"mvcc"
_STATE = struct.Struct(">QQQQ")
_SLICE = 500
_MASK = (1 << 64) - 1


class Mvcc:
    """Invariant: every key of the index is in exactly one of ``_live`` (position > 0) and ``_dead`` (< 0)."""

    def __init__(self, backend: Backend) -> None:
        """Reads every record of ``backend`` once. Raises Corrupt if they are not those that were stored."""
        self.backend = backend
        self.revision = 1
        self.compacted = 0
        self.hash = 0
        self.bytes_in_use = 0
        self._scrubbed = 0
        self._index: dict[bytes, int] = {}
        self._live = SortedKeys()
        self._dead = SortedKeys()
        self.leases = Leases(backend)
        self._load()

    def __len__(self) -> int:
        return len(self._live)

    # --- opening and saving

    def _load(self) -> None:
        expected = 0
        state = self.backend.meta_get(_META)
        if state is not None:
            self.revision, self.compacted, self._scrubbed, expected = _STATE.unpack(state)
        at = 0
        while chunk := self.backend.scan(at, 1 << 63, 4096):
            for pos, record in chunk:
                self._index[rec.key_of(record)] = -pos if rec.is_delete(record) else pos
                self.bytes_in_use += len(record)
            at = chunk[-1][0] + 1
        live = [key for key, pos in self._index.items() if pos > 0]
        self._live = SortedKeys(live)
        self._dead = SortedKeys(key for key, pos in self._index.items() if pos < 0)
        for key in live:
            pos = self._index[key]
            record = self._record(pos)
            self.hash = (self.hash + rec.digest(pos, record)) & _MASK
            lease = rec.decode(record).lease
            if lease:
                self.leases.attach(lease, key)
        if self.hash != expected:
            raise Corrupt(f"the records hash to {self.hash:016x}, {expected:016x} was stored at {self.revision}")

    def save_state(self) -> None:
        """To be called before the backend may cut (after each applied entry)."""
        self.backend.meta_set(_META, _STATE.pack(self.revision, self.compacted, self._scrubbed, self.hash))

    def _record(self, pos: int) -> bytes:
        record = self.backend.get(pos)
        if record is None:
            raise Corrupt(f"record {pos >> SUB_BITS}/{pos & ((1 << SUB_BITS) - 1)} is missing")
        return record

    # --- reading

    def get(self, key: bytes) -> KeyValue | None:
        """The key as it is now."""
        pos = self._index.get(key, 0)
        return rec.key_value(pos, self._record(pos)) if pos > 0 else None

    def range(
        self,
        key: bytes,
        end: bytes | None = None,
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        max_bytes: int = 0,
    ) -> RangeResult:
        """[key, end) at ``revision`` (0: now) in key order; see range_steps."""
        steps = self.range_steps(
            key,
            end,
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
            max_bytes=max_bytes,
        )
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: RangeResult = done.value
                return result

    def range_steps(
        self,
        key: bytes,
        end: bytes | None = None,
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        max_bytes: int = 0,
    ) -> Generator[None, None, RangeResult]:
        """A range in small steps: writes may happen between them, the result is of one revision all the same.

        ``count`` counts all that match. At most ``limit`` keys, and no more once they exceed ``max_bytes`` (0: no
        limit); ``more`` says that some are missing. Raises Compacted, FutureRevision.
        """
        at = revision or self.revision
        if at > self.revision:
            raise FutureRevision(at, self.revision)
        kvs: list[KeyValue] = []
        count = size = 0
        full = count_only
        cursor = key
        while True:
            if at < self.compacted:
                raise Compacted(at, self.compacted)
            if full and end is not None and at == self.revision:
                count += self._live.count(cursor, end)
                break
            names = [key] if end is None else self._candidates(cursor, end, at)
            for name in names:
                pos = self._position_at(name, at)
                if pos <= 0:
                    continue
                count += 1
                if full:
                    continue
                kv = rec.key_value(pos, self._record(pos), with_value=not keys_only)
                kvs.append(kv)
                size += len(name) + len(kv.value)
                full = len(kvs) == limit or bool(max_bytes and size >= max_bytes)
            if len(names) < _SLICE:
                break
            cursor = names[-1] + b"\0"
            yield
        return RangeResult(kvs, count, count > len(kvs) and not count_only, at)

    def hash_steps(self, revision: int = 0) -> Generator[None, None, tuple[int, int, int]]:
        """(hash, revision, compacted) of the records at ``revision`` (0: now), each read again, in small steps.

        Equal on all members that have the same history; of the newest revision it is ``hash``, if the records are
        still those that were stored. Raises Compacted, FutureRevision, Corrupt.
        """
        at = revision or self.revision
        if at > self.revision:
            raise FutureRevision(at, self.revision)
        total, cursor = 0, b""
        while True:
            if at < self.compacted:
                raise Compacted(at, self.compacted)
            names = self._candidates(cursor, b"\0", at)
            for name in names:
                pos = self._position_at(name, at)
                if pos > 0:
                    total += rec.digest(pos, self._record(pos))
            if len(names) < _SLICE:
                return total & _MASK, at, self.compacted
            cursor = names[-1] + b"\0"
            yield

    def _candidates(self, start: bytes, end: bytes, at: int) -> list[bytes]:
        names = self._live.take(start, end, _SLICE)
        if at == self.revision or not len(self._dead):
            return names
        dead = self._dead.take(start, end, _SLICE)
        return sorted(names + dead)[:_SLICE] if dead else names

    def _position_at(self, key: bytes, at: int) -> int:
        """Position of the key's version at revision ``at``; not positive if it was absent."""
        pos = self._index.get(key, 0)
        while abs(pos) >> SUB_BITS > at:
            pos = rec.previous_of(self._record(abs(pos)))
        return pos

    # --- writing

    def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()
    ) -> tuple[TxnResult, list[Event]]:
        """Judge, then do; the events are what it wrote, with what was there before. Raises LeaseNotFound, unchanged.

        Well-formedness is the proposer's (txn.check_txn).
        """
        succeeded = True
        for compare in compares:
            kv = self.get(compare[0]) or KeyValue(compare[0], b"", 0, 0, 0, 0)
            if not holds(compare, kv):
                succeeded = False
                break
        ops = then if succeeded else otherwise
        for op in ops:
            if op[0] == "put" and op[3] and op[3] not in self.leases:
                raise LeaseNotFound(op[3])
        write = _Write(self)
        responses = [_DO[op[0]](self, write, op) for op in ops]
        return TxnResult(succeeded, write.finish(), responses), write.events

    def _do_put(self, write: _Write, op: Op) -> Response:
        write.put(op[1], op[2], op[3])
        return ("put", None)

    def _do_delete(self, write: _Write, op: Op) -> Response:
        return ("delete", write.delete(op[1], op[2]))

    def _do_range(self, write: _Write, op: Op) -> Response:
        self.revision += bool(write.events)
        try:
            result = self.range(op[1], op[2], limit=op[3])
        finally:
            self.revision -= bool(write.events)
        return ("range", result.kvs, result.count)

    def lease_revoke(self, lease_id: int) -> tuple[int, list[Event]]:
        """Delete its keys at one revision, and the lease. Raises LeaseNotFound."""
        keys = sorted(self.leases.get(lease_id).keys)
        write = _Write(self)
        for key in keys:
            write.delete(key, None)
        self.leases.remove(lease_id)
        return write.finish(), write.events

    # --- compaction

    def compact(self, revision: int) -> None:
        """Make everything before ``revision`` unreadable. Raises Compacted, FutureRevision."""
        if revision <= self.compacted:
            raise Compacted(revision, self.compacted)
        if revision > self.revision:
            raise FutureRevision(revision, self.revision)
        self.compacted = revision

    def scrub(self, limit: int) -> bool:
        """Remove up to about ``limit`` records that compaction made unreadable. Whether there is nothing left to do.

        Not replicated: members may do it at different times.
        """
        end = (self.compacted + 1) << SUB_BITS
        if self._scrubbed >= end:
            return True
        chunk = self.backend.scan(self._scrubbed, end, limit)
        for pos, record in chunk:
            previous = rec.previous_of(record)
            if previous > 0:
                self._remove(previous)
            if rec.is_delete(record):
                self._remove(pos)
                key = rec.key_of(record)
                if self._index.get(key) == -pos:
                    del self._index[key]
                    self._dead.remove(key)
        self._scrubbed = chunk[-1][0] + 1 if len(chunk) == limit else end
        return self._scrubbed >= end

    def _remove(self, pos: int) -> None:
        record = self.backend.get(pos)
        if record is not None:
            self.bytes_in_use -= len(record)
            self.backend.delete(pos)

    # --- history, for watches

    def history(self, start: int, limit: int) -> tuple[int, list[tuple[int, bytes]]]:
        """Records from revision ``start`` on, whole revisions, about ``limit``, and the last revision they cover.

        Raises Compacted if ``start`` is not above the compacted revision.
        """
        if start <= self.compacted:
            raise Compacted(start, self.compacted)
        low, high = start << SUB_BITS, (self.revision + 1) << SUB_BITS
        records = self.backend.scan(low, high, limit)
        if len(records) < limit:
            return self.revision, records
        last = records[-1][0] >> SUB_BITS
        records += self.backend.scan(records[-1][0] + 1, (last + 1) << SUB_BITS, 1 << SUB_BITS)
        return last, records

    def previous_kv(self, record: bytes) -> KeyValue | None:
        """What the record superseded; None if nothing, or if it is no longer there."""
        previous = rec.previous_of(record)
        if previous <= 0:
            return None
        before = self.backend.get(previous)
        return None if before is None else rec.key_value(previous, before)


class _Write:
    """The writes of one revision, which exists once there is one."""

    def __init__(self, store: Mvcc) -> None:
        self._store = store
        self._next = (store.revision + 1) << SUB_BITS
        self.events: list[Event] = []

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        store, pos = self._store, self._next
        old = store._index.get(key, 0)
        revision = pos >> SUB_BITS
        create, version, prev_kv = revision, 1, None
        if old > 0:
            prev_kv = self._retire(old)
            create, version = prev_kv.create_revision, prev_kv.version + 1
            if prev_kv.lease and prev_kv.lease != lease:
                store.leases.detach(prev_kv.lease, key)
        else:
            if old < 0:
                store._dead.remove(key)
            store._live.add(key)
        record = rec.encode_put(key, value, create, version, lease, old)
        store.hash = (store.hash + rec.digest(pos, record)) & _MASK
        if lease:
            store.leases.attach(lease, key)
        self._append(key, pos, record, Event(0, KeyValue(key, value, create, revision, version, lease), prev_kv))

    def delete(self, key: bytes, end: bytes | None) -> int:
        store = self._store
        if end is None:
            keys = [key] if store._index.get(key, 0) > 0 else []
        else:
            keys = store._live.take(key, end, len(store._live))
        for name in keys:
            old = store._index[name]
            prev_kv = self._retire(old)
            if prev_kv.lease:
                store.leases.detach(prev_kv.lease, name)
            store._live.remove(name)
            store._dead.add(name)
            pos = self._next
            event = Event(1, KeyValue(name, b"", 0, pos >> SUB_BITS, 0, 0), prev_kv)
            self._append(name, -pos, rec.encode_delete(name, old), event)
        return len(keys)

    def _retire(self, pos: int) -> KeyValue:
        record = self._store._record(pos)
        self._store.hash = (self._store.hash - rec.digest(pos, record)) & _MASK
        return rec.key_value(pos, record)

    def _append(self, key: bytes, pos: int, record: bytes, event: Event) -> None:
        store = self._store
        store._index[key] = pos
        store.backend.put(abs(pos), record)
        store.bytes_in_use += len(record)
        self.events.append(event)
        self._next += 1

    def finish(self) -> int:
        """The store's revision after it."""
        if self.events:
            self._store.revision += 1
        return self._store.revision


_DO: dict[str, Callable[[Mvcc, _Write, Op], Response]] = {
    "put": Mvcc._do_put,
    "delete": Mvcc._do_delete,
    "range": Mvcc._do_range,
}
