"""A small store in this process, and a snapshot of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from raft.backup.file import SnapshotStatus, describe
from raft.client import StoreClient
from raft.client_backup import save_snapshot
from raft.config import Address
from raft.server import StateConfig, StateServer, create_member
from tests.support.ports import free_ports


def addresses(*members: int) -> dict[int, Address]:
    ports = free_ports(2 * len(members))
    return {member: ("127.0.0.1", ports[2 * i], ports[2 * i + 1]) for i, member in enumerate(members)}


@contextlib.asynccontextmanager
async def serving(root: Path, members: dict[int, Address]) -> AsyncIterator[StoreClient]:
    servers = [
        StateServer(
            StateConfig(dir=root / str(m), host=host, peer_port=peer, client_port=client, metrics=None, tick_ms=10)
        )
        for m, (host, peer, client) in members.items()
    ]
    tasks = [asyncio.create_task(server.run()) for server in servers]
    store = StoreClient([(host, client) for host, _, client in members.values()], timeout_s=60)
    try:
        yield store
    finally:
        await store.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def one(root: Path) -> AsyncIterator[StoreClient]:
    members = addresses(1)
    create_member(root / "1", "old", 1, members)
    async with serving(root, members) as store:
        yield store


async def saved(root: Path, keys: int = 50) -> tuple[Path, SnapshotStatus]:
    """A snapshot with a lease, a deleted key and an alarm's worth of history."""
    path = root / "saved.db"
    async with one(root) as store:
        lease = await store.lease_grant(3600)
        await store.put(b"leased", b"", lease)
        for i in range(keys):
            await store.put(b"k/%03d" % i, b"v%d" % i)
        await store.put(b"drop/me", b"")
        await store.delete(b"k/000")
        digest, revision, _, _ = await store.hash(store.endpoints[0])
        await save_snapshot(store.endpoints[0], path)
    status = describe(path)
    assert (status.hash, status.revision, status.keys, status.leases) == (digest, revision, keys + 1, 1)
    return path, status
