"""A watch of what nobody writes, on a follower of three, is told how far it is as soon as its client asks for that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from raft import upkeep
from raft.client import StoreClient
from raft.server import StateConfig, StateServer, create_member
from tests.support.ports import free_ports


@contextlib.asynccontextmanager
async def three(root: Path) -> AsyncIterator[list[tuple[str, int]]]:
    """Members in this process, on loopback without TLS; where their clients find them."""
    ports = free_ports(6)
    members = {number: ("127.0.0.1", ports[2 * number - 2], ports[2 * number - 1]) for number in (1, 2, 3)}
    running = []
    for number, (host, peer_port, client_port) in members.items():
        where = root / str(number)
        create_member(where, "three", number, members)
        config = StateConfig(dir=where, host=host, peer_port=peer_port, client_port=client_port, metrics=None)
        running.append(asyncio.create_task(StateServer(config).run()))
    try:
        yield [(host, client_port) for host, _, client_port in members.values()]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_quiet_watch_on_a_follower_hears_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the leader was asked, which knows nothing of the watch; schedulers' turns took a second."""
    monkeypatch.setattr(upkeep, "PROGRESS_S", 3600.0)
    async with three(tmp_path) as endpoints, contextlib.AsyncExitStack() as clients:
        first = StoreClient(endpoints, timeout_s=60)
        clients.push_async_callback(first.close)
        await first.put(b"quiet", b"")
        leader = int((await first.status(endpoints[0]))["leader"])
        client = StoreClient(endpoints, prefer=endpoints[leader % 3], timeout_s=60)
        clients.push_async_callback(client.close)
        watch = client.watch(b"quiet", start_revision=1)
        assert len((await anext(watch)).events) == 1
        revision = await client.put(b"other", b"")

        async def told() -> None:
            async for batch in watch:
                if batch.revision >= revision:
                    return

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            hears = tasks.create_task(told())
            while not hears.done():
                await client.read_index(tell_watches=True)
                await asyncio.sleep(0.01)
