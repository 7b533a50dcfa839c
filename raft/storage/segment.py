"""The format of one WAL segment: framing, checksums, and what a torn tail is. IO (read), else pure.

    record  = length:u32  type:u8  head_crc:u32  body_crc:u32  payload[length]  end:u8   (little endian)
    segment = HEADER record, then ENTRIES | HARD_STATE | SNAPSHOT_MARKER records; payloads are msgpack

Both checksums are CRC32 seeded with the body checksum of the record before (0 for a segment's first), so records
cannot be lost, swapped or carried over from another file unnoticed. The header repeats the last checksum of the
previous segment.

Torn or corrupt? A power cut during an unsynced append leaves a short file, or pages that read as zeros (ext4, xfs and
btrfs do not expose stale data). So at the end of the last segment a record is *torn* if the file ends inside it, or if
one of its 512-byte sectors that should hold data is all zeros; nobody was told that it is durable and it is cut off.
(``end`` is not zero, so that a record's last bytes alone in a sector never look like that.) Everything else, a flipped
bit above all, is *corrupt*. etcd's WAL draws the same line.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from raft.core.types import Entry, HardState, SnapshotMeta, entry_bytes
from raft.storage.errors import WalCorrupt

FORMAT_VERSION = 1
HEAD = struct.Struct("<IBII")
_CHECKED_HEAD = struct.Struct("<IB")
END = b"\xa5"
SECTOR = 512
MAX_RECORD_BYTES = 1 << 30


class Record(IntEnum):
    """Values are on disk: never renumber."""

    HEADER = 1
    HARD_STATE = 2
    ENTRIES = 3
    SNAPSHOT_MARKER = 4


class WalMetadata(NamedTuple):
    cluster_id: str
    member_id: int


class Header(NamedTuple):
    metadata: WalMetadata
    previous_crc: int
    hard_state: HardState
    snapshot_marker: SnapshotMeta

    def to_wire(self) -> tuple[Any, ...]:
        return (
            FORMAT_VERSION,
            tuple(self.metadata),
            self.previous_crc,
            self.hard_state.to_wire(),
            self.snapshot_marker.to_wire(),
        )

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> Header:
        return cls(
            WalMetadata(wire[1][0], wire[1][1]),
            wire[2],
            HardState.from_wire(wire[3]),
            SnapshotMeta.from_wire(wire[4]),
        )


class Contents(NamedTuple):
    header: Header
    records: list[tuple[int, Record, bytes]]
    """(offset, type, payload) after the header."""
    crc: int
    torn_at: int | None
    """Where the valid part ends, if a torn tail follows it."""


# --- writing


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def pack_entries(entries: Sequence[Entry], max_bytes: int) -> Iterator[bytes]:
    """ENTRIES payloads of about ``max_bytes`` each."""
    start, size = 0, 0
    for at, entry in enumerate(entries):
        size += entry_bytes(entry)
        if size >= max_bytes:
            yield pack(entries[start : at + 1])
            start, size = at + 1, 0
    if start < len(entries):
        yield pack(entries[start:])


def encode_record(buffer: bytearray, kind: Record, payload: bytes, crc: int) -> int:
    """Append a record; returns the chain's CRC after it."""
    head_crc = zlib.crc32(_CHECKED_HEAD.pack(len(payload), kind), crc)
    body_crc = zlib.crc32(payload, head_crc)
    buffer += HEAD.pack(len(payload), kind, head_crc, body_crc)
    buffer += payload
    buffer += END
    return body_crc


# --- reading


def unpack(path: Path, offset: int, payload: bytes) -> Any:
    """Raises WalCorrupt."""
    try:
        return msgpack.unpackb(payload, use_list=False)
    except (ValueError, msgpack.UnpackException) as e:
        raise WalCorrupt(path, offset, f"the record's checksum is right but it cannot be decoded ({e})") from e


@contextmanager
def decoding(path: Path, offset: int) -> Iterator[None]:
    """What cannot be understood although its checksum is right. Raises WalCorrupt."""
    try:
        yield
    except (TypeError, ValueError, IndexError, KeyError) as e:
        raise WalCorrupt(path, offset, f"the record's checksum is right but it makes no sense ({e!r})") from e


def read(path: Path, *, last: bool) -> Contents:
    """All records of a segment. Raises WalCorrupt; a torn tail is reported only of the ``last`` segment."""
    return parse(path, path.read_bytes(), last=last)


def parse(path: Path, data: bytes, *, last: bool) -> Contents:
    """As read; ``path`` is for the errors."""
    records: list[tuple[int, Record, bytes]] = []
    offset, crc = 0, 0
    torn_at: int | None = None
    while offset < len(data):
        problem = _check(data, offset, crc)
        if problem is not None:
            if not (last and records and problem.torn):
                raise WalCorrupt(path, offset, problem.what)
            torn_at = offset
            break
        length, kind, _, crc = HEAD.unpack_from(data, offset)
        start = offset + HEAD.size
        records.append((offset, Record(kind), data[start : start + length]))
        offset = start + length + len(END)
    if not records or records[0][1] is not Record.HEADER:
        raise WalCorrupt(path, 0, "the segment does not begin with a header")
    return Contents(_header(path, records[0][2]), records[1:], crc, torn_at)


def _header(path: Path, payload: bytes) -> Header:
    wire = unpack(path, 0, payload)
    with decoding(path, 0):
        if wire[0] != FORMAT_VERSION:
            known = f"this version writes {FORMAT_VERSION}"
            raise WalCorrupt(path, 0, f"format version {wire[0]} is not known here ({known})")
        return Header.from_wire(wire)


class _Problem(NamedTuple):
    what: str
    torn: bool


def _check(data: bytes, offset: int, crc: int) -> _Problem | None:
    end = offset + HEAD.size
    if end > len(data):
        return _Problem("the file ends inside a record's head", True)
    length, kind, head_crc, body_crc = HEAD.unpack_from(data, offset)
    if head_crc != zlib.crc32(_CHECKED_HEAD.pack(length, kind), crc):
        return _Problem("a record's head does not match its checksum", _has_hole(data, offset, end))
    if kind not in Record.__members__.values() or length > MAX_RECORD_BYTES:
        return _Problem(f"a record of unknown type {kind} or impossible length {length}", False)
    stop = end + length + len(END)
    if stop > len(data):
        return _Problem("the file ends inside a record", True)
    if data[stop - len(END) : stop] != END or body_crc != zlib.crc32(memoryview(data)[end : end + length], head_crc):
        return _Problem("a record does not match its checksum", _has_hole(data, offset, stop))
    return None


def _has_hole(data: bytes, start: int, end: int) -> bool:
    """Whether some sector's share of [start, end) is nothing but zeros, as a page that never reached the disk is."""
    at = start
    while at < end:
        stop = min(end, (at // SECTOR + 1) * SECTOR)
        if not any(data[at:stop]):
            return True
        at = stop
    return False
