"""One stored version of a key, as bytes. Pure; part of the on-disk format (FORMAT_VERSION).

    kind(1) create_revision(8) version(8) lease(8) previous(8, signed) key length(4) key value      big-endian

``previous`` is the position of the key's version before this one: 0 for none, negative for a delete. So a key's
versions are a list that is walked backward from the newest, and memory need only hold the newest position.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from raft.mvcc.backend import SUB_BITS
from raft.mvcc.types import DELETE, EVERY_PREVIOUS, PREVIOUS_OF_DELETES, PUT, Event, KeyValue

FORMAT_VERSION = 1
_HEAD = struct.Struct(">BQQQqI")
_HEAD_BYTES = _HEAD.size
_PREVIOUS = struct.Struct(">q")
_PREVIOUS_AT = 25
_KEY_LENGTH_AT = 33
pack_head = _HEAD.pack
unpack_head = _HEAD.unpack_from
"""(kind, create revision, version, lease, previous, key length)."""

Written = tuple[int, bytes, int, bytes | None]
"""What one operation wrote: position and record, and those it superseded: 0 and None if nothing; None also of a
delete, which does not read what it deletes."""


_new = tuple.__new__
"""Half the price of a NamedTuple's own constructor."""


class Record(NamedTuple):
    kind: int
    create_revision: int
    version: int
    lease: int
    previous: int
    key: bytes
    value: bytes


def encode_put(key: bytes, value: bytes, create: int, version: int, lease: int, previous: int) -> bytes:
    return pack_head(PUT, create, version, lease, previous, len(key)) + key + value


def encode_delete(key: bytes, previous: int) -> bytes:
    return pack_head(DELETE, 0, 0, 0, previous, len(key)) + key


def decode(record: bytes) -> Record:
    kind, create, version, lease, previous, n = _HEAD.unpack_from(record)
    end = _HEAD_BYTES + n
    return Record(kind, create, version, lease, previous, record[_HEAD_BYTES:end], record[end:])


def previous_of(record: bytes) -> int:
    return int(_PREVIOUS.unpack_from(record, _PREVIOUS_AT)[0])


def key_of(record: bytes) -> bytes:
    n = int.from_bytes(record[_KEY_LENGTH_AT:_HEAD_BYTES], "big")
    return record[_HEAD_BYTES : _HEAD_BYTES + n]


def is_delete(record: bytes) -> bool:
    return record[0] == DELETE


def wants_previous(record: bytes, mode: int) -> bool:
    """Whether a watcher of that mode (see types.NO_PREVIOUS) is told what the record superseded."""
    return mode == EVERY_PREVIOUS or (mode == PREVIOUS_OF_DELETES and record[0] == DELETE)


def key_value(pos: int, record: bytes, *, with_value: bool = True) -> KeyValue:
    _, create, version, lease, _, n = _HEAD.unpack_from(record)
    end = _HEAD_BYTES + n
    value = record[end:] if with_value else b""
    return _new(KeyValue, (record[_HEAD_BYTES:end], value, create, pos >> SUB_BITS, version, lease))


def event(pos: int, record: bytes, prev_kv: KeyValue | None) -> Event:
    return _new(Event, (record[0], key_value(pos, record), prev_kv))


def field(record: bytes, target: str) -> int | bytes:
    """What a compare looks at (see types.Compare), but for ``mod``, which the position tells."""
    _, create, version, lease, _, n = unpack_head(record)
    if target == "value":
        return record[_HEAD_BYTES + n :]
    if target == "version":
        return int(version)
    return int(create if target == "create" else lease)


def digest(pos: int, record: bytes) -> int:
    """A number that depends on every byte of the record and on its position; a CRC, as in etcd's HashKV.

    Each write costs two of them on every member: cheap matters.
    """
    return crc32(record) ^ pos
