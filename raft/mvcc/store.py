"""The store's state machine: keys with revisions, in memory only their newest positions. Pure; values in a Backend.

- Every transaction that writes gets the next revision; all its writes carry it. A failed one changes nothing.
- The index maps a key to the position of its newest record and that record's CRC (see _place), or to minus the position
  if the record is a delete. Older versions are found by walking ``previous`` backward, so memory follows keys, not
  history. The CRC is there so that a delete need not read what it deletes, however large.
- ``compacted`` = C: every revision from C on can be read. Removing what C made unreadable ("scrub") is done later, in
  slices: a record at S <= C makes the one it supersedes unreadable, and a delete at S <= C makes itself unreadable.
- ``hash`` is the sum of digests of all live records: equal on all members that applied the same log, and checked
  against the records when a store is opened.

One writer; readers on the same thread. Source: etcd's documentation of its data model and KV API guarantees.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from zlib import crc32

from raft.errors import Compacted, Corrupt, FutureRevision, LeaseNotFound
from raft.mvcc import record as rec
from raft.mvcc.backend import SUB_BITS, Backend
from raft.mvcc.keys import SortedKeys
from raft.mvcc.lease import Leases
from raft.mvcc.record import Written
from raft.mvcc.txn import holds
from raft.mvcc.types import Compare, Event, KeyValue, Op, RangeResult, Response, TxnResult

_META = b"mvcc/2"
_STATE = struct.Struct(">QQQQ")
_SLICE = 500
_PUT: Response = ("put", None)
_MASK = (1 << 64) - 1
_CRC_BITS = 32
_CRC = (1 << _CRC_BITS) - 1


def _place(pos: int, record: bytes) -> int:
    """What the index holds of a live key: its position above, its record's CRC in the lower 32 bits."""
    return pos << _CRC_BITS | crc32(record)


def _digest(place: int) -> int:
    """record.digest of the record at that place."""
    return (place & _CRC) ^ (place >> _CRC_BITS)


class Mvcc:
    """Invariant: every key of the index is in exactly one of ``_live`` (its value > 0) and ``_dead`` (< 0)."""

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
        self._read_records()
        if self.hash != expected:
            raise Corrupt(f"the records hash to {self.hash:016x}, {expected:016x} was stored at {self.revision}")

    def _read_records(self) -> None:
        """Index, hash and leases from all records, oldest first: what a later one supersedes is taken out again."""
        index, total = self._index, 0
        leased: dict[bytes, int] = {}
        at = 0
        while chunk := self.backend.scan(at, 1 << 63, 512):
            for pos, record in chunk:
                key = rec.key_of(record)
                old = index.get(key, 0)
                if old > 0:
                    total -= _digest(old)
                    leased.pop(key, None)
                if rec.is_delete(record):
                    index[key] = -pos
                    continue
                index[key] = place = _place(pos, record)
                total += _digest(place)
                lease = rec.unpack_head(record)[3]
                if lease:
                    leased[key] = lease
            self.bytes_in_use += sum([len(record) for _, record in chunk])
            at = chunk[-1][0] + 1
        self.hash = total & _MASK
        self._live = SortedKeys(key for key, pos in index.items() if pos > 0)
        self._dead = SortedKeys(key for key, pos in index.items() if pos < 0)
        for key, lease in leased.items():
            self.leases.attach(lease, key)

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
        pos = self._index.get(key, 0) >> _CRC_BITS
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
        if pos > 0:
            pos >>= _CRC_BITS
        while abs(pos) >> SUB_BITS > at:
            pos = rec.previous_of(self._record(abs(pos)))
        return pos

    # --- writing

    def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()
    ) -> tuple[TxnResult, list[Written]]:
        """Judge, then do; and what it wrote (see events). Raises LeaseNotFound, unchanged.

        Well-formedness is the proposer's (txn.check_txn).
        """
        succeeded = True
        for compare in compares:
            if not holds(compare, self._target(compare[0], compare[1])):
                succeeded = False
                break
        ops = then if succeeded else otherwise
        for op in ops:
            if op[0] == "put" and op[3] and op[3] not in self.leases:
                raise LeaseNotFound(op[3])
        first = (self.revision + 1) << SUB_BITS
        writes: list[Written] = []
        responses: list[Response] = []
        for op in ops:
            if op[0] == "put":
                writes.append(self._put(first + len(writes), op[1], op[2], op[3]))
                responses.append(_PUT)
            elif op[0] == "delete":
                responses.append(("delete", self._delete(first, op[1], op[2], writes)))
            else:
                responses.append(self._range_inside(op, bool(writes)))
        if writes:
            self.revision += 1
        return tuple.__new__(TxnResult, (succeeded, self.revision, responses)), writes

    def _target(self, key: bytes, target: str) -> int | bytes:
        """What a compare of ``key`` looks at; of an absent key, 0 or an empty value."""
        pos = self._index.get(key, 0) >> _CRC_BITS
        if pos <= 0:
            return b"" if target == "value" else 0
        return pos >> SUB_BITS if target == "mod" else rec.field(self._record(pos), target)

    def _range_inside(self, op: Op, wrote: bool) -> Response:
        """A range of a transaction sees what was written before it."""
        self.revision += wrote
        try:
            result = self.range(op[1], op[2], limit=op[3])
        finally:
            self.revision -= wrote
        return ("range", result.kvs, result.count)

    def _put(self, pos: int, key: bytes, value: bytes, lease: int) -> Written:
        found = old = self._index.get(key, 0)
        before: bytes | None = None
        if found > 0:
            old = found >> _CRC_BITS
            before = self._record(old)
            _, create, version, held, _, _ = rec.unpack_head(before)
            record = rec.encode_put(key, value, create, version + 1, lease, old)
            self.hash -= _digest(found)
            if held and held != lease:
                self.leases.detach(held, key)
        else:
            record = rec.encode_put(key, value, pos >> SUB_BITS, 1, lease, old)
            if old < 0:
                self._dead.remove(key)
            self._live.add(key)
        if lease:
            self.leases.attach(lease, key)
        self._index[key] = place = _place(pos, record)
        self.hash = (self.hash + _digest(place)) & _MASK
        self.backend.put(pos, record)
        self.bytes_in_use += len(record)
        return pos, record, old, before

    def _delete(self, first: int, key: bytes, end: bytes | None, writes: list[Written]) -> int:
        """How many; what it wrote is added to ``writes``, which began at position ``first``."""
        if end is None:
            keys = [key] if self._index.get(key, 0) > 0 else []
        else:
            keys = self._live.take(key, end, len(self._live))
        for name in keys:
            pos, found = first + len(writes), self._index[name]
            old = found >> _CRC_BITS
            self.hash = (self.hash - _digest(found)) & _MASK
            held = self.leases.holder(name)
            if held:
                self.leases.detach(held, name)
            self._live.remove(name)
            self._dead.add(name)
            record = rec.encode_delete(name, old)
            self._index[name] = -pos
            self.backend.put(pos, record)
            self.bytes_in_use += len(record)
            writes.append((pos, record, old, None))
        return len(keys)

    def count(self, key: bytes, end: bytes | None) -> int:
        """Live keys in [key, end) now."""
        return int(self._index.get(key, 0) > 0) if end is None else self._live.count(key, end)

    def lease_revoke(self, lease_id: int) -> tuple[int, list[Written]]:
        """Delete its keys at one revision, and the lease. Raises LeaseNotFound."""
        keys = sorted(self.leases.get(lease_id).keys)
        first = (self.revision + 1) << SUB_BITS
        writes: list[Written] = []
        for key in keys:
            self._delete(first, key, None, writes)
        self.leases.remove(lease_id)
        self.revision += bool(writes)
        return self.revision, writes

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

    def events(self, writes: Sequence[Written], *, with_previous: int) -> list[Event]:
        """What watchers are told of what one revision wrote; made only where somebody watches."""
        return [self._event(write, with_previous) for write in writes]

    def _event(self, write: Written, with_previous: int) -> Event:
        pos, record, old, before = write
        if old <= 0 or not rec.wants_previous(record, with_previous):
            return rec.event(pos, record, None)
        return rec.event(pos, record, rec.key_value(old, before if before is not None else self._record(old)))

    def previous_kv(self, record: bytes) -> KeyValue | None:
        """What the record superseded; None if nothing, or if it is no longer there."""
        previous = rec.previous_of(record)
        if previous <= 0:
            return None
        before = self.backend.get(previous)
        return None if before is None else rec.key_value(previous, before)
