"""Nothing waits without bound: a member refuses what is too much, a client says so in time, a slow reader resyncs."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from raft import client_watch, consensus
from raft.errors import TooManyRequests
from raft.faults import Faults
from tests.unit.raft_server.test_one_member import One, serving


async def test_writes_beyond_the_limit_are_refused_and_the_rest_is_done(tmp_path: Path) -> None:
    faults = Faults()
    one = One(tmp_path / "m", faults=faults, max_pending=8)
    async with serving(one):
        client = one.client(timeout_s=60.0)
        await client.put(b"before", b"")
        faults.add("delay", "wal.fsync", delay_s=3.0)
        names = [b"k%02d" % i for i in range(20)]
        results = await asyncio.gather(*(client.put(name, b"") for name in names), return_exceptions=True)
        refused = {name for name, result in zip(names, results, strict=True) if isinstance(result, TooManyRequests)}
        done = {name for name, result in zip(names, results, strict=True) if isinstance(result, int)}
        assert refused and done and refused | done == set(names)
        faults.clear()
        found = {kv.key for kv in (await client.range(b"k", b"l")).kvs}
        assert found == done, "what was refused must not be there, what was acknowledged must"


async def test_a_member_that_is_behind_in_applying_accepts_nothing_until_it_has_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = One(tmp_path / "m")
    async with serving(one) as server:
        client = one.client()
        await client.put(b"before", b"")
        assert server.member is not None
        refused = server.member.consensus.refused
        monkeypatch.setattr(consensus, "APPLY_LAG_ENTRIES", -1)
        with pytest.raises(TooManyRequests):
            await client.put(b"k", b"")
        assert server.member.consensus.refused > refused
        monkeypatch.undo()
        assert not (await client.range(b"k")).kvs
        await client.put(b"k", b"")


async def test_a_reader_that_falls_behind_is_resumed_from_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_watch, "BUFFER_EVENTS", 10)
    one = One(tmp_path / "m")
    async with serving(one):
        client = one.client()
        async with contextlib.aclosing(client.watch(b"k", b"l", start_revision=1)) as watch:  # type: ignore[type-var]
            await client.put(b"k", b"")
            assert (await anext(watch)).revision >= 1
            wanted = [await client.put(b"k", b"%d" % i) for i in range(100)]  # nobody reads meanwhile
            seen: list[int] = []
            async with asyncio.timeout(20):
                while len(seen) < len(wanted):
                    batch = await anext(watch)
                    seen += [event.kv.mod_revision for event in batch.events if event.kv.mod_revision >= wanted[0]]
            assert seen == wanted
