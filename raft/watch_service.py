"""Watches of client connections: from the hub to frames. IO-free but for the connections it is handed.

All that one turn of the loop produces for a connection leaves in as few frames as it takes. A connection that cannot
be written to blocks its watchers; the hub lets them read history when it can. Events are packed once for all watchers
of one range.
"""

from __future__ import annotations

from collections.abc import Callable

from raft.errors import Compacted, Invalid
from raft.mvcc.store import Mvcc
from raft.mvcc.types import Event
from raft.mvcc.watch import Watcher, WatchHub
from raft.outbox import Outbox
from raft.wire import array_header, pack

CATCH_UP_RECORDS = 500
MAX_WATCHES = 10_000


class WatchService:
    def __init__(self, store: Mvcc, schedule_catch_up: Callable[[], None]) -> None:
        self.hub: WatchHub[Outbox] = WatchHub(store, self._deliver, self._ended)
        self._schedule = schedule_catch_up
        self._of: dict[int, dict[int, Watcher[Outbox]]] = {}
        # Of one commit, by the identity of the list, which is kept here lest another gets the same.
        self._packed: dict[tuple[int, bool], tuple[list[Event], bytes]] | None = None
        self.events = 0
        """Sent to watchers, ever."""

    @property
    def streams(self) -> int:
        """Connections that watch something."""
        return len(self._of)

    def commit(self, revision: int, events: list[Event]) -> None:
        self._packed = {}
        self.hub.commit(revision, events)
        self._packed = None

    def watch(
        self, out: Outbox, watch_id: int, key: bytes, end: bytes | None, start_revision: int, prev_kv: bool
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
        return self.hub.catch_up(CATCH_UP_RECORDS)

    # --- what the hub says

    def _deliver(self, watcher: Watcher[Outbox], revision: int, events: list[Event]) -> None:
        self.events += len(events)
        item = b"\x94\x00" + pack(watcher.id) + self._pack(revision, events, watcher.prev_kv)
        if not watcher.owner.send(item):
            self.set_writable(watcher.owner, False)

    def _pack(self, revision: int, events: list[Event], prev_kv: bool) -> bytes:
        """What follows the watcher's id in an item."""
        known, ident = self._packed, (id(events), prev_kv)
        if known is not None and ident in known:
            return known[ident][1]
        parts = [pack(revision), array_header(len(events))]
        parts += [pack(event if prev_kv else (event.type, event.kv, None)) for event in events]
        packed = b"".join(parts)
        if known is not None:
            known[ident] = (events, packed)
        return packed

    def _ended(self, watcher: Watcher[Outbox], error: Compacted) -> None:
        self._of.get(id(watcher.owner), {}).pop(watcher.id, None)
        watcher.owner.send(pack([0, watcher.id, -1, [error.code, str(error)]]))
