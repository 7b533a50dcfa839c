"""A caller's deadline on the store's client: nothing is sent past it, and a write under way by then is unknown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raft.errors import DeadlineExceeded, OutcomeUnknown
from raft.faults import Faults
from tests.unit.raft_server.test_one_member import One, serving


async def test_past_its_deadline_nothing_is_sent(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    async with serving(one):
        client = one.client()
        await client.put(b"before", b"")
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded, match="context deadline exceeded"):
            await client.txn([], [("put", b"late", b"", 0)], deadline=now - 0.001)
        with pytest.raises(DeadlineExceeded):
            await client.range(b"before", deadline=now - 0.001)
        assert not (await client.range(b"late")).kvs


async def test_a_write_under_way_at_its_deadline_has_an_unknown_outcome(tmp_path: Path) -> None:
    faults = Faults()
    one = One(tmp_path / "m", faults=faults)
    async with serving(one):
        client = one.client()
        await client.put(b"before", b"")
        faults.add("delay", "wal.fsync", delay_s=0.5)
        deadline = asyncio.get_running_loop().time() + 0.1
        with pytest.raises(OutcomeUnknown):
            await client.txn([], [("put", b"k", b"v", 0)], deadline=deadline)
        faults.clear()
        async with asyncio.timeout(20):
            while not (await client.range(b"k")).kvs:
                await asyncio.sleep(0.01)


async def test_a_deadline_passes_while_no_member_answers(tmp_path: Path) -> None:
    client = One(tmp_path / "m").client()  # nobody serves
    deadline = asyncio.get_running_loop().time() + 0.2
    with pytest.raises(DeadlineExceeded):
        await client.txn([], [("put", b"k", b"v", 0)], deadline=deadline)
    with pytest.raises(DeadlineExceeded):
        await client.range(b"k", deadline=deadline + 0.1)
    await client.close()
