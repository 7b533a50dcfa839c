"""What the core reads its log from. Pure (a Protocol); the core never writes through it.

The shell appends what each Ready says, and tells the core by ``RawNode.on_persisted``.
"""

from __future__ import annotations

from typing import Protocol

from raft.core.types import ConfState, Entry, HardState, Snapshot


class LogStorage(Protocol):
    def initial_state(self) -> tuple[HardState, ConfState]:
        """The durable hard state, and the membership as of ``Config.applied`` (at least that of the snapshot)."""

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of [lo, hi), as many as fit in ``max_bytes`` but at least one.

        Raises Compacted if ``lo`` is before the first entry, Unavailable if ``hi - 1`` is after the last.
        """

    def term(self, index: int) -> int:
        """Term of an entry of [first_index - 1, last_index]. Raises Compacted, Unavailable."""

    def first_index(self) -> int:
        """Index of the first entry there is (or would be)."""

    def last_index(self) -> int:
        """Index of the last entry, or of the snapshot if there is none after it."""

    def snapshot(self) -> Snapshot:
        """A snapshot to send to a member that is behind the log. Raises Unavailable: asked again later."""
