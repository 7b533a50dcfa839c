"""Who watches what: selections, bounded buffers, and an index that finds an event's watchers.

Pure but for one wake-up.

An event is offered only to watchers that can want it: they are indexed by resource and then by the narrowest of object
name, node (pods) and namespace; nobody is filtered one by one.

Invariants:
- A watcher gets each event of its selection once, in revision order, or is closed; it never gets a stream with a gap.
- An object that enters a selection is ADDED, one that leaves it is DELETED (its last state at that revision).
- Memory per watcher is bounded: one that does not keep up is closed, and its client resumes from what it saw.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from cluster.api.errors import ApiError, internal
from cluster.api.scheme import ResourceInfo
from cluster.apiserver.cache import CacheEvent, Table
from cluster.apiserver.selection import Selection

log = logging.getLogger(__name__)
Chunk = tuple[str, CacheEvent]
Sink = Callable[[list[Chunk]], bool]
"""Sends them without waiting; False when that cannot be, and then nothing was sent."""
Definition = Callable[[ResourceInfo], ResourceInfo | None]
"""What its definition makes of a custom resource now; None once it is gone."""
_EARLY_S = 0.01
"""The clocks of two waits for one moment differ: a timer that comes so much too late is still the same."""


class Watcher:
    """One open watch. The server's shell waits on `wait()`, then takes what `drain()` gives."""

    __slots__ = (
        "_buffer", "_due", "_limit", "_sink", "_timer", "_wake", "error", "info", "overflowed", "revision", "selection",
        "stopped",
    )  # fmt: skip

    def __init__(self, info: ResourceInfo, selection: Selection, revision: int, limit: int) -> None:
        self.info = info
        self.selection = selection
        self.revision = revision
        self.stopped = False
        self.overflowed = False
        self.error: ApiError | None = None
        self._limit = limit
        self._buffer: list[Chunk] = []
        self._wake: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def offer(self, events: Iterable[CacheEvent]) -> None:
        """Send at once those of `events` that concern the selection, or queue them. All of one batch go in together."""
        if self.stopped:
            return
        chunks = [(kind, event) for event in events if (kind := self._kind(event))]
        if not chunks or (self._sink is not None and not self._buffer and self._sink(chunks)):
            return
        self._buffer += chunks
        if len(self._buffer) > self._limit:
            self.overflowed = True
            self.stop()
        else:
            self._notify()

    def _kind(self, event: CacheEvent) -> str:
        if event.revision <= self.revision:
            return ""
        now = event.entry is not None and self.selection.matches(event.entry)
        before = event.prev is not None and self.selection.matches(event.prev)
        if now:
            return "MODIFIED" if before else "ADDED"
        return "DELETED" if before else ""

    def stop(self, error: ApiError | None = None) -> None:
        """End the watch; what is buffered is still delivered unless it overflowed."""
        self.stopped = True
        self.error = self.error or error
        if self.overflowed:
            self._buffer.clear()
        self._notify()

    def drain(self) -> list[Chunk]:
        chunks, self._buffer = self._buffer, []
        return chunks

    async def wait(self, timeout_s: float, sink: Sink | None = None) -> None:
        """Return when there is something to drain, the watch stopped, or the time is over; sometimes sooner: the timer
        of an earlier wait is left to run, so that an event costs none. What `sink` takes meanwhile is not there to be
        drained: of thousands of watchers that keep up none has to be woken."""
        if self._buffer or self.stopped:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + timeout_s
        if due < self._due - _EARLY_S:
            self.close()
            self._due, self._timer = due, loop.call_at(due, self._ring)
        wake = self._wake = loop.create_future()
        self._sink = sink
        try:
            await wake
        finally:
            self._wake = self._sink = None

    def _ring(self) -> None:
        self._due, self._timer = math.inf, None
        self._notify()

    def close(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._due, self._timer = math.inf, None

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


Group = dict[int, Watcher]
K = TypeVar("K")


class _Index:
    """The watchers of one resource. Groups are dicts by id, so that order is that of arrival."""

    __slots__ = ("everything", "names", "namespaces", "nodes")

    def __init__(self) -> None:
        self.everything: Group = {}
        self.namespaces: dict[str, Group] = {}
        self.names: dict[tuple[str, str], Group] = {}
        self.nodes: dict[str, Group] = {}

    def group(self, selection: Selection, *, create: bool) -> Group:
        if selection.name:
            return _sub(self.names, (selection.namespace, selection.name), create)
        if selection.node:
            return _sub(self.nodes, selection.node, create)
        if selection.namespace:
            return _sub(self.namespaces, selection.namespace, create)
        return self.everything

    def prune(self, selection: Selection) -> None:
        if selection.name:
            self.names.pop((selection.namespace, selection.name), None)
        elif selection.node:
            self.nodes.pop(selection.node, None)
        elif selection.namespace:
            self.namespaces.pop(selection.namespace, None)


def _sub(groups: dict[K, Group], key: K, create: bool) -> Group:
    return groups.setdefault(key, {}) if create else groups.get(key, {})


class WatchHub:
    """All open watches. `dispatch` is the cache's sink."""

    def __init__(
        self, on_slow: Callable[[Watcher], None] | None = None, definition: Definition = lambda info: info
    ) -> None:
        self._indexes: dict[str, _Index] = {}
        self._on_slow = on_slow
        self._definition = definition
        self.count = 0

    def add(self, watcher: Watcher) -> None:
        """Its definition may have changed since the request came: then it is ended at once."""
        if self._outdated(watcher):
            watcher.stop()
        index = self._indexes.setdefault(watcher.info.name, _Index())
        index.group(watcher.selection, create=True)[id(watcher)] = watcher
        self.count += 1

    def remove(self, watcher: Watcher) -> None:
        """Idempotent."""
        index = self._indexes.get(watcher.info.name)
        if index is None:
            return
        group = index.group(watcher.selection, create=False)
        if group.pop(id(watcher), None) is None:
            return
        self.count -= 1
        if not group:
            index.prune(watcher.selection)

    def dispatch(self, table: Table, events: list[CacheEvent]) -> None:
        index = self._indexes.get(table.name)
        if index is None:
            return
        offers: dict[int, tuple[Watcher, list[CacheEvent]]] = {}
        for watcher in index.everything.values():
            offers[id(watcher)] = (watcher, events)
        narrow = bool(index.namespaces or index.names or index.nodes)
        if narrow:
            for event in events:
                for ident, watcher in _narrow(index, table, event).items():
                    offer = offers.get(ident)
                    if offer is None:
                        offers[ident] = (watcher, [event])
                    else:
                        offer[1].append(event)
        for watcher, wanted in offers.values():
            if watcher.stopped:
                continue
            try:
                watcher.offer(wanted)
            except Exception:  # its own trouble: the others are still to be told
                log.exception("a watch of %s cannot be told of an event", table.name)
                watcher.stop(internal("the watch could not be told of an event"))
            if watcher.overflowed and self._on_slow is not None:
                self._on_slow(watcher)

    def stop_all(self, error: ApiError | None = None) -> None:
        """End every watch, with an ERROR event when `error` is given."""
        for watcher in self._all():
            watcher.stop(error)

    def stop_outdated(self) -> None:
        """End watches of custom resources whose definition is gone or serves something else by now: their clients watch
        again, and see it."""
        for watcher in self._all():
            if self._outdated(watcher):
                watcher.stop()

    def _outdated(self, watcher: Watcher) -> bool:
        if watcher.info.custom is None:
            return False
        found = self._definition(watcher.info)
        return found is None or found.custom is None or not found.custom.same_as(watcher.info.custom)

    def _all(self) -> list[Watcher]:
        found: list[Watcher] = []
        for index in self._indexes.values():
            groups = [index.everything, *index.namespaces.values(), *index.names.values(), *index.nodes.values()]
            found += (watcher for group in groups for watcher in group.values())
        return found


def _narrow(index: _Index, table: Table, event: CacheEvent) -> Group:
    """Watchers of the event's namespace, name and node (the node before and after), each once. Not to be changed."""
    groups: list[Group] = []
    namespace, name = split_key(table, event.key)
    if index.namespaces and namespace:
        groups.append(index.namespaces.get(namespace, {}))
    if index.names:
        groups += (index.names.get((namespace, name), {}), index.names.get(("", name), {}))
    if index.nodes:
        for entry in (event.prev, event.entry):
            if entry is not None and entry.node:
                groups.append(index.nodes.get(entry.node, {}))
    groups = [group for group in groups if group]
    if len(groups) == 1:
        return groups[0]
    return {ident: watcher for group in groups for ident, watcher in group.items()}


def split_key(table: Table, key: bytes) -> tuple[str, str]:
    """(namespace, name) of an object's key; namespace "" when cluster-scoped."""
    tail = key[len(table.prefix) :].decode()
    namespace, slash, name = tail.partition("/")
    return (namespace, name) if slash else ("", namespace)
