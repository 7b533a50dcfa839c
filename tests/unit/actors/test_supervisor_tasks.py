"""The leader's tasks go on after errors: nobody starts the actor again while Ray's head is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import orjson

from actors.members import Supervisor, ask_to_join, keep_running
from actors.ray_head import RayHeadWatch
from cluster.machinery.election import Elector
from cluster.registry.keys import MEMBER_REQUESTS
from cluster.registry.store import put
from raft.backup.keeper import SnapshotKeeper
from raft.errors import Compacted
from tests.support.eventually import until_then_end
from tests.support.memory_store import MemoryStore


class Members(MemoryStore):
    """Its first watch breaks."""

    watched = 0

    def watch(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self.watched += 1
        if self.watched == 1:
            raise Compacted(1, 2)
        return super().watch(*args, **kwargs)


class FakeTask:
    """A task of the leader whose first run ends with an error nobody thought of."""

    def __init__(self) -> None:
        self.runs = 0

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise KeyError("nobody thought of it")
        await asyncio.Event().wait()


async def test_neither_a_broken_watch_nor_a_task_that_fails_ends_the_others() -> None:
    store, snapshots, ray_head = Members(), FakeTask(), FakeTask()
    await store.txn([], [put(MEMBER_REQUESTS + b"10.0.0.2", b"no JSON")])
    supervisor = Supervisor(
        cast(Any, store),
        cast(Elector, None),
        2380,
        2379,
        cast(SnapshotKeeper, snapshots),
        cast(RayHeadWatch, ray_head),
    )
    task = asyncio.create_task(supervisor._lead())
    await until_then_end(lambda: store.watched >= 2 and snapshots.runs >= 2 and ray_head.runs >= 2, task)


async def test_a_request_that_cannot_be_read_is_written_anew() -> None:
    store = Members()
    key = MEMBER_REQUESTS + b"10.0.0.2"
    await store.txn([], [put(key, b"[]")])
    task = asyncio.create_task(ask_to_join(cast(Any, store), "10.0.0.2"))
    await until_then_end(lambda: store._live[key].value != b"[]", task)
    assert orjson.loads(store._live[key].value)["nonce"]


async def test_cancelling_ends_a_task() -> None:
    task = asyncio.create_task(keep_running("t", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled()
