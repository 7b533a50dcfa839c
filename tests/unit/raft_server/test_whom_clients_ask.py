"""Of whom a client asks the read index: members that say what the test wants, on loopback without TLS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from raft import client_calls
from raft.client import StoreClient
from raft.errors import NotLeader, TooManyRequests
from raft.transport import Connection, Listener
from raft.wire import Hello, error_result
from tests.support.ports import free_ports

REVISION = 7


class Said:
    """One member. ``silent``: it takes questions for the read index and answers none of them; ``busy``: it refuses
    them."""

    def __init__(self) -> None:
        self.endpoint = ("127.0.0.1", free_ports(1)[0])
        self.leader: tuple[str, int] | None = None
        self.asked: list[str] = []
        self.silent = self.busy = False
        self.listener = Listener(
            self._accept,
            role="client",
            purposes=("client",),
            cluster_id="c",
            member_id=1,
            on_refused=lambda _: None,
            max_connections=9,
        )

    def _accept(self, connection: Connection, _hello: Hello) -> None:
        connection.on_frame = lambda requests: self._answer(connection, requests)

    def _answer(self, connection: Connection, requests: list[Any]) -> None:
        for request_id, operation, *_ in requests:
            if operation != "ping":
                self.asked.append(operation)
            if self.silent and operation == "read_index":
                continue
            connection.send([self._result(request_id, operation)])

    def _result(self, request_id: int, operation: str) -> list[Any]:
        if operation == "txn":
            if self.leader is not None:
                return [request_id, False, error_result(NotLeader(2), self.leader)]
            return [request_id, True, [True, REVISION, [["put", None]]]]
        if self.busy and operation == "read_index":
            return [request_id, False, error_result(TooManyRequests())]
        return [request_id, True, REVISION]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy box must not look like a leader that is silent."""
    monkeypatch.setattr(client_calls, "LEADER_S", 600.0)


@contextlib.asynccontextmanager
async def follower_and_leader() -> AsyncIterator[tuple[Said, Said, StoreClient]]:
    """The follower is preferred, and nobody has told the client yet who leads."""
    follower, leader = Said(), Said()
    follower.leader = leader.endpoint
    client = StoreClient([follower.endpoint, leader.endpoint], timeout_s=60)
    try:
        for member in (follower, leader):
            await member.listener.start(*member.endpoint, None)
        yield follower, leader, client
    finally:
        await client.close()
        for member in (follower, leader):
            await member.listener.close()


async def test_the_leader_once_a_write_has_found_it() -> None:
    async with follower_and_leader() as (follower, leader, client):
        assert await client.read_index() == REVISION
        assert (follower.asked, leader.asked) == (["read_index"], [])
        await client.put(b"k", b"v")
        assert await client.read_index() == REVISION
        assert (follower.asked, leader.asked) == (["read_index", "txn"], ["txn", "read_index"])


async def test_the_preferred_member_for_the_sake_of_its_watches() -> None:
    """Only the member that a watch is on can tell it how far it is."""
    async with follower_and_leader() as (follower, leader, client):
        await client.put(b"k", b"v")
        assert await client.read_index(tell_watches=True) == REVISION
        assert (follower.asked, leader.asked) == (["txn", "read_index"], ["txn"])
        assert await client.read_index() == REVISION  # others still ask the leader
        assert leader.asked == ["txn", "read_index"]


async def test_the_preferred_member_when_the_leader_went_away() -> None:
    async with follower_and_leader() as (follower, leader, client):
        await client.put(b"k", b"v")
        await leader.listener.close()
        assert await client.read_index() == REVISION
        assert follower.asked == ["txn", "read_index"]


async def test_the_preferred_member_when_the_leader_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_calls, "LEADER_S", 0.02)
    async with follower_and_leader() as (follower, leader, client):
        await client.put(b"k", b"v")
        leader.silent = True
        assert await client.read_index() == REVISION
        assert (follower.asked, leader.asked) == (["txn", "read_index"], ["txn", "read_index"])
        assert await client.read_index() == REVISION  # it is not waited for again
        assert leader.asked == ["txn", "read_index"]


async def test_the_leader_again_once_a_write_has_found_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with follower_and_leader() as (_follower, leader, client):
        await client.put(b"k", b"v")
        leader.silent = True
        with monkeypatch.context() as impatient:
            impatient.setattr(client_calls, "LEADER_S", 0.02)
            assert await client.read_index() == REVISION
        leader.silent = False
        await client.put(b"k", b"v")
        assert await client.read_index() == REVISION
        assert leader.asked[-2:] == ["txn", "read_index"]


async def test_a_leader_that_is_busy_is_asked_again() -> None:
    async with follower_and_leader() as (follower, leader, client):
        await client.put(b"k", b"v")
        leader.busy = True
        assert await client.read_index() == REVISION
        assert follower.asked[-1] == "read_index"
        leader.busy = False
        assert await client.read_index() == REVISION
        assert leader.asked[-1] == "read_index" and follower.asked.count("read_index") == 1


async def test_a_leader_found_meanwhile_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one is silent, and points writes to the next; whoever still waits for it learns of that later."""
    async with follower_and_leader() as (_follower, old, client):
        await client.put(b"k", b"v")
        new = Said()
        await new.listener.start(*new.endpoint, None)
        try:
            old.silent, old.leader = True, new.endpoint
            with monkeypatch.context() as impatient:
                impatient.setattr(client_calls, "LEADER_S", 0.5)
                asking = asyncio.create_task(client.read_index())
                await asyncio.sleep(0)
            await client.put(b"k", b"v")
            assert await asking == REVISION
            assert await client.read_index() == REVISION
            assert new.asked == ["txn", "read_index"]
        finally:
            await new.listener.close()
