"""Who is told what: watchers that follow the newest revision, and watchers that catch up from history. Pure.

              start <= revision                     read up to the newest revision
    watch() -------------------> CATCHING UP <------------------------------> SYNCED (told at each commit)
                                     ^               block(): its connection         |
                                     '------------- is full and a commit came -------'
    A watcher whose next revision is compacted is ended with that error.

Guarantees (those etcd promises): events of a watcher are in order, each once, whole revisions, without gaps; progress
at R means that nothing at or below R will follow. A slow watcher costs no memory here: it falls back to reading
history when it can take more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from raft.errors import Compacted
from raft.mvcc import record as rec
from raft.mvcc.store import Mvcc
from raft.mvcc.types import EVERY_PREVIOUS, NO_PREVIOUS, PREVIOUS_OF_DELETES, Event, in_range

Owner = TypeVar("Owner")


class Watcher(Generic[Owner]):
    """``next_revision``: everything below it has been delivered (or was never asked for)."""

    __slots__ = ("blocked", "end", "id", "key", "next_revision", "owner", "prev_kv", "synced")

    def __init__(
        self, owner: Owner, watch_id: int, key: bytes, end: bytes | None, next_revision: int, prev_kv: int
    ) -> None:
        self.owner = owner
        self.id = watch_id
        self.key = key
        self.end = end
        self.next_revision = next_revision
        self.prev_kv = prev_kv
        self.synced = False
        self.blocked = False


Place = TypeVar("Place")


def _take_out(groups: dict[Place, dict[int, Watcher[Owner]]], place: Place, ident: int) -> None:
    same = groups.get(place)
    if same is not None:
        same.pop(ident, None)
        if not same:
            del groups[place]


class WatchHub(Generic[Owner]):
    """Calls ``deliver(watcher, revision, events)``; no events is progress. ``ended(watcher, error)`` ends one.

    Watchers of one range get the same list of events, so that it need be made and packed only once.
    """

    def __init__(
        self,
        store: Mvcc,
        deliver: Callable[[Watcher[Owner], int, list[Event]], None],
        ended: Callable[[Watcher[Owner], Compacted], None],
    ) -> None:
        self._store = store
        self._deliver = deliver
        self._ended = ended
        self._keys: dict[bytes, dict[int, Watcher[Owner]]] = {}
        self._ranges: dict[tuple[bytes, bytes], dict[int, Watcher[Owner]]] = {}
        self._behind: dict[int, Watcher[Owner]] = {}
        self._all: dict[int, Watcher[Owner]] = {}
        self._modes = [0, 0, 0]

    def __len__(self) -> int:
        return len(self._all)

    @property
    def wants_previous(self) -> int:
        """Whether any watcher asked for previous values, and whether of deletes only (see types.NO_PREVIOUS)."""
        every, deletes = self._modes[EVERY_PREVIOUS], self._modes[PREVIOUS_OF_DELETES]
        return EVERY_PREVIOUS if every else PREVIOUS_OF_DELETES if deletes else NO_PREVIOUS

    @property
    def behind(self) -> int:
        """How many are catching up (or blocked)."""
        return len(self._behind)

    def watch(
        self, owner: Owner, watch_id: int, key: bytes, end: bytes | None, start_revision: int, prev_kv: int
    ) -> Watcher[Owner]:
        """Follow [key, end) from ``start_revision`` (0: the next one). Raises Compacted."""
        start = start_revision or self._store.revision + 1
        if start <= self._store.compacted:
            raise Compacted(start, self._store.compacted)
        watcher = Watcher(owner, watch_id, key, end, start, prev_kv)
        self._all[id(watcher)] = watcher
        self._modes[prev_kv] += 1
        if start > self._store.revision:
            self._follow(watcher)
        else:
            self._behind[id(watcher)] = watcher
        return watcher

    def cancel(self, watcher: Watcher[Owner]) -> None:
        if self._all.pop(id(watcher), None) is not None:
            self._modes[watcher.prev_kv] -= 1
        self._behind.pop(id(watcher), None)
        self._unfollow(watcher)

    def cancel_all(self) -> list[Watcher[Owner]]:
        """End every watch, because the store under them is replaced. Returns them."""
        watchers = list(self._all.values())
        for watcher in watchers:
            self.cancel(watcher)
        return watchers

    def _follow(self, watcher: Watcher[Owner]) -> None:
        watcher.synced = True
        self._behind.pop(id(watcher), None)
        if watcher.end is None:
            self._keys.setdefault(watcher.key, {})[id(watcher)] = watcher
        else:
            self._ranges.setdefault((watcher.key, watcher.end), {})[id(watcher)] = watcher

    def _unfollow(self, watcher: Watcher[Owner]) -> None:
        watcher.synced = False
        if watcher.end is None:
            _take_out(self._keys, watcher.key, id(watcher))
        else:
            _take_out(self._ranges, (watcher.key, watcher.end), id(watcher))

    # --- newest revisions

    def commit(self, revision: int, events: list[Event]) -> None:
        """What one revision wrote, in the order of revisions."""
        keys = self._keys
        if keys:
            matched: dict[int, tuple[Watcher[Owner], list[Event]]] = {}
            for event in events:
                for ident, watcher in keys.get(event.kv.key, {}).items():
                    matched.setdefault(ident, (watcher, []))[1].append(event)
            for watcher, mine in matched.values():
                self._tell(watcher, revision, mine)
        for (key, end), watchers in list(self._ranges.items()):
            mine = [e for e in events if e.kv.key >= key and (end == b"\0" or e.kv.key < end)]
            if mine:
                for watcher in list(watchers.values()):
                    self._tell(watcher, revision, mine)

    def _tell(self, watcher: Watcher[Owner], revision: int, events: list[Event]) -> None:
        if revision < watcher.next_revision:
            return
        if watcher.blocked:
            self._unfollow(watcher)
            self._behind[id(watcher)] = watcher
            return
        watcher.next_revision = revision + 1
        self._deliver(watcher, revision, events)

    def progress(self, watchers: Iterable[Watcher[Owner]] | None = None) -> None:
        """Tell the synced ones (all, or these) how far they are, where that is news."""
        revision = self._store.revision
        for watcher in list(self._all.values() if watchers is None else watchers):
            if watcher.synced and not watcher.blocked and watcher.next_revision <= revision:
                watcher.next_revision = revision + 1
                self._deliver(watcher, revision, [])

    # --- history

    def catch_up(self, limit: int, watchers: int = 4) -> bool:
        """One slice, of about ``limit`` records each, for the next ``watchers`` that are behind and not blocked.

        Whether there may be more to do at once.
        """
        ready = [watcher for watcher in self._behind.values() if not watcher.blocked]
        more = len(ready) > watchers
        for watcher in ready[:watchers]:
            self._behind[id(watcher)] = self._behind.pop(id(watcher))  # the others are next
            if watcher.next_revision > self._store.revision:
                self._follow(watcher)
                continue
            try:
                revision, records = self._store.history(watcher.next_revision, limit)
            except Compacted as error:
                self.cancel(watcher)
                self._ended(watcher, error)
                continue
            events = [self._event(watcher, pos, r) for pos, r in records if self._wants(watcher, r)]
            watcher.next_revision = revision + 1
            if revision == self._store.revision:
                self._follow(watcher)
            else:
                more = True
            self._deliver(watcher, revision, events)
        return more

    def _wants(self, watcher: Watcher[Owner], record: bytes) -> bool:
        return in_range(rec.key_of(record), watcher.key, watcher.end)

    def _event(self, watcher: Watcher[Owner], pos: int, record: bytes) -> Event:
        wanted = rec.wants_previous(record, watcher.prev_kv)
        prev_kv = self._store.previous_kv(record) if wanted else None
        return rec.event(pos, record, prev_kv)
