"""The scheduler's whole process without API and store: a Client that answers at once, binds come back as events."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

from benchmarks._workloads import Obj, node, pod
from cluster.machinery.client import Binding, BindOutcomes, Client, Created, ObjectList, Turn, WatchEvent
from cluster.scheduler.config import SchedulerConfig
from cluster.scheduler.scheduler import Scheduler


class _Loopback:
    """A Client that answers at once: binds come back as watch events. No store, no API."""

    def __init__(self, nodes: int) -> None:
        self._nodes = [node(i) for i in range(nodes)]
        self._streams: dict[str, asyncio.Queue[WatchEvent]] = {}
        self._pods: dict[str, Obj] = {}
        self._revision = 10
        self._left = 0
        self.done = asyncio.Event()

    def _send(self, kind: str, body: Obj) -> None:
        self._revision += 1
        meta = body["metadata"] | {"resourceVersion": str(self._revision)}
        self._pods[meta["name"]] = body | {"metadata": meta}
        self._streams["pods"].put_nowait(WatchEvent(kind, self._pods[meta["name"]]))

    def submit(self, body: Obj) -> None:
        self._left += 1
        self._send("ADDED", body)

    async def list(self, resource: str, namespace: str = "", **_: str) -> ObjectList:
        self._streams.setdefault(resource, asyncio.Queue())
        return ObjectList(self._nodes if resource == "nodes" else [], "1")

    async def watch(self, resource: str, namespace: str = "", **_: str) -> AsyncIterator[WatchEvent]:
        while True:
            yield await self._streams[resource].get()

    async def take_turn(self, holder: str) -> Turn:
        return Turn(1)

    async def bind(self, bindings: Sequence[Binding], *, together: bool = False, turn: int = 0) -> BindOutcomes:
        for one in bindings:
            body = self._pods[one.name]
            self._send("MODIFIED", body | {"spec": body["spec"] | {"nodeName": one.node}})
        self._left -= len(bindings)
        if not self._left:
            self.done.set()
        return [None] * len(bindings)

    async def create(self, resource: str, obj: Obj, namespace: str = "", **_: str) -> Obj:
        return obj

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        return list(objects)

    async def patch(self, resource: str, name: str, patch: Any, namespace: str = "", **_: str) -> Obj:
        return {}


def _named(index: int) -> Obj:
    body = pod(f"pod-{index}")
    body["metadata"]["uid"] = f"u{index}"
    return body


async def through_the_shell(nodes: int, pods: int) -> tuple[float, float]:
    """(pods/s, CPU microseconds per pod) from watch event to bind, events and metrics included."""
    client = _Loopback(nodes)

    leading = asyncio.Event()

    async def lead(work: Callable[[], Awaitable[None]]) -> None:
        leading.set()
        await work()

    scheduler = Scheduler(SchedulerConfig(), cast("Client", client), lead, rng=random.Random(1))
    task = asyncio.create_task(scheduler.run())
    await leading.wait()
    bodies = [_named(i) for i in range(pods)]
    wall, cpu = time.perf_counter(), time.process_time()
    for index, body in enumerate(bodies):
        if index % 200 == 199:
            await asyncio.sleep(0)
        client.submit(body)
        client.done.clear()
    await client.done.wait()
    result = pods / (time.perf_counter() - wall), (time.process_time() - cpu) / pods * 1e6
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return result
