"""The write-ahead log: what a member promised, on disk. IO, blocking: call it from a thread, one call at a time.

    wal, replay = Wal.open(directory)
    wal.save(hard_state, entries)      # in the page cache
    wal.sync()                         # on the disk: only now may anybody be told

Segments ``<sequence>-<next index>.wal`` are written once, front to back, and deleted whole (segment.py has the
format). Each begins with a header that repeats everything needed from the segments before it (identity, hard state,
snapshot marker), so deleting old ones loses nothing.

Invariants:
- Only the last segment can have a torn tail: a segment is synced before its successor exists, and a segment becomes
  visible (rename) only with its header synced.
- Entries come back as they were last written: a later entry with an index at or below the last overwrites it and
  drops what followed.
- After a failed write or sync nothing more is accepted: the kernel may have dropped the dirty pages, so a second
  fsync that succeeds proves nothing. The process must restart and replay.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from raft.core.types import Entry, HardState, SnapshotMeta
from raft.faults import Faults
from raft.storage import segment
from raft.storage.errors import WalCorrupt, WalExists, WalFailed, WalMissing
from raft.storage.files import make_directory, replace_durably, sync_directory, write_all
from raft.storage.segment import Header, Record, WalMetadata, encode_record
from raft.storage.wal_replay import Replay, Replayer

__all__ = ["Replay", "Wal", "WalCorrupt", "WalExists", "WalFailed", "WalMetadata", "WalMissing"]

SEGMENT_BYTES = 64 << 20
RECORD_BYTES = 16 << 20
"""Entries of one save are split into records of about this size."""


class _Segment(NamedTuple):
    sequence: int
    next_index: int
    """Every entry before it is in earlier segments."""
    path: Path


def _segment_path(directory: Path, sequence: int, next_index: int) -> Path:
    return directory / f"{sequence:016d}-{next_index:016d}.wal"


def list_segments(directory: Path) -> list[_Segment]:
    found = []
    for path in sorted(directory.glob("*.wal")):
        sequence, _, next_index = path.stem.partition("-")
        if not (sequence.isdigit() and next_index.isdigit()):
            raise WalCorrupt(path, 0, "not the name of a segment")
        found.append(_Segment(int(sequence), int(next_index), path))
    for before, after in itertools.pairwise(found):
        if after.sequence != before.sequence + 1:
            raise WalCorrupt(after.path, 0, f"segment {before.sequence + 1} is missing before it")
    return found


class Wal:
    def __init__(
        self,
        directory: Path,
        metadata: WalMetadata,
        segments: list[_Segment],
        replay: Replay,
        crc: int,
        *,
        segment_bytes: int,
        faults: Faults,
    ) -> None:
        """Use create or open."""
        self._directory = directory
        self._segments = segments
        self._segment_bytes = segment_bytes
        self._faults = faults
        self._hard_state = replay.hard_state
        self._marker = replay.snapshot_marker
        self._durable_marker_index = self._marker.index
        self._last_index = replay.entries[-1].index if replay.entries else self._marker.index
        self._crc = crc
        self._failed = False
        self.metadata = metadata
        self._fd = os.open(segments[-1].path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size

    # --- making and opening

    @classmethod
    def create(
        cls,
        directory: Path,
        metadata: WalMetadata,
        *,
        hard_state: HardState | None = None,
        snapshot_marker: SnapshotMeta | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        faults: Faults | None = None,
    ) -> Wal:
        """A new, durable log. A founding member passes memory.bootstrap_meta and bootstrap_hard_state.

        Raises WalExists if the directory already holds one.
        """
        faults = faults or Faults()
        make_directory(directory)
        if any(directory.glob("*.wal")):
            raise WalExists(directory)
        replay = Replay(metadata, hard_state or HardState(), [], snapshot_marker or SnapshotMeta())
        header = Header(metadata, 0, replay.hard_state, replay.snapshot_marker)
        first, crc = _new_segment(directory, 1, replay.snapshot_marker.index + 1, header)
        return cls(directory, metadata, [first], replay, crc, segment_bytes=segment_bytes, faults=faults)

    @classmethod
    def open(
        cls, directory: Path, *, segment_bytes: int = SEGMENT_BYTES, faults: Faults | None = None
    ) -> tuple[Wal, Replay]:
        """Replay what is there; a torn tail of the last segment is cut off. Raises WalMissing, WalCorrupt."""
        if not directory.is_dir() or not (segments := list_segments(directory)):
            raise WalMissing(directory)
        for leftover in directory.glob("*.tmp"):
            leftover.unlink()
        replayer = Replayer()
        for s in segments:
            contents = segment.read(s.path, last=s is segments[-1])
            replayer.segment(s.path, contents)
            if contents.torn_at is not None:
                _truncate(s.path, contents.torn_at)
        replay = replayer.finish()
        wal = cls(
            directory,
            replay.metadata,
            segments,
            replay,
            replayer.crc,
            segment_bytes=segment_bytes,
            faults=faults or Faults(),
        )
        return wal, replay

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --- writing

    def save(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Append; not durable before sync. Raises WalFailed."""
        records: list[tuple[Record, bytes]] = []
        if entries:
            records.extend((Record.ENTRIES, packed) for packed in segment.pack_entries(entries, RECORD_BYTES))
            self._last_index = entries[-1].index
        if hard_state is not None:
            self._hard_state = hard_state
            records.append((Record.HARD_STATE, segment.pack(hard_state.to_wire())))
        self._append(records)

    def save_snapshot_marker(self, meta: SnapshotMeta) -> None:
        """The state up to ``meta`` is durable elsewhere (snapshot file or backend). Not durable before sync.

        Of a Ready with a snapshot, save the marker first, then entries and hard state (whose commit refers to it).
        Replay starts after it. Entries after it are kept if the entry at its index has its term; otherwise the
        snapshot came from a leader and replaced the log.
        """
        if meta.index < self._marker.index:
            return
        self._marker = meta
        self._last_index = max(self._last_index, meta.index)
        self._append([(Record.SNAPSHOT_MARKER, segment.pack(meta.to_wire()))])

    def _append(self, records: Sequence[tuple[Record, bytes]]) -> None:
        self._check_usable()
        if not records:
            return
        buffer = bytearray()
        for kind, payload in records:
            self._crc = encode_record(buffer, kind, payload, self._crc)
        with _Fatal(self, "write to"):
            self._faults.hit("wal.write")
            write_all(self._fd, buffer)
            self._faults.hit("wal.after_write")
        self._size += len(buffer)

    def sync(self) -> None:
        """Make everything saved so far durable; starts a new segment if this one is full. Raises WalFailed."""
        self._check_usable()
        with _Fatal(self, "sync"):
            self._faults.hit("wal.fsync")
            os.fdatasync(self._fd)
            self._faults.hit("wal.after_fsync")
            self._durable_marker_index = self._marker.index
            if self._size >= self._segment_bytes:
                self._cut()

    def _cut(self) -> None:
        """A new segment; the old one is durable already."""
        self._faults.hit("wal.cut")
        header = Header(self.metadata, self._crc, self._hard_state, self._marker)
        new, self._crc = _new_segment(self._directory, self._segments[-1].sequence + 1, self._last_index + 1, header)
        os.close(self._fd)
        self._fd = os.open(new.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._segments.append(new)
        self._faults.hit("wal.after_cut")

    def release_to(self, index: int) -> int:
        """Delete segments that hold only entries up to ``index``; returns how many.

        Never goes past the last durable snapshot marker: what is after it is needed to replay.
        """
        index = min(index, self._durable_marker_index)
        released = 0
        while len(self._segments) > 1 and self._segments[1].next_index <= index + 1:
            self._faults.hit("wal.release")
            self._segments.pop(0).path.unlink()
            released += 1
        if released:
            sync_directory(self._directory)
        return released

    # --- looking

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def snapshot_marker(self) -> SnapshotMeta:
        return self._marker

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    def _check_usable(self) -> None:
        if self._failed or self._fd < 0:
            raise WalFailed(f"{self._segments[-1].path}: an earlier write or sync failed, or the log was closed")


class _Fatal:
    """An OSError inside makes the log unusable and becomes WalFailed."""

    def __init__(self, wal: Wal, what: str) -> None:
        self._wal = wal
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        self._wal._failed = True
        if isinstance(error, OSError):
            path = self._wal._segments[-1].path
            raise WalFailed(
                f"cannot {self._what} {path}: {error}; restart to replay what is known to be durable"
            ) from error


def _new_segment(directory: Path, sequence: int, next_index: int, header: Header) -> tuple[_Segment, int]:
    """Header first, durable, then visible. Returns the chain's CRC after the header."""
    path = _segment_path(directory, sequence, next_index)
    temporary = path.with_suffix(".tmp")
    buffer = bytearray()
    crc = encode_record(buffer, Record.HEADER, segment.pack(header.to_wire()), 0)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, buffer)
        os.fsync(fd)
    finally:
        os.close(fd)
    replace_durably(temporary, path)
    return _Segment(sequence, next_index, path), crc


def _truncate(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)
