"""A store of real processes with TLS between them: what clients were promised holds while members die and return."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raft.config import CLIENT_ROLE, PEER_ROLE
from raft.errors import Invalid, OutcomeUnknown, StoreError, Unavailable
from raft.transport import Connection, client_context, dial
from raft.wire import Hello
from tests.support.ports import free_ports
from tests.support.store_group import REPOSITORY, Watched, eventually, running, same_everywhere


async def test_leader_is_killed_while_clients_write(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        client = group.client()
        assert await client.put(b"hello", b"1") == 2
        leader = await group.leader(client)
        others = [member for member in group.addresses if member != leader]
        # The watch hangs on the member that will die; reads go elsewhere.
        watched = Watched(group.client(prefer=leader))
        acknowledged: dict[bytes, int] = {}
        unknown: list[bytes] = []
        stop = asyncio.Event()

        async def writer(number: int) -> None:
            mine, i = group.client(prefer=others[number % 2]), 0
            while not stop.is_set():
                key = b"w/%d/%06d" % (number, i)
                i += 1
                try:
                    acknowledged[key] = await mine.put(key, b"%d" % i)
                except StoreError as error:
                    assert error.code == "outcome_unknown", error
                    unknown.append(key)

        async def acknowledged_more_than(count: int) -> None:
            async with asyncio.timeout(60):
                while len(acknowledged) <= count:
                    await asyncio.sleep(0.02)

        writers = [asyncio.create_task(writer(n)) for n in range(4)]
        await acknowledged_more_than(200)
        group.kill(leader)
        await acknowledged_more_than(len(acknowledged) + 400)
        stop.set()
        await asyncio.gather(*writers)

        # Nothing acknowledged is lost, at the revision that was told.
        reader = group.client(prefer=others[0])
        stored = {kv.key: kv.mod_revision for kv in (await reader.range(b"w/", b"w0")).kvs}
        assert {k: stored.get(k) for k in acknowledged} == acknowledged
        assert set(stored) - set(acknowledged) <= set(unknown)

        # The watch saw every write, once, in order, though its member died.
        revision = await reader.put(b"w/last", b"")
        await watched.up_to(revision)
        assert [e[:2] for e in watched.events] == sorted((r, k) for k, r in {**stored, b"w/last": revision}.items())

        # The dead member comes back and catches up.
        group.start(leader)
        await same_everywhere(group, reader)
        await watched.close()


async def test_transactions_leases_reads_and_restart_of_all(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        client = group.client(prefer=3)
        assert (await client.txn([(b"k", "create", "=", 0)], [("put", b"k", b"1", 0)])).succeeded
        lost = await client.txn([(b"k", "create", "=", 0)], [("put", b"k", b"2", 0)], [("range", b"k", None, 0)])
        assert (lost.succeeded, lost.responses[0][1][0].value) == (False, b"1")
        with pytest.raises(StoreError, match="etcdserver: request is too large") as too_large:
            await client.put(b"big", b"x" * (1536 << 10))
        assert too_large.value.code == "too_large"
        with pytest.raises(StoreError) as no_lease:
            await client.put(b"k", b"", 12345)
        assert no_lease.value.code == "lease_not_found"
        with pytest.raises(StoreError) as future:
            await client.range(b"k", revision=1000)
        assert future.value.code == "future_revision"

        kept, dropped = await client.lease_grant(60), await client.lease_grant(1)
        await client.put(b"kept", b"", kept)
        await client.put(b"dropped", b"", dropped)

        async def is_dropped() -> bool:
            assert await client.lease_keep_alive(kept) == 60
            return not (await client.range(b"dropped")).kvs

        await eventually(is_dropped)
        assert [kv.key for kv in (await client.range(b"\0", b"\0")).kvs] == [b"k", b"kept"]
        with pytest.raises(StoreError) as expired:
            await client.lease_keep_alive(dropped)
        assert expired.value.code == "lease_not_found"

        # A large result arrives whole, though it takes many pages; deletes leave nothing.
        value = b"v" * 40_000
        await asyncio.gather(*(client.put(b"p/%04d" % i, value) for i in range(120)))
        everything = await client.range(b"p/", b"p0")
        assert (len(everything.kvs), everything.count, everything.more) == (120, 120, False)
        page = await client.range(b"p/", b"p0", limit=50, keys_only=True)
        assert (len(page.kvs), page.count, page.more, page.kvs[0].value) == (50, 120, True, b"")
        assert await client.delete(b"p/", b"p0") == 120
        revision = await client.read_index()

        # All killed at once: everything acknowledged is there again.
        for member in list(group.processes):
            group.kill(member)
        for member in group.addresses:
            group.start(member)
        assert (await client.range(b"k")).kvs[0].value == b"1"
        assert await client.read_index() >= revision
        assert len((await client.range(b"p/", b"p0", revision=revision - 1)).kvs) == 120
        await same_everywhere(group, client)


async def test_wiped_member_is_replaced_by_a_learner(tmp_path: Path) -> None:
    settings = {"keep_entries": 20, "snapshot_every": 50, "flush_interval_s": 0.1}
    async with running(tmp_path, **settings) as group:
        client = group.client()
        for i in range(100):
            await client.put(b"a/%d" % (i % 30), b"%d" % i)
        leader = await group.leader(client)
        lost = 2 if leader == 3 else 3
        group.kill(lost)
        for i in range(100):
            await client.put(b"b/%d" % (i % 30), b"%d" % i)

        # Its disk is gone: it may not come back as itself, a new member takes its place.
        await client.member_remove(lost)
        with pytest.raises(Invalid, match="removed for good"):
            await client.member_add(lost, ("127.0.0.1", 1, 2))
        del group.addresses[lost]
        new, ports = 4, free_ports(2)
        group.addresses[new] = ("127.0.0.1", ports[0], ports[1])
        members = await client.member_add(new, group.addresses[new])
        assert (new, group.addresses[new], True) in members
        with pytest.raises(Unavailable, match="in sync with leader"):
            await group.client(timeout_s=5).member_promote(new)
        group.start(new, "join")

        members = await group.client(timeout_s=90).member_promote(new)
        assert (new, group.addresses[new], False) in members and len(members) == 3
        assert "took over the leader's state" in group.log(new)
        await same_everywhere(group, client)

        # It counts: with one of the old members down, writes go on, and it serves reads of old revisions.
        leader = await group.leader(client)
        old = next(member for member in group.processes if member not in (new, leader))
        group.kill(old)
        fresh = group.client(prefer=new)
        revision = await fresh.put(b"after", b"")
        assert (await fresh.range(b"b/", b"b0", revision=revision - 1, serializable=True)).count == 30
        group.kill(new)
        group.start(old)
        group.start(new)
        assert (await client.range(b"after")).count == 1
        await same_everywhere(group, client)


async def test_compaction_and_leadership(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        client = group.client()
        revisions = [await client.put(b"k", b"%d" % i) for i in range(10)]
        await client.compact(revisions[5])
        with pytest.raises(StoreError) as read:
            await client.range(b"k", revision=revisions[4])
        assert read.value.code == "compacted"
        with pytest.raises(StoreError) as watch:
            async for _ in client.watch(b"k", start_revision=revisions[3]):
                pytest.fail("a compacted watch said something")
        assert watch.value.code == "compacted"
        async for batch in client.watch(b"k", start_revision=revisions[5] + 1, prev_kv=True):
            assert [e.kv.value for e in batch.events] == [b"6", b"7", b"8", b"9"]
            assert [e.prev_kv.value for e in batch.events if e.prev_kv] == [b"5", b"6", b"7", b"8"]
            break

        # A graceful stop hands leadership over: nobody waits for an election.
        leader = await group.leader(client)
        other = next(member for member in group.addresses if member != leader)
        await client.transfer_leader(other)
        assert await group.leader(client) == other
        process, before = group.processes.pop(other), len(group.log(other))
        process.send_signal(signal.SIGTERM)
        await client.put(b"k", b"go on")
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert re.search("nobody leads.*stopped", group.log(other)[before:], re.DOTALL), "it saw the next term begin"


async def test_what_a_lease_has_left_survives_the_leader(tmp_path: Path) -> None:
    async with running(tmp_path, lease_checkpoint_s=1) as group:
        client = group.client()
        old, renewed = await client.lease_grant(100), await client.lease_grant(100)

        async def left_s(lease: int) -> float:
            return (await client.lease_time_to_live(lease))[0]

        async def time_has_passed() -> bool:
            return await left_s(old) < 90

        await eventually(time_has_passed, 60)
        group.kill(await group.leader(client))
        # What it has left now is what it had, and the seconds that a checkpoint was old: not its whole time again.
        assert await left_s(old) < 99
        await client.lease_keep_alive(renewed)
        group.start(next(member for member in group.addresses if member not in group.processes))
        await same_everywhere(group, client)
        group.kill(await group.leader(client))
        assert await left_s(renewed) > await left_s(old) + 4, "the renewal took its checkpoint back"


async def test_frozen_leader_is_replaced_and_comes_back_harmless(tmp_path: Path) -> None:
    """As with a lost power or link: no FIN, no RST, only silence."""
    async with running(tmp_path) as group:
        client = group.client()
        await client.put(b"k", b"0")
        leader = await group.leader(client)
        stale = group.client(prefer=leader)
        assert (await stale.range(b"k")).kvs[0].value == b"0"
        group.processes[leader].send_signal(signal.SIGSTOP)
        try:
            with contextlib.suppress(OutcomeUnknown):
                await client.put(b"lost", b"")
            await client.put(b"k", b"1")
        finally:
            group.processes[leader].send_signal(signal.SIGCONT)
        # What the old leader answers now, it answers with the new one's consent.
        assert (await stale.range(b"k")).kvs[0].value == b"1"
        await same_everywhere(group, client)


async def test_one_process_per_directory(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        client = group.client()
        await client.put(b"k", b"")
        first = tmp_path / "1.json"
        command = [sys.executable, "-m", "raft", "--config", str(first)]
        second = await asyncio.to_thread(
            subprocess.run, command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30
        )
        assert second.returncode == 1
        assert "is in use by another process" in second.stderr
        assert group.processes[1].poll() is None
        assert await client.put(b"k", b"") == 3


@contextlib.contextmanager
def refused(match: str) -> Iterator[None]:
    with pytest.raises(StoreError, match=match):
        yield


async def test_wrong_roles_and_bad_frames_change_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        client = group.client()
        await client.put(b"k", b"")
        host, peer_port, client_port = group.addresses[1]
        as_client, as_peer = client_context(group.client_tls), client_context(group.peer_tls)
        strangers = client_context(group.pki.issue("stranger", "system:nodes"))
        every = (PEER_ROLE, CLIENT_ROLE)
        with refused("this port needs sk8:store-peers"):
            await dial(host, peer_port, as_client, Hello("peer", "test", 2), every)
        with refused("this port needs sk8:store-clients"):
            await dial(host, client_port, as_peer, Hello("client", "", 0), every)
        with refused("this port needs sk8:store-clients"):
            await dial(host, client_port, strangers, Hello("client", "", 0), every)
        with refused("has a certificate of role"):
            await dial(host, client_port, as_client, Hello("client", "", 0), ("somebody else",))
        with refused("belongs to cluster test"):
            await dial(host, peer_port, as_peer, Hello("peer", "other", 2), every)
        with refused("closed the connection|cannot reach"):
            await dial(host, client_port, None, Hello("client", "", 0), every)

        for bad, why in (
            (b"\xff\xff\xff\xff", "too large"),
            (b"\x00\x00\x00\x01\xc1", "not msgpack"),
            (b"\x00\x00\x00\x01\x01", "holds a list"),
            (b"\x00\x00\x00\x02\x91\x01", "a request is"),
        ):
            connection, _, _ = await dial(host, client_port, as_client, Hello("client", "", 0), every)
            assert why in await said_after(connection, bad)
        connection, _, _ = await dial(host, peer_port, as_peer, Hello("peer", "test", 2), every)
        assert "malformed message" in await said_after(connection, b"\x00\x00\x00\x02\x91\x01")
        assert await client.put(b"k", b"") == 3
        await same_everywhere(group, client)


async def said_after(connection: Connection, data: bytes) -> str:
    """What the member says to ``data``, before it hangs up."""
    said: list[Any] = []
    closed = asyncio.Event()
    connection.on_frame = said.append
    connection.on_closed = closed.set
    connection.send_bytes(data)
    async with asyncio.timeout(30):
        await closed.wait()
    return str(said)
