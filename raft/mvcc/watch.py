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

import functools
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from raft.errors import Compacted
from raft.mvcc import record as rec
from raft.mvcc.store import Mvcc
from raft.mvcc.types import EVERY_PREVIOUS, NO_PREVIOUS, PREVIOUS_OF_DELETES, Event

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

    def progress(self, watchers: Iterable[Watcher[Owner]]) -> None:
        """Tell the synced ones of these how far they are, where that is news."""
        revision = self._store.revision
        for watcher in list(watchers):
            if watcher.synced and not watcher.blocked and watcher.next_revision <= revision:
                watcher.next_revision = revision + 1
                self._deliver(watcher, revision, [])

    def progress_in_turn(self, limit: int) -> None:
        """Tell the next ``limit`` of all watchers, so that tens of thousands of quiet ones cost no more than that."""
        turn = list(itertools.islice(self._all.values(), limit))
        for watcher in turn:
            self._all[id(watcher)] = self._all.pop(id(watcher))
        self.progress(turn)

    # --- history

    def catch_up(self, limit: int, watchers: int = 1_000) -> bool:
        """One slice, of about ``limit`` records, for the next ``watchers`` that are behind and not blocked.

        Who is first reads on from where it is, and takes along all whose place lies in that slice: when a member dies,
        its watchers come to another at once, tens of thousands maybe. Whether there may be more to do at once.
        """
        ready = list(itertools.islice((w for w in self._behind.values() if not w.blocked), watchers + 1))
        more = len(ready) > watchers
        readers = [watcher for watcher in ready[:watchers] if self._reads(watcher)]
        if not readers:
            return more
        first = readers[0].next_revision
        revision, records = self._store.history(first, limit)
        events_of = self._matcher(records)
        here = [watcher for watcher in readers if first <= watcher.next_revision <= revision]
        for watcher in here:
            self._read_up_to(watcher, revision, events_of(watcher, watcher.next_revision))
        return more or len(here) < len(readers) or revision < self._store.revision

    def _read_up_to(self, watcher: Watcher[Owner], revision: int, events: list[Event]) -> None:
        watcher.next_revision = revision + 1
        newest = revision == self._store.revision
        if newest:
            self._follow(watcher)
        else:
            self._behind[id(watcher)] = self._behind.pop(id(watcher))  # the others are next
        if events or newest:
            self._deliver(watcher, revision, events)

    def _reads(self, watcher: Watcher[Owner]) -> bool:
        """Whether there is history for it to read."""
        if watcher.next_revision > self._store.revision:
            self._follow(watcher)
        elif watcher.next_revision <= self._store.compacted:
            self.cancel(watcher)
            self._ended(watcher, Compacted(watcher.next_revision, self._store.compacted))
        else:
            return True
        return False

    def _matcher(self, records: list[tuple[int, bytes]]) -> Callable[[Watcher[Owner], int], list[Event]]:
        """What of ``records`` a watcher is told that starts at a revision; one list for all that are told the same."""
        by_key: dict[bytes, list[tuple[int, bytes]]] = {}
        for pos, record in records:
            by_key.setdefault(rec.key_of(record), []).append((pos, record))
        keys = sorted(by_key)

        @functools.cache
        def of_range(key: bytes, end: bytes | None, prev_kv: int) -> list[Event]:
            if end is None:
                mine = by_key.get(key, [])
            else:
                until = len(keys) if end == b"\0" else bisect_left(keys, end)
                mine = sorted(r for k in keys[bisect_left(keys, key) : until] for r in by_key[k])
            return [self._event(prev_kv, pos, record) for pos, record in mine]

        @functools.cache
        def of(key: bytes, end: bytes | None, prev_kv: int, start: int) -> list[Event]:
            events = of_range(key, end, prev_kv)
            first = bisect_left(events, start, key=lambda event: event.kv.mod_revision)
            return events[first:] if first else events

        return lambda watcher, start: of(watcher.key, watcher.end, watcher.prev_kv, start)

    def _event(self, prev_kv: int, pos: int, record: bytes) -> Event:
        wanted = rec.wants_previous(record, prev_kv)
        return rec.event(pos, record, self._store.previous_kv(record) if wanted else None)
