"""From records back to a log. Pure but for the file names in its errors.

Entries are gathered in order: one at or below the last overwrites it and drops what followed. A snapshot marker drops
what it covers, and everything if the entry at its index is of another term (the log was replaced).

After old segments were deleted, the first entries found may start later than the first marker found: only the last
marker must join up with them. If the log was replaced at an index that is no longer there, then either its new entries
follow in the log and overwrite the old ones, or a later marker lies among the old ones and disagrees with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raft.core.types import Entry, HardState, SnapshotMeta
from raft.storage.errors import WalCorrupt
from raft.storage.segment import Contents, Record, WalMetadata, decoding, unpack


class Replay(NamedTuple):
    metadata: WalMetadata
    hard_state: HardState
    entries: list[Entry]
    """Those after the marker, consecutive."""
    snapshot_marker: SnapshotMeta


class Replayer:
    def __init__(self) -> None:
        self.crc = 0
        self._metadata: WalMetadata | None = None
        self._hard_state = HardState()
        self._marker = SnapshotMeta()
        self._entries: list[Entry] = []
        self._path = Path()

    def segment(self, path: Path, contents: Contents) -> None:
        """The next segment. Raises WalCorrupt."""
        header = contents.header
        if self._metadata is None:
            self._hard_state, self._marker = header.hard_state, header.snapshot_marker
        elif header.metadata != self._metadata:
            raise WalCorrupt(path, 0, f"it belongs to {header.metadata}, the segments before it to {self._metadata}")
        elif header.previous_crc != self.crc:
            raise WalCorrupt(path, 0, "it does not continue the segment before it")
        self._metadata = header.metadata
        self._path = path
        for offset, kind, payload in contents.records:
            value = unpack(path, offset, payload)
            with decoding(path, offset):
                self._record(offset, kind, value)
        self.crc = contents.crc

    def _record(self, offset: int, kind: Record, value: Sequence[Any]) -> None:
        if kind is Record.ENTRIES:
            self._add(offset, [Entry.from_wire(entry) for entry in value])
        elif kind is Record.HARD_STATE:
            self._hard_state = HardState.from_wire(value)
        elif kind is Record.SNAPSHOT_MARKER:
            self._mark(SnapshotMeta.from_wire(value))
        else:
            raise WalCorrupt(self._path, offset, "a second header")

    def _add(self, offset: int, entries: list[Entry]) -> None:
        for before, after in itertools.pairwise(entries):
            if after.index != before.index + 1:
                raise WalCorrupt(self._path, offset, f"entry {after.index} follows entry {before.index}")
        if self._entries:
            first, last = self._entries[0].index, self._entries[-1].index
            if entries[0].index > last + 1:
                raise WalCorrupt(self._path, offset, f"entry {entries[0].index} follows entry {last}")
            del self._entries[max(0, entries[0].index - first) :]
        self._entries.extend(entries)

    def _mark(self, marker: SnapshotMeta) -> None:
        self._marker = marker
        kept = [e for e in self._entries if e.index >= marker.index]
        if kept and kept[0].index == marker.index:
            kept = kept[1:] if kept[0].term == marker.term else []
        self._entries = kept

    def finish(self) -> Replay:
        """Raises WalCorrupt if entries are missing between the marker and the first entry."""
        if self._metadata is None:
            raise WalCorrupt(self._path, 0, "there is no segment")
        base = self._marker.index
        entries = [e for e in self._entries if e.index > base]
        if entries and entries[0].index != base + 1:
            raise WalCorrupt(
                self._path, 0, f"entries {base + 1} to {entries[0].index - 1} are missing after the snapshot at {base}"
            )
        if self._hard_state.commit > base + len(entries):
            raise WalCorrupt(
                self._path,
                0,
                f"entry {self._hard_state.commit} was committed but the log ends at {base + len(entries)}",
            )
        return Replay(self._metadata, self._hard_state, entries, self._marker)
