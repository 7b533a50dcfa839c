"""The values that cross the border of the store. Pure; plain tuples, so that they go on the wire as they are.

Shapes are those of docs/contracts.md, "Store".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

PUT = 0
DELETE = 1

Compare = Sequence[Any]
"""(key, target "mod"|"create"|"version"|"lease"|"value", op "="|"!="|">"|"<", operand)."""
Op = Sequence[Any]
"""("put", key, value, lease_id) | ("delete", key, range_end|None) | ("range", key, range_end|None, limit)."""
Response = tuple[Any, ...]


class KeyValue(NamedTuple):
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


NO_PREVIOUS, EVERY_PREVIOUS, PREVIOUS_OF_DELETES = 0, 1, 2
"""Which events of a watch carry the value before them (etcd has the first two). Of deletes alone: a watcher that only
wants to know what went is spared every old version of what changed."""


class Event(NamedTuple):
    """``type`` PUT or DELETE; a delete's ``kv`` has the key and the revision of the delete alone."""

    type: int
    kv: KeyValue
    prev_kv: KeyValue | None


class EventBatch(NamedTuple):
    """Every event up to and including ``revision`` that was not delivered before; none means progress."""

    revision: int
    events: list[Event]


@dataclass(frozen=True, slots=True)
class RangeResult:
    """``count`` of all that match, whether or not they are in ``kvs``."""

    kvs: list[KeyValue]
    count: int
    more: bool
    revision: int


class TxnResult(NamedTuple):
    succeeded: bool
    revision: int
    responses: list[Response]


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above every key that starts with ``prefix``; b"\\0" (no end) when there is none."""
    for i in range(len(prefix) - 1, -1, -1):
        if prefix[i] < 0xFF:
            return prefix[:i] + bytes([prefix[i] + 1])
    return b"\0"


def in_range(key: bytes, start: bytes, end: bytes | None) -> bool:
    """Whether ``key`` is in [start, end); end None = ``start`` alone, b"\\0" = no end."""
    if end is None:
        return key == start
    return key >= start and (end == b"\0" or key < end)
