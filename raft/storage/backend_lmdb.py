"""A store's records on disk, in LMDB; fulfils raft.mvcc.backend.Backend structurally. IO.

What is put, deleted and set is kept in memory until a flush writes all of it in one LMDB transaction:

    put/delete/set_meta --> pending --begin_flush()--> flushing --flush_slice()*, commit(), end_flush()--> LMDB

``commit`` syncs and may run on another thread (LMDB lets go of the interpreter lock); all else belongs to one thread.
Each LMDB commit is durable, data before meta page: a machine that loses power finds a whole earlier flush, and the WAL
has what came after. (MDB_NOSYNC would save nothing on the caller's thread, and can lose the tree with the power.)

LMDB's own locks are off (they are bound to threads): the member's directory is locked by identity, there is one writer,
and the one reader is renewed before each write transaction, so that it never sees a page that may be reused. Files are
copied (``copy_to``) only between flushes.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb

_POS = struct.Struct(">Q")
RECORDS = b"records"
META = b"meta"
DEFAULT_MAP_BYTES = 16 << 30


class _Overlay:
    """What is not in LMDB yet. ``order`` has the positions of the puts, which rise."""

    __slots__ = ("bytes", "meta", "order", "records")

    def __init__(self) -> None:
        self.records: dict[int, bytes | None] = {}
        self.order: list[int] = []
        self.meta: dict[bytes, bytes | None] = {}
        self.bytes = 0

    def scan(self, start: int, end: int) -> list[int]:
        return self.order[bisect_left(self.order, start) : bisect_left(self.order, end)]


class LmdbBackend:
    def __init__(
        self, directory: Path, *, map_bytes: int = DEFAULT_MAP_BYTES, create: bool = False, readonly: bool = False
    ) -> None:
        """Open the environment in ``directory``; ``map_bytes`` is address space, not memory or disk.

        ``readonly``: ``directory`` may also be the data file itself; what is put stays in memory.
        """
        if create:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._env: Any = lmdb.open(
            str(directory),
            map_size=map_bytes,
            max_dbs=2,
            lock=False,
            create=create,
            mode=0o600,
            readahead=False,
            readonly=readonly,
            subdir=not (readonly and directory.is_file()),
        )
        self._records_db = self._env.open_db(RECORDS, create=create)
        self._meta_db = self._env.open_db(META, create=create)
        self._page_bytes = int(self._env.stat()["psize"])
        self._read: Any = self._env.begin()
        self._write: Any = None
        self._pending = _Overlay()
        self._flushing: _Overlay | None = None
        self._puts: list[tuple[bytes, bytes]] = []
        self._deletes: list[bytes] = []
        self.is_open = True
        self.used_bytes = self._used_bytes()
        """Pages that hold something, as of the last flush; the rest of the file is free to be written again."""

    # --- records

    def get(self, pos: int) -> bytes | None:
        pending = self._pending.records
        if pos in pending:
            return pending[pos]
        flushing = self._flushing
        if flushing is not None and pos in flushing.records:
            return flushing.records[pos]
        found: bytes | None = self._read.get(_POS.pack(pos), db=self._records_db)
        return found

    def put(self, pos: int, record: bytes) -> None:
        pending = self._pending
        pending.records[pos] = record
        pending.order.append(pos)
        pending.bytes += len(record) + 16

    def delete(self, pos: int) -> None:
        self._pending.records[pos] = None
        self._pending.bytes += 16

    def scan(self, start: int, end: int, limit: int) -> list[tuple[int, bytes]]:
        found = self._scan_disk(start, end, limit)
        for overlay in (self._flushing, self._pending):
            if overlay is None or len(found) >= limit:
                continue
            for pos in overlay.scan(start, end):
                record = self.get(pos)
                if record is not None:
                    found.append((pos, record))
                    if len(found) >= limit:
                        break
        return found

    def _scan_disk(self, start: int, end: int, limit: int) -> list[tuple[int, bytes]]:
        hidden = [o.records for o in (self._flushing, self._pending) if o is not None and o.records]
        unpack = _POS.unpack
        found: list[tuple[int, bytes]] = []
        with self._read.cursor(db=self._records_db) as cursor:
            if not cursor.set_range(_POS.pack(start)):
                return []
            stored = cursor.iternext(keys=True, values=True)
            # A batch at a time keeps the loop over a million records out of Python.
            while len(found) < limit:
                batch = [(unpack(name)[0], record) for name, record in islice(stored, min(512, limit - len(found)))]
                if not batch:
                    break
                last = batch[-1][0] >= end
                if last:
                    batch = batch[: bisect_left(batch, (end,))]
                if hidden:
                    batch = [item for item in batch if not any(item[0] in records for records in hidden)]
                found += batch
                if last:
                    break
        return found

    # --- named values

    def meta_get(self, name: bytes) -> bytes | None:
        for overlay in (self._pending, self._flushing):
            if overlay is not None and name in overlay.meta:
                return overlay.meta[name]
        found: bytes | None = self._read.get(name, db=self._meta_db)
        return found

    def meta_set(self, name: bytes, value: bytes | None) -> None:
        self._pending.meta[name] = value

    def meta_scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        names: dict[bytes, None] = {}
        with self._read.cursor(db=self._meta_db) as cursor:
            if cursor.set_range(prefix):
                for name, _ in cursor:
                    if not name.startswith(prefix):
                        break
                    names[name] = None
        for overlay in (self._flushing, self._pending):
            if overlay is not None:
                names.update((name, None) for name in overlay.meta if name.startswith(prefix))
        values = ((name, self.meta_get(name)) for name in sorted(names))
        return [(name, value) for name, value in values if value is not None]

    # --- flushing

    @property
    def pending_bytes(self) -> int:
        return self._pending.bytes

    @property
    def flushing(self) -> bool:
        return self._flushing is not None

    def begin_flush(self) -> bool:
        """Take everything up to now. False if there is nothing to write."""
        if self._flushing is not None:
            raise RuntimeError("a flush is already under way")
        if not self._pending.records and not self._pending.meta:
            return False
        self._flushing, self._pending = self._pending, _Overlay()
        # Positions put and deleted since the last flush never reach the disk.
        records, pack = self._flushing.records, _POS.pack
        self._puts = [(pack(pos), record) for pos in self._flushing.order if (record := records[pos]) is not None]
        self._puts.reverse()
        self._deletes = [pack(pos) for pos in sorted(records, reverse=True) if records[pos] is None]
        self._write = self._env.begin(write=True)
        return True

    def flush_slice(self, limit: int) -> bool:
        """Hand ``limit`` records to LMDB. Whether all are."""
        if self._flushing is None:
            raise RuntimeError("no flush is under way")
        write = self._write
        if self._puts:
            some = self._puts[-limit:]
            del self._puts[-limit:]
            some.reverse()
            self._append(some)
        for _ in range(min(limit, len(self._deletes))):
            write.delete(self._deletes.pop(), db=self._records_db)
        if self._puts or self._deletes:
            return False
        for name, value in self._flushing.meta.items():
            if value is None:
                write.delete(name, db=self._meta_db)
            else:
                write.put(name, value, db=self._meta_db)
        return True

    def _append(self, records: list[tuple[bytes, bytes]]) -> None:
        """Positions rise, so LMDB may put each after the last one, unasked: that fills its pages, which it else leaves
        half empty behind the newest, and takes half the time."""
        with self._write.cursor(db=self._records_db) as cursor:
            _, added = cursor.putmulti(records, append=True)
        if added != len(records):  # those at or below the last were left out
            for name, record in records:
                self._write.put(name, record, db=self._records_db)

    def commit(self) -> None:
        """Make the flush durable. Blocks; the one call that may be made on another thread."""
        self._write.commit()
        self._write = None

    def end_flush(self) -> None:
        self._read.abort()
        self._read = self._env.begin()
        self._flushing = None
        self.used_bytes = self._used_bytes()

    def flush(self) -> None:
        """All of it at once, on this thread; finishes a flush that was left half-way."""
        if self._flushing is not None:
            self._finish_flush()
        if self.begin_flush():
            self._finish_flush()

    def _finish_flush(self) -> None:
        if self._write is not None:
            while not self.flush_slice(10_000):
                continue
            self.commit()
        self.end_flush()

    # --- files

    def copy_to(self, directory: Path) -> None:
        """A compacted copy of what is in LMDB, into an empty directory. Blocks; not while flushing."""
        self._env.copy(str(directory), compact=True)

    def _used_bytes(self) -> int:
        stats = [self._read.stat(db) for db in (self._records_db, self._meta_db)]
        pages = sum(stat[kind] for stat in stats for kind in ("branch_pages", "leaf_pages", "overflow_pages"))
        return int(pages) * self._page_bytes

    def size_bytes(self) -> int:
        return (int(self._env.info()["last_pgno"]) + 1) * self._page_bytes

    def close(self) -> None:
        """What was not flushed is left to the WAL. Idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        if self._write is not None:
            self._write.abort()
        self._read.abort()
        self._env.close()


def data_file(directory: Path) -> Path:
    """The file that holds everything of an environment."""
    return directory / "data.mdb"
