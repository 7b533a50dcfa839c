"""Watches of client connections: from the hub to frames. IO-free but for the connections it is handed.

All that one turn of the loop produces for a connection leaves in as few frames as it takes. A connection that cannot
be written to blocks its watchers; the hub lets them read history when it can. Events are packed once for all watchers
of one range, and cross a connection once for all of its watchers of that range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raft.errors import Compacted, Invalid
from raft.mvcc.store import Mvcc
from raft.mvcc.types import DELETE, EVERY_PREVIOUS, Event
from raft.mvcc.watch import Watcher, WatchHub
from raft.outbox import Outbox
from raft.wire import array_header, pack

CATCH_UP_RECORDS = 500
MAX_WATCHES = 10_000


class _Shared:
    """Events up to one revision, and who is to be told of them: by connection, its watches."""

    __slots__ = ("events", "previous", "revision", "watches")

    def __init__(self, revision: int, events: list[Event], previous: int) -> None:
        self.revision = revision
        self.events = events  # kept, lest another list gets the same identity
        self.previous = previous
        self.watches: dict[int, tuple[Outbox, list[int]]] = {}


def _packed(revision: int, events: list[Event], previous: int) -> bytes:
    """What follows the watch ids in an item."""
    parts = [pack(revision), array_header(len(events))]
    every = previous == EVERY_PREVIOUS
    parts += [pack(e if every or (previous and e.type == DELETE) else (e.type, e.kv, None)) for e in events]
    return b"".join(parts)


class WatchService:
    def __init__(self, store: Mvcc, schedule_catch_up: Callable[[], None]) -> None:
        self.hub: WatchHub[Outbox] = WatchHub(store, self._deliver, self._ended)
        self._schedule = schedule_catch_up
        self._of: dict[int, dict[int, Watcher[Outbox]]] = {}
        self._shared: dict[tuple[int, int], _Shared] | None = None
        """Of what is delivered together, by the identity of the list of events and which previous values are wanted."""
        self.events = 0
        """Sent to watchers, ever."""

    @property
    def streams(self) -> int:
        """Connections that watch something."""
        return len(self._of)

    def commit(self, revision: int, events: list[Event]) -> None:
        with self._packing_once():
            self.hub.commit(revision, events)

    @contextmanager
    def _packing_once(self) -> Iterator[None]:
        """What is delivered inside leaves at its end: what several are told, packed once and sent once a connection."""
        self._shared = {}
        try:
            yield
        finally:
            shared, self._shared = self._shared, None
            for one in shared.values():
                packed = _packed(one.revision, one.events, one.previous)
                for owner, watch_ids in one.watches.values():
                    self._send(owner, watch_ids[0] if len(watch_ids) == 1 else watch_ids, packed)

    def watch(
        self, out: Outbox, watch_id: int, key: bytes, end: bytes | None, start_revision: int, prev_kv: int
    ) -> None:
        """Raises Compacted, Invalid."""
        mine = self._of.setdefault(id(out), {})
        if watch_id in mine or watch_id <= 0:
            raise Invalid(f"etcdserver: mvcc: duplicate watch ID provided on the WatchStream ({watch_id})")
        if len(mine) >= MAX_WATCHES:
            raise Invalid(f"too many watches on one connection (limit {MAX_WATCHES})")
        watcher = self.hub.watch(out, watch_id, key, end, start_revision, prev_kv)
        watcher.blocked = not out.writable
        mine[watch_id] = watcher
        if not watcher.synced:
            self._schedule()

    def unwatch(self, out: Outbox, watch_id: int) -> None:
        watcher = self._of.get(id(out), {}).pop(watch_id, None)
        if watcher is not None:
            self.hub.cancel(watcher)

    def progress_of(self, out: Outbox) -> None:
        """Tell this connection's watches how far they are."""
        self.hub.progress(self._of.get(id(out), {}).values())

    def set_writable(self, out: Outbox, writable: bool) -> None:
        for watcher in self._of.get(id(out), {}).values():
            watcher.blocked = not writable
        if writable and self.hub.behind:
            self._schedule()

    def closed(self, out: Outbox) -> None:
        for watcher in self._of.pop(id(out), {}).values():
            self.hub.cancel(watcher)

    def catch_up(self) -> bool:
        """A slice for those that are behind. Whether to come back at once."""
        with self._packing_once():
            return self.hub.catch_up(CATCH_UP_RECORDS)

    # --- what the hub says

    def _deliver(self, watcher: Watcher[Outbox], revision: int, events: list[Event]) -> None:
        self.events += len(events)
        if self._shared is None:
            self._send(watcher.owner, watcher.id, _packed(revision, events, watcher.prev_kv))
            return
        ident = (id(events), watcher.prev_kv)
        shared = self._shared.get(ident)
        if shared is None:
            shared = self._shared[ident] = _Shared(revision, events, watcher.prev_kv)
        same = shared.watches.get(id(watcher.owner))
        if same is None:
            shared.watches[id(watcher.owner)] = (watcher.owner, [watcher.id])
        else:
            same[1].append(watcher.id)

    def _send(self, owner: Outbox, watch_ids: int | list[int], packed: bytes) -> None:
        if not owner.send(b"\x94\x00" + pack(watch_ids) + packed):
            self.set_writable(owner, False)

    def _ended(self, watcher: Watcher[Outbox], error: Compacted) -> None:
        self._of.get(id(watcher.owner), {}).pop(watcher.id, None)
        watcher.owner.send(pack([0, watcher.id, -1, [error.code, str(error)]]))
