"""More watches than one connection may hold, whose member dies: each hears of its own key, once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raft.client import StoreClient
from raft.errors import OutcomeUnknown
from tests.support.store_group import eventually, running

WATCHES, WRITTEN = 12_000, 600


def key(number: int) -> bytes:
    return b"watched/%05d" % number


class Watches:
    def __init__(self, clients: list[StoreClient], start_revision: int) -> None:
        self.heard: dict[int, list[int]] = {}
        """By watch, the revisions of the events of its key."""
        self._tasks = [
            asyncio.create_task(self._follow(clients[n % len(clients)], n, start_revision)) for n in range(WATCHES)
        ]

    async def _follow(self, client: StoreClient, number: int, start_revision: int) -> None:
        async for batch in client.watch(key(number), None, start_revision=start_revision):
            for event in batch.events:
                assert event.kv.key == key(number)
                self.heard.setdefault(number, []).append(event.kv.mod_revision)

    async def hear(self, expected: dict[int, list[int]]) -> None:
        async def heard() -> bool:
            return all(len(self.heard.get(n, ())) >= len(revisions) for n, revisions in expected.items())

        await eventually(heard, 240)
        assert self.heard == expected

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert {type(result) for result in ended} == {asyncio.CancelledError}


async def write_all(client: StoreClient, numbers: range, written: dict[int, list[int]]) -> None:
    async def write(number: int) -> None:
        written.setdefault(number, []).append(await client.put(key(number), b""))

    await asyncio.gather(*(write(number) for number in numbers))


async def writes_again(client: StoreClient) -> bool:
    try:
        return bool(await client.put(b"led", b""))
    except OutcomeUnknown:
        return False


@pytest.mark.timeout(600)
async def test_twelve_thousand_watches_outlive_their_member(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        writer = group.client()
        first = await writer.put(b"ready", b"")
        leader = await group.leader(writer)
        clients = [group.client(prefer=leader) for _ in range(3)]
        watches = Watches(clients, first + 1)
        written: dict[int, list[int]] = {}
        every = WATCHES // WRITTEN
        await write_all(writer, range(0, WATCHES, every), written)
        await watches.hear(written)

        group.kill(leader)
        await eventually(lambda: writes_again(writer))
        await write_all(writer, range(1, WATCHES, every), written)
        await watches.hear(written)
        await watches.close()
