"""The same store on the engine raftos: the same interface keeps its promises as long as nothing loses power.

What raftos cannot keep is not tested away here: tests/safety shows it, beside the native engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from raft.client import StoreClient
from raft.errors import OutcomeUnknown, StoreError
from tests.support.store_group import Group, Watched, eventually, running, same_everywhere


@contextlib.asynccontextmanager
async def raftos_group(root: Path) -> AsyncIterator[Group]:
    key = root / "shared.key"
    key.write_bytes(os.urandom(32))
    async with running(root, engine="raftos", raftos_key=str(key)) as group:
        yield group


async def put(client: StoreClient, key: bytes, value: bytes) -> int:
    """Until it is known to be done, as the value is always the same."""
    while True:
        with contextlib.suppress(OutcomeUnknown):
            return await client.put(key, value)


async def test_the_store_s_interface_on_raftos(tmp_path: Path) -> None:
    async with raftos_group(tmp_path) as group:
        client = group.client(prefer=3, timeout_s=30)
        watched = Watched(group.client(prefer=2, timeout_s=30))
        assert (await client.txn([(b"k", "create", "=", 0)], [("put", b"k", b"1\n2", 0)])).succeeded
        lost = await client.txn([(b"k", "create", "=", 0)], [("put", b"k", b"2", 0)], [("range", b"k", None, 0)])
        assert (lost.succeeded, lost.responses[0][1][0].value) == (False, b"1\n2")

        # Concurrent callers share entries, every one of them is answered, and each member serves what was acknowledged.
        revisions = await asyncio.gather(*(client.put(b"w/%03d" % i, b"%d" % i) for i in range(300)))
        assert sorted(revisions) == list(range(min(revisions), min(revisions) + 300))
        for member in group.addresses:
            assert (await group.client(prefer=member, timeout_s=30).range(b"w/", b"w0")).count == 300
        await watched.up_to(max(revisions))
        assert sorted(key for _, key, _ in watched.events) == [b"w/%03d" % i for i in range(300)]
        await watched.close()

        kept, dropped = await client.lease_grant(2), await client.lease_grant(1)
        await client.put(b"kept", b"", kept)
        await client.put(b"dropped", b"", dropped)

        async def one_expired() -> bool:
            await client.lease_keep_alive(kept)
            return (await client.range(b"dropped")).count == 0

        await eventually(one_expired)
        assert (await client.range(b"kept")).count == 1

        # Larger than a datagram: taken if it compresses, else refused by name, and nothing is changed.
        assert await client.put(b"text", b"kind: ConfigMap\n" * 8000) > 0
        with pytest.raises(StoreError, match="etcdserver: request is too large") as too_large:
            await client.put(b"noise", os.urandom(100_000))
        assert too_large.value.code == "too_large"
        await client.compact(max(revisions))
        with pytest.raises(StoreError) as compacted:
            await client.range(b"k", revision=2)
        assert compacted.value.code == "compacted"
        with pytest.raises(StoreError, match="members are fixed"):
            await client.member_add(4, ("127.0.0.1", 1, 2))
        await same_everywhere(group, client)


async def test_raftos_survives_kills_of_its_processes(tmp_path: Path) -> None:
    """SIGKILL keeps what was written, synced or not: that much raftos can do."""
    async with raftos_group(tmp_path) as group:
        client = group.client(timeout_s=40)
        acknowledged = {b"a/%d" % i: await client.put(b"a/%d" % i, b"x") for i in range(20)}
        leader = await group.leader(client)
        group.kill(leader)
        await put(client, b"after", b"")
        group.start(leader)
        await same_everywhere(group, client)

        for member in list(group.processes):
            group.kill(member)
        for member in group.addresses:
            group.start(member)
        await put(client, b"again", b"")
        stored = {kv.key: kv.mod_revision for kv in (await client.range(b"a/", b"a0")).kvs}
        assert stored == acknowledged
        await same_everywhere(group, client)


async def test_a_directory_belongs_to_the_engine_that_wrote_it(tmp_path: Path) -> None:
    async with raftos_group(tmp_path) as group:
        client = group.client(timeout_s=30)
        await put(client, b"k", b"")
        group.kill(1)
        group.settings = {}
        process = group.start(1)
        assert await asyncio.to_thread(process.wait, 60) == 1
        assert "was written by the engine raftos" in group.log(1)

    root = tmp_path / "native"
    root.mkdir()
    async with running(root) as native:
        await native.client(timeout_s=30).put(b"k", b"")
        native.kill(2)
        native.settings = {"engine": "raftos", "raftos_key": str(tmp_path / "shared.key")}
        process = native.start(2)
        assert await asyncio.to_thread(process.wait, 60) == 1
        assert "was written by the engine native" in native.log(2)
