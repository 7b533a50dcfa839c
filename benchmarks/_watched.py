"""What a benchmark waits for, it is told by a watch, as any client of the API. IO by the client it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cluster.machinery.client import Client, Obj
from cluster.machinery.informer import Informer

LOOK_S = 0.02
"""A crowd is looked through so often at most: the client shares the processors with what is measured."""


class Watched:
    """A resource as the watch tells of it. `pause_s` between two looks."""

    def __init__(self, client: Client, resource: str, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s
        self.informer = Informer(client, resource)
        self._changed = asyncio.Event()
        self.informer.add_handler(lambda old, new: self._changed.set())

    async def until(self, reached: Callable[[list[Obj]], bool]) -> None:
        while not reached(self.informer.items()):
            self._changed.clear()
            await self._changed.wait()
            await asyncio.sleep(self._pause_s)


@asynccontextmanager
async def watching(*watched: Watched) -> AsyncIterator[None]:
    """They are listed, and told of every change from then on."""
    tasks = [asyncio.create_task(one.informer.run()) for one in watched]
    try:
        for one in watched:
            await one.informer.wait_synced()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
