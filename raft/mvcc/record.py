"""One stored version of a key, as bytes. Pure; part of the on-disk format (FORMAT_VERSION).

    kind(1) create_revision(8) version(8) lease(8) previous(8, signed) key length(4) key value      big-endian

``previous`` is the position of the key's version before this one: 0 for none, negative for a delete. So a key's
versions are a list that is walked backward from the newest, and memory need only hold the newest position.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import NamedTuple

from raft.mvcc.backend import SUB_BITS
from raft.mvcc.types import DELETE, PUT, Event, KeyValue

FORMAT_VERSION = 1
_HEAD = struct.Struct(">BQQQqI")
_HEAD_BYTES = _HEAD.size
_PREVIOUS = struct.Struct(">q")
_PREVIOUS_AT = 25
_KEY_LENGTH_AT = 33
_POS = struct.Struct(">Q")
pack_head = _HEAD.pack


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


def key_value(pos: int, record: bytes, *, with_value: bool = True) -> KeyValue:
    _, create, version, lease, _, n = _HEAD.unpack_from(record)
    end = _HEAD_BYTES + n
    value = record[end:] if with_value else b""
    return KeyValue(record[_HEAD_BYTES:end], value, create, pos >> SUB_BITS, version, lease)


def event(pos: int, record: bytes, prev_kv: KeyValue | None) -> Event:
    return Event(record[0], key_value(pos, record), prev_kv)


def digest(pos: int, record: bytes) -> int:
    """64 bits that depend on every byte of the record and on its position."""
    return int.from_bytes(blake2b(record, digest_size=8, salt=_POS.pack(pos)).digest(), "big")
