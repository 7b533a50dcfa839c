"""The log as the core sees it: what is in storage plus a tail that is not durable yet. Pure.

    first_index            applied   applying      persisted     handed      last
    |--- storage ------------|---------|--------------|------------|-----------|
                                          committed: anywhere at or after applying
    in storage ............................. | tail: kept here until persisted  |

- handed: given to the shell in a Ready; persisted: the shell says it is durable, and it is in storage.
- applying: handed out for applying; applied: the shell says it is applied.

Invariants: applied <= applying <= min(committed, persisted); committed <= last; nothing at or below committed is ever
truncated; a pending snapshot (received, not durable yet) holds back everything after it from being applied.

A race: (1) entries 5, 6 are handed out in Ready 1; (2) a new leader overwrites 5 (Ready 2); (3) Ready 1 is reported
durable. It must not count as "6 is durable", nor may Ready 2's report once entry 6 was truncated again. So every
truncation also lowers the claims of the writes that are under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from raft.core.errors import Compacted, InvariantBroken, Unavailable
from raft.core.memory import take_bytes
from raft.core.storage import LogStorage
from raft.core.types import Entry, HardState, Snapshot, SnapshotMeta, entry_bytes

UNLIMITED_BYTES = 1 << 60


@dataclass(slots=True)
class Write:
    """A Ready on its way to the disk: once durable, the log is durable up to ``last``."""

    number: int
    last: int
    hard_state: HardState
    snapshot: SnapshotMeta | None


class RaftLog:
    __slots__ = (
        "_storage",
        "_tail",
        "_tail_start",
        "_writes",
        "applied",
        "applying",
        "committed",
        "handed",
        "pending_snapshot",
        "persisted",
        "snapshot_handed",
    )

    def __init__(self, storage: LogStorage, committed: int, applied: int) -> None:
        self._storage = storage
        last = storage.last_index()
        base = storage.first_index() - 1
        if not base <= committed <= last:
            raise InvariantBroken(f"hard state says {committed} is committed but the log holds {base + 1}..{last}")
        if not base <= applied <= committed:
            raise InvariantBroken(f"applied is {applied}: must be between {base} and the commit index {committed}")
        self._tail: list[Entry] = []
        self._tail_start = last + 1
        self._writes: deque[Write] = deque()
        self.pending_snapshot: Snapshot | None = None
        self.snapshot_handed = False
        self.committed = committed
        self.applying = applied
        self.applied = applied
        self.persisted = last
        self.handed = last

    # --- reading

    def first_index(self) -> int:
        if self.pending_snapshot is not None:
            return self.pending_snapshot.meta.index + 1
        return self._storage.first_index()

    def last_index(self) -> int:
        return self._tail_start + len(self._tail) - 1

    def last_term(self) -> int:
        return self.term(self.last_index())

    def term(self, index: int) -> int:
        """Raises Compacted, Unavailable."""
        if index >= self._tail_start:
            at = index - self._tail_start
            if at >= len(self._tail):
                raise Unavailable(f"entry {index}: the log ends at {self.last_index()}")
            return self._tail[at].term
        if self.pending_snapshot is not None:
            meta = self.pending_snapshot.meta
            if index == meta.index:
                return meta.term
            raise Compacted(f"entry {index}: a snapshot at {meta.index} replaced it")
        return self._storage.term(index)

    def matches(self, index: int, term: int) -> bool:
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def entries(self, lo: int, hi: int, max_bytes: int = UNLIMITED_BYTES) -> list[Entry]:
        """Entries of [lo, hi) within ``max_bytes`` but at least one. Raises Compacted, Unavailable."""
        if lo >= hi:
            return []
        if hi > self.last_index() + 1:
            raise Unavailable(f"entry {hi - 1}: the log ends at {self.last_index()}")
        if lo < self.first_index():
            raise Compacted(f"entry {lo}: the log starts at {self.first_index()}")
        start = self._tail_start
        if lo >= start:
            return take_bytes(self._tail[lo - start : hi - start], max_bytes)
        stored_hi = min(hi, start)
        found = self._storage.entries(lo, stored_hi, max_bytes)
        if hi <= start or len(found) < stored_hi - lo:
            return found
        left = max_bytes - sum(map(entry_bytes, found))
        if left <= entry_bytes(self._tail[0]):
            return found
        return found + take_bytes(self._tail[: hi - start], left)

    def snapshot(self) -> Snapshot:
        return self.pending_snapshot if self.pending_snapshot is not None else self._storage.snapshot()

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends there is at least as complete as ours (Raft paper, 5.4.1)."""
        own = self.last_term()
        return last_term > own or (last_term == own and last_index >= self.last_index())

    def guess_match(self, index: int, term: int) -> tuple[int, int]:
        """The highest (index', term') with index' <= index, term' <= term: where a mismatch may end.

        Term 0 if that lies before the log.
        """
        index = min(index, self.last_index())
        while index > 0:
            try:
                own = self.term(index)
            except Compacted:
                return index, 0
            if own <= term:
                return index, own
            index -= 1
        return 0, 0

    # --- writing

    def append(self, entries: Sequence[Entry]) -> None:
        """A leader's own entries: consecutive, after the last."""
        if entries[0].index != self.last_index() + 1:
            raise InvariantBroken(f"appending entry {entries[0].index} after {self.last_index()}")
        self._tail.extend(entries)

    def append_after(self, index: int, term: int, entries: Sequence[Entry]) -> int | None:
        """A follower's append: entries that follow (index, term). The last index covered, or None on a mismatch."""
        if not self.matches(index, term):
            return None
        for at, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                if entry.index <= self.last_index():
                    self._truncate(entry.index)
                self.append(entries[at:])
                break
        return index + len(entries)

    def _truncate(self, index: int) -> None:
        if index <= self.committed:
            raise InvariantBroken(f"entry {index} conflicts with a committed entry (commit index {self.committed})")
        if index >= self._tail_start:
            del self._tail[index - self._tail_start :]
        else:
            self._tail = []
            self._tail_start = index
        self.handed = min(self.handed, index - 1)
        self._lower_claims(index - 1)

    def _lower_claims(self, last: int) -> None:
        self.persisted = min(self.persisted, last)
        for write in self._writes:
            write.last = min(write.last, last)

    def commit_to(self, index: int) -> bool:
        """Whether it moved. Raises InvariantBroken past the last entry."""
        if index <= self.committed:
            return False
        if index > self.last_index():
            raise InvariantBroken(
                f"commit index {index} is past the log's end {self.last_index()}: entries that this member "
                "acknowledged are gone; was its directory wiped or restored? Remove the member and add it anew"
            )
        self.committed = index
        return True

    def restore(self, snapshot: Snapshot) -> None:
        """A snapshot from the leader replaces the whole log once it is durable."""
        self._lower_claims(self.committed)
        index = snapshot.meta.index
        self.pending_snapshot = snapshot
        self.snapshot_handed = False
        self._tail = []
        self._tail_start = index + 1
        self.handed = index
        self.committed = index

    # --- handing out

    def unhanded(self) -> list[Entry]:
        """Entries that no Ready has carried yet."""
        return self._tail[self.handed + 1 - self._tail_start :]

    def begin_write(self, number: int, hard_state: HardState) -> None:
        """Ready ``number`` carries everything there is."""
        meta = None
        if self.pending_snapshot is not None and not self.snapshot_handed:
            meta = self.pending_snapshot.meta
            self.snapshot_handed = True
        self.handed = self.last_index()
        self._writes.append(Write(number, self.handed, hard_state, meta))

    def end_write(self, number: int) -> Write | None:
        """Everything up to Ready ``number`` is durable. Returns the newest such write (with its newest snapshot)."""
        done: Write | None = None
        meta: SnapshotMeta | None = None
        while self._writes and self._writes[0].number <= number:
            done = self._writes.popleft()
            meta = done.snapshot or meta
            self._mark_durable(done)
        if done is not None:
            done.snapshot = meta
        return done

    def _mark_durable(self, write: Write) -> None:
        if write.snapshot is not None:
            index = write.snapshot.index
            self.applying = max(self.applying, index)
            self.applied = max(self.applied, index)
            if self.pending_snapshot is not None and self.pending_snapshot.meta.index == index:
                self.pending_snapshot = None
        self.persisted = max(self.persisted, write.last)
        if self.persisted >= self._tail_start and self.pending_snapshot is None:
            del self._tail[: self.persisted + 1 - self._tail_start]
            self._tail_start = self.persisted + 1

    def can_apply(self) -> bool:
        return self.pending_snapshot is None and self.applying < min(self.committed, self.persisted)

    def next_committed(self, max_bytes: int) -> list[Entry]:
        """Committed and durable entries that were not handed out yet; hands them out."""
        if not self.can_apply():
            return []
        found = self.entries(self.applying + 1, min(self.committed, self.persisted) + 1, max_bytes)
        self.applying = found[-1].index
        return found

    def applied_to(self, index: int) -> None:
        if index > self.applying:
            raise InvariantBroken(f"applied {index} was never handed out (up to {self.applying})")
        self.applied = max(self.applied, index)
