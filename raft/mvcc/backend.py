"""What the store keeps its records in. Pure (a Protocol): fulfilled by a dict in simulation and by LMDB in servers.

A record has a position, ``revision << SUB_BITS | n``, n counting the writes of that revision. Positions are put in
rising order only, and a record never changes. Beside the records there is a small table of named values (meta).

Durability is the backend's business, with one promise: whatever it has durably is a prefix of what was put, deleted
and set, cut where a caller allowed it (between applied entries), never in the middle.
"""

from __future__ import annotations

from typing import Protocol

SUB_BITS = 20


class Backend(Protocol):
    def get(self, pos: int) -> bytes | None:
        """The record at ``pos``, None if it was never put or is deleted."""

    def put(self, pos: int, record: bytes) -> None: ...

    def delete(self, pos: int) -> None:
        """Deleting what is not there is nothing."""

    def scan(self, start: int, end: int, limit: int) -> list[tuple[int, bytes]]:
        """The first ``limit`` records of [start, end), in order of position."""

    def meta_get(self, name: bytes) -> bytes | None: ...

    def meta_set(self, name: bytes, value: bytes | None) -> None:
        """None removes it."""

    def meta_scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Sorted by name."""

    def size_bytes(self) -> int:
        """What it occupies (on disk, if it is on disk)."""
