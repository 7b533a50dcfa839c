"""Snapshot files: the state machine at one index, whole. IO, blocking.

    file = magic version:u32 head_length:u32 head_crc:u32 head { chunk_length:u32 chunk }* 0:u32 total:u64 crc:u32

``head`` is the SnapshotMeta in msgpack; ``crc`` runs over the chunks. A file appears under its name
(``<term>-<index>.snap``) only when it is complete and durable; anything called ``.part`` is left over from a crash.
Chunks stream, so neither side holds a snapshot in memory.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgpack

from raft.core.types import Snapshot, SnapshotMeta
from raft.faults import Faults
from raft.storage.errors import SnapshotCorrupt
from raft.storage.files import make_directory, replace_durably, sync_directory

MAGIC = b"sk8snap\n"
FORMAT_VERSION = 1
CHUNK_BYTES = 1 << 20
_HEAD = struct.Struct("<8sIII")
_LENGTH = struct.Struct("<I")
_TRAILER = struct.Struct("<QI")
MAX_CHUNK_BYTES = 1 << 28


class SnapshotWriter:
    """``with store.writer(meta) as w: w.write(chunk)...; w.commit()``. Without commit nothing remains."""

    def __init__(self, store: SnapshotStore, meta: SnapshotMeta) -> None:
        self.meta = meta
        self._store = store
        self._final = store.path(meta)
        self._part = self._final.with_suffix(".part")
        self._file: BinaryIO | None = open(self._part, "wb", buffering=CHUNK_BYTES)  # noqa: SIM115
        self._total = 0
        self._crc = 0
        head = msgpack.packb(meta.to_wire())
        self._file.write(_HEAD.pack(MAGIC, FORMAT_VERSION, len(head), zlib.crc32(head)) + head)

    def write(self, chunk: bytes) -> None:
        if not chunk:
            return
        self._open().write(_LENGTH.pack(len(chunk)))
        self._open().write(chunk)
        self._total += len(chunk)
        self._crc = zlib.crc32(chunk, self._crc)
        self._store.faults.hit("snapshot.write")

    def commit(self) -> Path:
        """Make it durable and visible; older files beyond the number kept are deleted."""
        file = self._open()
        file.write(_LENGTH.pack(0) + _TRAILER.pack(self._total, self._crc))
        file.flush()
        self._store.faults.hit("snapshot.fsync")
        os.fsync(file.fileno())
        file.close()
        self._file = None
        self._store.faults.hit("snapshot.before_rename")
        replace_durably(self._part, self._final)
        self._store.faults.hit("snapshot.after_rename")
        self._store.prune()
        return self._final

    def abort(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._part.unlink(missing_ok=True)

    def _open(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("the snapshot writer is closed")
        return self._file

    def __enter__(self) -> SnapshotWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.abort()


class SnapshotStore:
    def __init__(self, directory: Path, *, keep: int = 2, faults: Faults | None = None) -> None:
        """Makes the directory if need be and removes what a crash left half-written."""
        if keep < 1:
            raise ValueError(f"keep is {keep}: must be at least 1")
        self.directory = directory
        self.keep = keep
        self.faults = faults or Faults()
        make_directory(directory)
        for leftover in directory.glob("*.part"):
            leftover.unlink()

    def path(self, meta: SnapshotMeta) -> Path:
        return self.directory / f"{meta.term:016d}-{meta.index:016d}.snap"

    def paths(self) -> list[Path]:
        """Complete snapshots, newest first (by index)."""
        return sorted(self.directory.glob("*.snap"), key=lambda p: p.stem.rpartition("-")[2], reverse=True)

    def writer(self, meta: SnapshotMeta) -> SnapshotWriter:
        return SnapshotWriter(self, meta)

    def save(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> Path:
        with self.writer(meta) as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit()

    def newest(self) -> SnapshotMeta | None:
        """Of the newest file, its head checked. Raises SnapshotCorrupt."""
        paths = self.paths()
        return read_meta(paths[0]) if paths else None

    def load(self, meta: SnapshotMeta) -> Snapshot:
        """A small snapshot as a whole. Raises SnapshotCorrupt, FileNotFoundError."""
        return Snapshot(meta, b"".join(self.chunks(meta)))

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """Stream it. The check of the whole comes last: act on the data only after the iterator ended well.

        Raises SnapshotCorrupt, FileNotFoundError.
        """
        path = self.path(meta)
        with open(path, "rb", buffering=CHUNK_BYTES) as file:
            if _read_head(path, file) != meta:
                raise SnapshotCorrupt(path, f"it is not of {meta}")
            total, crc = 0, 0
            while length := _LENGTH.unpack(_exactly(path, file, _LENGTH.size))[0]:
                if length > MAX_CHUNK_BYTES:
                    raise SnapshotCorrupt(path, f"a chunk of {length} bytes")
                chunk = _exactly(path, file, length)
                total += length
                crc = zlib.crc32(chunk, crc)
                yield chunk
            if (total, crc) != _TRAILER.unpack(_exactly(path, file, _TRAILER.size)):
                raise SnapshotCorrupt(path, "its contents do not match their checksum")

    def verify(self, meta: SnapshotMeta) -> None:
        """Read it all. Raises SnapshotCorrupt, FileNotFoundError."""
        for _ in self.chunks(meta):
            pass

    def prune(self) -> int:
        """Delete all but the newest ``keep``; returns how many."""
        old = self.paths()[self.keep :]
        for path in old:
            path.unlink()
        if old:
            sync_directory(self.directory)
        return len(old)


def read_meta(path: Path) -> SnapshotMeta:
    """Raises SnapshotCorrupt."""
    with open(path, "rb") as file:
        return _read_head(path, file)


def _read_head(path: Path, file: BinaryIO) -> SnapshotMeta:
    magic, version, length, crc = _HEAD.unpack(_exactly(path, file, _HEAD.size))
    if magic != MAGIC:
        raise SnapshotCorrupt(path, "not a snapshot file")
    if version != FORMAT_VERSION:
        raise SnapshotCorrupt(path, f"format version {version} is not known here")
    head = _exactly(path, file, min(length, MAX_CHUNK_BYTES))
    if zlib.crc32(head) != crc:
        raise SnapshotCorrupt(path, "its head does not match its checksum")
    return SnapshotMeta.from_wire(msgpack.unpackb(head, use_list=False))


def _exactly(path: Path, file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise SnapshotCorrupt(path, f"it ends early ({size - len(data)} bytes missing)")
    return data
