"""The store the registry writes through: a Protocol that `raft.client` fulfils structurally.

Pure declarations; no IO. Shapes that cross this seam are plain tuples and attribute-only protocols, because `raft` and
`cluster` never import each other (docs/contracts.md, "Store").

Invariants a Store promises: everything one transaction writes has one revision; revisions only grow; a watch delivers
every revision whole, in order, once, or says `compacted`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol

Compare = tuple[bytes, Literal["mod", "create", "version", "lease", "value"], Literal["=", "!=", ">", "<"], int | bytes]
Op = tuple[Any, ...]
Response = tuple[Any, ...]


class KeyValue(Protocol):
    """One stored key at one revision."""

    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes: ...
    @property
    def create_revision(self) -> int: ...
    @property
    def mod_revision(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def lease(self) -> int: ...


class RangeResult(Protocol):
    """`kvs` in key order, at most the limit; `count` of all that match; `more` when the limit cut; at `revision`."""

    @property
    def kvs(self) -> Sequence[KeyValue]: ...
    @property
    def count(self) -> int: ...
    @property
    def more(self) -> bool: ...
    @property
    def revision(self) -> int: ...


class TxnResult(Protocol):
    @property
    def succeeded(self) -> bool: ...
    @property
    def revision(self) -> int: ...
    @property
    def responses(self) -> Sequence[Response]: ...


class Event(Protocol):
    """`type` 0 is a put, 1 a delete (then `kv.value` is empty and `kv.mod_revision` the revision of the delete)."""

    @property
    def type(self) -> int: ...
    @property
    def kv(self) -> KeyValue: ...
    @property
    def prev_kv(self) -> KeyValue | None: ...


class EventBatch(Protocol):
    """All events up to and including `revision`; no events means progress."""

    @property
    def revision(self) -> int: ...
    @property
    def events(self) -> Sequence[Event]: ...


class Store(Protocol):
    """Errors carry a `code` attribute, one of docs/contracts.md's.

    `deadline` is a moment on the event loop's clock: past it nothing is sent any more (`deadline_exceeded`), and a
    write that is under way by then has an unknown outcome (`outcome_unknown`).
    """

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
    ) -> RangeResult: ...

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Op],
        otherwise: Sequence[Op] = (),
        *,
        deadline: float | None = None,
    ) -> TxnResult: ...

    async def read_index(self, *, tell_watches: bool = False) -> int:
        """The current revision, linearizable: every write acknowledged before the call is at or below it.
        `tell_watches`: this store's watches hear at once how far they are, which costs a follower's way more."""
        ...

    async def compact(self, revision: int) -> None: ...

    async def lease_grant(self, ttl_s: int, lease_id: int = 0) -> int: ...

    async def lease_keep_alive(self, lease_id: int) -> int:
        """Renew; seconds of life left. Raises code `lease_not_found`."""
        ...

    async def lease_revoke(self, lease_id: int) -> None: ...

    def watch(
        self, key: bytes, range_end: bytes | None = None, *, start_revision: int = 0, prev_kv: int = 0
    ) -> AsyncIterator[EventBatch]:
        """`prev_kv`: which events carry what was there before: none, `EVERY_PREVIOUS`, `PREVIOUS_OF_DELETES`."""
        ...


EVERY_PREVIOUS, PREVIOUS_OF_DELETES = 1, 2


def put(key: bytes, value: bytes, lease_id: int = 0) -> Op:
    return ("put", key, value, lease_id)


def delete(key: bytes, range_end: bytes | None = None) -> Op:
    return ("delete", key, range_end)


def get(key: bytes, range_end: bytes | None = None, limit: int = 0) -> Op:
    return ("range", key, range_end, limit)


def unchanged(key: bytes, mod_revision: int) -> Compare:
    """Holds while `key` was last written at `mod_revision` (0: absent)."""
    return (key, "mod", "=", mod_revision)


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above every key that starts with `prefix`; b"\\0" (no end) when there is none."""
    for i in range(len(prefix) - 1, -1, -1):
        if prefix[i] < 0xFF:
            return prefix[:i] + bytes([prefix[i] + 1])
    return b"\0"
