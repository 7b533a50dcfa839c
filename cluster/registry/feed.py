"""Keeps an in-memory view in step with parts of the store: load, then follow the events, load anew when history is
gone.

IO only through the injected Store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from cluster.registry.codec import Codec
from cluster.registry.store import Store, prefix_end
from cluster.registry.types import Stored

log = logging.getLogger(__name__)

_RETRY_S = 1.0


def split_key(key: bytes, prefix: bytes) -> tuple[str, str, str]:
    """(plural, namespace, name) of a key below `/registry/<group>/`."""
    parts = key[len(prefix) :].decode().split("/")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else (parts[0], "", parts[1])


class View(Protocol):
    """What a feed fills; `reset` forgets all below a prefix."""

    def reset(self, prefix: bytes) -> None: ...
    def put(self, key: bytes, stored: Stored) -> None: ...
    def delete(self, key: bytes) -> None: ...


class Feed:
    """One watch per prefix. `loaded` is set once every prefix was read; `revision` is what all of them have reached."""

    def __init__(self, store: Store, prefixes: tuple[bytes, ...], codec: Codec, view: View) -> None:
        self._store = store
        self._codec = codec
        self._view = view
        self._revisions = dict.fromkeys(prefixes, 0)
        self._moved = asyncio.Event()
        self.loaded = asyncio.Event()

    @property
    def synced(self) -> bool:
        return self.loaded.is_set()

    @property
    def revision(self) -> int:
        return min(self._revisions.values())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for prefix in self._revisions:
                group.create_task(self._follow(prefix))

    async def until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `holds`, which is asked again whenever something arrived."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def _follow(self, prefix: bytes) -> None:
        while True:
            try:
                await self._watch(prefix, await self._load(prefix))
            except Exception as e:
                if not getattr(e, "code", ""):
                    raise  # not the store's: a fault of ours, which must not be looped over
                log.warning("reading %s again: %s", prefix.decode(), e)
            await asyncio.sleep(_RETRY_S)

    async def _load(self, prefix: bytes) -> int:
        found = await self._store.range(prefix, prefix_end(prefix))
        self._view.reset(prefix)
        for kv in found.kvs:
            self._view.put(kv.key, self._codec.decode(kv.key, kv.value, kv.mod_revision))
        self._reached(prefix, found.revision)
        return found.revision

    async def _watch(self, prefix: bytes, revision: int) -> None:
        async for batch in self._store.watch(prefix, prefix_end(prefix), start_revision=revision + 1):
            for event in batch.events:
                kv = event.kv
                if event.type == 1:
                    self._view.delete(kv.key)
                else:
                    self._view.put(kv.key, self._codec.decode(kv.key, kv.value, kv.mod_revision))
            self._reached(prefix, batch.revision)

    def _reached(self, prefix: bytes, revision: int) -> None:
        self._revisions[prefix] = revision
        if self.revision > 0:
            self.loaded.set()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
