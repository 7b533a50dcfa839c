"""What a watch says last: a client resumes from there, so nothing it was not told may lie below."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from cluster.api.scheme import SCHEME
from cluster.apiserver.cache import Cache
from cluster.apiserver.selection import Selection
from cluster.apiserver.watch import WatchServer
from cluster.apiserver.watchers import Chunk, Watcher, WatchHub

PODS = SCHEME.named("pods")


class Said:
    """Stands where the client's connection is."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []

    def at_once(self, chunks: list[Chunk]) -> bool:
        self.lines += [(kind, event.revision) for kind, event in chunks]
        return True

    async def events(self, chunks: list[Chunk]) -> None:
        self.at_once(chunks)

    async def objects(self, initial: object) -> None: ...

    async def bookmark(self, revision: int, **_: object) -> None:
        self.lines.append(("BOOKMARK", revision))


def pod_at(revision: int) -> Any:
    raw = b'{"metadata":{"name":"p%d","namespace":"default","resourceVersion":"%d"}}' % (revision, revision)
    key = b"/registry/core/pods/default/p%d" % revision
    kv = SimpleNamespace(key=key, value=raw, mod_revision=revision, create_revision=revision)
    return SimpleNamespace(revision=revision, events=[SimpleNamespace(type=0, kv=kv, prev_kv=None)])


async def run(timeout_seconds: str, after_first: Any) -> list[tuple[str, int]]:
    hub, said = WatchHub(), Said()
    cache = Cache(lambda key, value, revision: value, sink=hub.dispatch)
    absent = cast(Any, None)
    server = WatchServer(
        cache, hub, absent, absent, absent, bookmark_period_s=60, min_timeout_s=1800, buffer_events=100
    )
    watcher = Watcher(PODS, Selection(), 0, 100)
    hub.add(watcher)
    call = SimpleNamespace(params={"allowWatchBookmarks": "true", "timeoutSeconds": timeout_seconds})
    serving = asyncio.create_task(server._run(cast(Any, call), cast(Any, said), watcher, []))
    await asyncio.sleep(0)
    cache.apply(pod_at(1))
    after_first(watcher, cache)
    await asyncio.wait_for(serving, 60)
    return said.lines


async def test_a_watch_ended_from_here_does_not_vouch_for_what_came_after_its_end() -> None:
    def end(watcher: Watcher, cache: Cache) -> None:
        watcher.stop()
        cache.apply(pod_at(2))  # before the watch has had its turn: not for it any more

    assert await run("600", end) == [("ADDED", 1)]


async def test_a_watch_whose_time_is_over_says_how_far_it_was() -> None:
    assert await run("1", lambda watcher, cache: None) == [("ADDED", 1), ("BOOKMARK", 1)]
