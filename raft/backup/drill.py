"""A fire drill: found a group of its own on a snapshot, and see whether everything is there. IO on the event loop.

The group lives in this process, on free loopback ports and in a scratch directory, without TLS; it has new ids, meets
nobody, and is gone afterwards. What is compared: the hash of every member's records, read again from its disk at the
snapshot's revision, with the hash that the snapshot was stored with.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from raft.backup.file import SnapshotStatus, describe, restore
from raft.client import StoreClient
from raft.config import Address
from raft.errors import Corrupt
from raft.server import StateConfig, StateServer

CLUSTER_ID = "drill"
START_S = 120.0


@dataclass(frozen=True, slots=True)
class Drill:
    """``hashes`` by member; all are ``snapshot.hash``. ``serving_s``: from the file to a leader that answers."""

    snapshot: SnapshotStatus
    hashes: dict[int, int]
    serving_s: float


async def drill(
    path: Path, scratch: Path, *, members: int = 3, say: Callable[[str], None] = lambda text: None
) -> Drill:
    """Raises Corrupt if a member has other contents than the snapshot, and what ``describe`` raises."""
    say("checking the file")
    status = await asyncio.to_thread(describe, path)
    began = time.monotonic()
    group = _addresses(status.greatest_id + 1, members)
    for i, member in enumerate(group):
        say(f"restoring member {i + 1} of {members}")
        await asyncio.to_thread(restore, path, scratch / str(member), CLUSTER_ID, member, group)
    say("starting the group")
    async with _serving(scratch, group) as store:
        revision = await store.read_index()
        serving_s = time.monotonic() - began
        if revision < status.revision:
            raise Corrupt(f"the restored group is at revision {revision}, the snapshot at {status.revision}")
        say("comparing hashes")
        hashes = {}
        for member, (host, _, port) in group.items():
            hashes[member] = (await store.hash_kv((host, port), status.revision))[0]
    wrong = [member for member, digest in hashes.items() if digest != status.hash]
    if wrong:
        raise Corrupt(f"members {wrong} of the restored group hash to other values than the snapshot: {hashes}")
    return Drill(status, hashes, serving_s)


def _addresses(first: int, count: int) -> dict[int, Address]:
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2 * count):
            listening = stack.enter_context(socket.socket())
            listening.bind(("127.0.0.1", 0))
            ports.append(int(listening.getsockname()[1]))
    return {first + i: ("127.0.0.1", ports[2 * i], ports[2 * i + 1]) for i in range(count)}


@contextlib.asynccontextmanager
async def _serving(scratch: Path, group: dict[int, Address]) -> AsyncIterator[StoreClient]:
    servers = [
        StateServer(
            StateConfig(
                dir=scratch / str(member),
                host=host,
                peer_port=peer_port,
                client_port=client_port,
                metrics=None,
                # Nothing may be compacted away before it is compared.
                auto_compaction_retention_s=0,
            )
        )
        for member, (host, peer_port, client_port) in group.items()
    ]
    tasks = [asyncio.create_task(server.run()) for server in servers]
    store = StoreClient([(host, port) for host, _, port in group.values()], timeout_s=START_S)
    serving = asyncio.create_task(store.read_index())
    try:
        await asyncio.wait([serving, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # it could not start: why
        await serving
        yield store
    finally:
        serving.cancel()
        await store.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(serving, *tasks, return_exceptions=True)
