"""A log in memory: the tail over the WAL that the core reads. Pure.

Invariant: (``_base_index``, ``_base_term``) is the entry just before the first entry: where the log was last compacted.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.core.errors import Compacted, InvariantBroken, Unavailable
from raft.core.types import ConfState, Entry, HardState, Snapshot, SnapshotMeta, entry_bytes

BOOTSTRAP_INDEX = 1
BOOTSTRAP_TERM = 1


def bootstrap_meta(conf: ConfState) -> SnapshotMeta:
    """The snapshot that a new cluster's members all start from.

    The log starts after it, so that whoever joins later gets the first membership with a snapshot.
    """
    return SnapshotMeta(BOOTSTRAP_INDEX, BOOTSTRAP_TERM, conf)


def bootstrap_hard_state() -> HardState:
    return HardState(BOOTSTRAP_TERM, 0, BOOTSTRAP_INDEX)


def take_bytes(entries: Sequence[Entry], max_bytes: int) -> list[Entry]:
    """The longest prefix within ``max_bytes``, at least one entry."""
    total = 0
    for i, entry in enumerate(entries):
        total += entry_bytes(entry)
        if total > max_bytes and i > 0:
            return list(entries[:i])
    return list(entries)


class MemoryStorage:
    """Fulfils LogStorage. Not thread-safe: use it on the core's thread alone."""

    def __init__(
        self,
        meta: SnapshotMeta | None = None,
        hard_state: HardState | None = None,
        entries: Sequence[Entry] = (),
    ) -> None:
        """From what a WAL replayed: its last snapshot marker, hard state, and the entries after the marker."""
        meta = meta or SnapshotMeta()
        self._snapshot = Snapshot(meta)
        self._hard_state = hard_state or HardState()
        self._conf = meta.conf
        self._base_index = meta.index
        self._base_term = meta.term
        self._entries: list[Entry] = []
        self.append(entries)

    @classmethod
    def bootstrap(cls, conf: ConfState) -> MemoryStorage:
        """A first member's log, before anything happened."""
        return cls(bootstrap_meta(conf), bootstrap_hard_state())

    # --- what the core reads

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._conf

    def first_index(self) -> int:
        return self._base_index + 1

    def last_index(self) -> int:
        return self._base_index + len(self._entries)

    def term(self, index: int) -> int:
        if index == self._base_index:
            return self._base_term
        if index < self._base_index:
            raise Compacted(f"entry {index}: the log starts at {self.first_index()}")
        if index > self.last_index():
            raise Unavailable(f"entry {index}: the log ends at {self.last_index()}")
        return self._entries[index - self._base_index - 1].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        if lo <= self._base_index:
            raise Compacted(f"entry {lo}: the log starts at {self.first_index()}")
        if hi > self.last_index() + 1:
            raise Unavailable(f"entry {hi - 1}: the log ends at {self.last_index()}")
        start = self._base_index + 1
        return take_bytes(self._entries[lo - start : hi - start], max_bytes)

    def snapshot(self) -> Snapshot:
        if self._snapshot.meta.index == 0:
            raise Unavailable("no snapshot has been made yet")
        return self._snapshot

    @property
    def snapshot_index(self) -> int:
        """Of the newest snapshot there is to send."""
        return self._snapshot.meta.index

    # --- what the shell writes

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries, dropping whatever was at or after the first of them."""
        if entries and entries[0].index <= self._base_index:
            entries = entries[self._base_index + 1 - entries[0].index :]
        if not entries:
            return
        at = entries[0].index - self._base_index - 1
        if at > len(self._entries):
            raise InvariantBroken(f"appending entry {entries[0].index} after {self.last_index()} leaves a gap")
        del self._entries[at:]
        self._entries.extend(entries)

    def set_hard_state(self, hard_state: HardState) -> None:
        self._hard_state = hard_state

    def set_conf_state(self, conf: ConfState) -> None:
        """For a state machine that restarts ahead of the snapshot: the membership as of its applied index."""
        self._conf = conf

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """A snapshot from the leader replaces the log."""
        meta = snapshot.meta
        if meta.index < self._base_index:
            raise InvariantBroken(f"snapshot {meta.index} is older than the log's start {self._base_index}")
        self._snapshot = snapshot
        self._conf = meta.conf
        self._base_index, self._base_term = meta.index, meta.term
        self._entries = []

    def set_snapshot(self, snapshot: Snapshot) -> None:
        """A snapshot made here, to be sent to members that need one. Does not drop entries: see compact."""
        if snapshot.meta.index >= self._snapshot.meta.index:
            self._snapshot = snapshot

    def compact(self, index: int) -> None:
        """Drop the entries up to and including ``index``, which must be applied. Does nothing if already gone."""
        if index <= self._base_index:
            return
        term = self.term(index)
        del self._entries[: index - self._base_index]
        self._base_index, self._base_term = index, term
