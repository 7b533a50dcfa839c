"""WATCH: a stream of events from the byte cache. IO: the client's connection.

    subscribe (one step, no await: what the cache has, then everything after) > initial objects > bookmark > events

Invariants: the initial state and the subscription are taken without yielding to the loop, so there is neither gap nor
repetition between them. A bookmark at R is sent only when everything at or below R was sent before it. A watch too
old for the window ends with an ERROR event (410), as the client's reflector expects. Source: KEP-3157 for
sendInitialEvents.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable

import orjson
from aiohttp import web

from cluster.api import errors
from cluster.api.scheme import SCHEME
from cluster.apiserver import metrics, negotiate, options, selection, views
from cluster.apiserver.cache import Cache, CacheEvent, Entry, event_line
from cluster.apiserver.call import Call
from cluster.apiserver.reads import CacheReader
from cluster.apiserver.requestinfo import flag
from cluster.apiserver.versions import Versions, as_stored
from cluster.apiserver.watch_streams import AT_ONCE_BYTES, stream_for
from cluster.apiserver.watchers import Chunk, Watcher, WatchHub

log = logging.getLogger(__name__)

_INITIAL_END = "k8s.io/initial-events-end"


class WatchServer:
    """Serves WATCH requests."""

    def __init__(
        self,
        cache: Cache,
        hub: WatchHub,
        reader: CacheReader,
        versions: Versions,
        clock: Callable[[], float],
        *,
        bookmark_period_s: float,
        min_timeout_s: float,
        buffer_events: int,
    ) -> None:
        self._cache = cache
        self._hub = hub
        self._reader = reader
        self._versions = versions
        self._clock = clock
        self._bookmark_period_s = bookmark_period_s
        self._min_timeout_s = min_timeout_s
        self._buffer_events = buffer_events

    async def serve(self, call: Call) -> web.StreamResponse:
        """Stream until the client leaves, the time is over, or the watch is ended from here."""
        if call.accept.media != negotiate.JSON:
            raise errors.not_acceptable((negotiate.JSON,))
        initial, watcher, failure = await self._subscribe(call)
        stream = _Stream(call, self._versions, self._clock)
        try:
            await stream.out.start(watcher.stop if watcher is not None else _nothing)
            if failure is not None:
                await stream.error(failure)
            elif watcher is not None:
                await self._run(call, stream, watcher, initial)
            await stream.out.end()
        except errors.ApiError as e:  # a conversion webhook failed under way
            await stream.error(e)
            await stream.out.end()
        except ConnectionError:
            log.debug("watch of %s: the client went away", call.kind.name)
        finally:
            if watcher is not None:
                self._hub.remove(watcher)
                watcher.close()
        return stream.out.response

    async def _subscribe(self, call: Call) -> tuple[list[Entry], Watcher | None, errors.ApiError | None]:
        """Initial objects and the watcher; or the error to send as an event."""
        params, info = call.params, call.kind
        chosen = selection.parse(info, call.namespace, params.get("labelSelector", ""), params.get("fieldSelector", ""))
        version = params.get("resourceVersion", "")
        options.whole_number(params, "timeoutSeconds")
        send_initial = options.send_initial_events(params)
        await self._reader.freshen(version)
        synthetic = bool(send_initial) or (send_initial is None and version in ("", "0"))
        start = self._cache.revision if synthetic or version in ("", "0") else int(version)
        watcher = Watcher(SCHEME.hub(info), chosen, start, self._buffer_events)
        table = self._cache.table(info)
        if synthetic:
            initial = [e for e in table.select(chosen.namespace) if chosen.matches(e)]
        else:
            initial = []
            try:
                watcher.offer(table.since(start))
            except errors.ApiError as e:
                return [], None, e
        self._hub.add(watcher)
        return initial, watcher, None

    async def _run(self, call: Call, stream: _Stream, watcher: Watcher, initial: Iterable[Entry]) -> None:
        bookmarks = flag(call.params, "allowWatchBookmarks")
        started = time.monotonic()
        ends = started + _timeout_s(call.params.get("timeoutSeconds", ""), self._min_timeout_s)
        next_bookmark = started + self._bookmark_period_s
        await stream.objects(initial)
        if bookmarks and options.send_initial_events(call.params):
            await stream.bookmark(watcher.revision, initial_end=True)
        while True:
            chunks = watcher.drain()
            if chunks:
                await stream.events(chunks)
                continue
            now = time.monotonic()
            if watcher.stopped or now >= ends:
                break
            if bookmarks and now >= next_bookmark:
                await stream.bookmark(max(self._cache.revision, watcher.revision))
                next_bookmark = now + self._bookmark_period_s
                continue
            until = min(ends, next_bookmark) if bookmarks else ends
            await watcher.wait(max(until - now, 0.001), stream.at_once)
        if watcher.error is not None:
            await stream.error(watcher.error)
        elif bookmarks and not watcher.stopped:  # a stopped one was not told of everything up to here
            await stream.bookmark(max(self._cache.revision, watcher.revision))


def _nothing() -> None:
    """There is no watcher to stop."""


def _timeout_s(text: str, minimum_s: float) -> float:
    """The client's timeoutSeconds, or Kubernetes' spread so that watches do not all end together."""
    if text.isdigit() and int(text) > 0:
        return float(text)
    return minimum_s * (1 + random.random())


class _Stream:
    """Writes watch events in the asked form."""

    def __init__(self, call: Call, versions: Versions, clock: Callable[[], float]) -> None:
        self._call = call
        self._versions = versions
        self._clock = clock
        self._first = True
        self._include = views.include_of(call.params.get("includeObject", ""))
        self._counter = metrics.WATCH_EVENTS.labels(call.kind.name)
        headers = {
            "Content-Type": call.accept.content_type,
            "Cache-Control": "no-cache, private",
            "Audit-Id": call.audit_id,
            **call.answer_headers,
        }
        self.out = stream_for(call.request, headers)

    async def objects(self, entries: Iterable[Entry]) -> None:
        found = list(entries)
        if self._call.kind.custom is not None:
            found = list(await self._versions.entries(self._call.kind, found))
        await self._write(("ADDED", e.raw) for e in found)

    async def events(self, chunks: list[Chunk]) -> None:
        if self._call.kind.custom is not None and not self._plain(chunks):
            shown = [e.last if k == "DELETED" or e.entry is None else e.entry for k, e in chunks]
            forms = await self._versions.entries(self._call.kind, shown)
            await self._write((kind, form.raw) for (kind, _), form in zip(chunks, forms, strict=True))
            return
        if self._call.accept.transform or self._call.kind.view_of:
            await self._write((kind, _shown(kind, event)) for kind, event in chunks)
        elif not self.at_once(chunks):
            self._counter.inc(len(chunks))
            await self.out.send(event.chunk(kind) for kind, event in chunks)

    def at_once(self, chunks: list[Chunk]) -> bool:
        """Send events as they are stored to a client that keeps up; False when they have to go the longer way."""
        if self._call.accept.transform or self._call.kind.view_of:
            return False
        if self._call.kind.custom is not None and not self._plain(chunks):
            return False
        framed = [event.framed(kind) for kind, event in chunks]
        if sum(map(len, framed)) > AT_ONCE_BYTES or not self.out.at_once(b"".join(framed)):
            return False
        self._counter.inc(len(chunks))
        return True

    def _plain(self, chunks: list[Chunk]) -> bool:
        """Whether every event can be sent as it is stored, encoded once for all watchers."""
        entries = [e for _, event in chunks for e in (event.entry or event.prev,) if e is not None]
        return as_stored(self._call.kind, entries)

    async def bookmark(self, revision: int, *, initial_end: bool = False) -> None:
        info = self._call.kind
        meta: dict[str, object] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_end:
            meta["annotations"] = {_INITIAL_END: "true"}
        raw = orjson.dumps({"kind": info.kind, "apiVersion": info.api_version, "metadata": meta})
        await self._write([("BOOKMARK", raw)])

    async def error(self, error: errors.ApiError) -> None:
        await self.out.send([event_line("ERROR", orjson.dumps(error.status()))])

    async def _write(self, events: Iterable[tuple[str, bytes]]) -> None:
        await self.out.send(self._line(kind, raw) for kind, raw in events)

    def _line(self, kind: str, raw: bytes) -> bytes:
        call = self._call
        self._counter.inc()
        if not call.accept.transform:
            return event_line(kind, raw if kind == "BOOKMARK" else views.shown(call.kind, raw))
        line = views.event_view(call.accept, call.kind, kind, raw, self._clock(), self._include, first=self._first)
        self._first = False
        return line


def _shown(kind: str, event: CacheEvent) -> bytes:
    return event.last.raw if kind == "DELETED" or event.entry is None else event.entry.raw
