"""Members that differ, and space that runs out: alarms for the whole group, what they forbid, and how they go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raft.client import StoreClient
from raft.config import Address
from raft.corruption import CorruptionCheck
from raft.errors import StoreError
from raft.server import StateConfig, StateServer, create_member
from raft.storage.backend_lmdb import LmdbBackend
from tests.support.eventually import until
from tests.support.ports import free_ports


class Group:
    def __init__(self, root: Path, size: int, **settings: Any) -> None:
        ports = free_ports(2 * size)
        self.members: dict[int, Address] = {i + 1: ("127.0.0.1", ports[2 * i], ports[2 * i + 1]) for i in range(size)}
        self.servers: dict[int, StateServer] = {}
        for member, (host, peer, client) in self.members.items():
            create_member(root / str(member), "alarms", member, self.members)
            self.servers[member] = StateServer(
                StateConfig(
                    dir=root / str(member),
                    host=host,
                    peer_port=peer,
                    client_port=client,
                    **{"metrics": None, "tick_ms": 20, "corrupt_check_s": 0, **settings},
                )
            )
        self.store = StoreClient([(host, client) for host, _, client in self.members.values()])

    def leader(self) -> StateServer:
        for server in self.servers.values():
            if server.member is not None and server.member.consensus.is_leader:
                return server
        raise AssertionError("nobody leads")

    async def corrupt(self, member: int) -> None:
        """One record of this member reads otherwise from now on."""
        found = self.servers[member].member
        assert found is not None
        backend = found.backend
        assert isinstance(backend, LmdbBackend)
        await until(lambda: bool(backend.scan(0, 1 << 62, 1)))  # it may be a little behind
        pos, record = backend.scan(0, 1 << 62, 1)[0]
        backend.put(pos, record[:-1] + b"X")


@contextlib.asynccontextmanager
async def running(root: Path, size: int = 3, **settings: Any) -> AsyncIterator[Group]:
    group = Group(root, size, **settings)
    tasks = [asyncio.create_task(server.run()) for server in group.servers.values()]
    try:
        await group.store.read_index()
        yield group
    finally:
        await group.store.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def check(group: Group) -> dict[int, int]:
    member = group.leader().member
    assert member is not None
    return await CorruptionCheck(member, 0).check()


async def test_members_that_agree_raise_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        await asyncio.gather(*(group.store.put(b"k/%d" % (i % 600), b"%d" % i) for i in range(700)))
        hashes = await check(group)
        assert set(hashes) == {1, 2, 3} and len(set(hashes.values())) == 1
        assert await group.store.alarm_list() == []


async def test_members_measure_each_other(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        await group.store.put(b"k", b"value" * 100)
        server = group.leader()
        assert server.member is not None
        links = dict(server.member.peers.links())

        def measured() -> dict[str, float]:
            families = list(server.metrics.registry.collect())
            samples = [sample for family in families for sample in family.samples]
            return {f"{s.name}{sorted(s.labels.items())}": s.value for s in samples}

        def both() -> bool:
            found = measured()
            counts = [found.get(f"etcd_network_peer_round_trip_time_seconds_count[('To', '{p:x}')]", 0) for p in links]
            sent = [found[f"etcd_network_peer_sent_bytes_total[('To', '{p:x}')]"] for p in links]
            return len(links) == 2 and min(counts) >= 1 and min(sent) > 500

        await until(both)


async def test_a_member_that_differs_stops_the_writes(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        lease = await group.store.lease_grant(60)
        await group.store.put(b"k", b"value", lease)
        await group.store.put(b"other", b"value")
        leader = group.leader().member
        assert leader is not None
        wrong = next(m for m in group.members if m != leader.id)
        await group.corrupt(wrong)
        hashes = await check(group)
        assert len({hashes[m] for m in hashes if m != wrong}) == 1 != len(set(hashes.values()))
        assert await group.store.alarm_list() == [(wrong, "CORRUPT")]
        assert group.leader().health()["reason"] == "ALARM CORRUPT"
        for refused in (
            group.store.put(b"k", b""),
            group.store.delete(b"k"),
            group.store.txn([(b"k", "version", ">", 0)], [("range", b"k", None, 0)], [("delete", b"k", None)]),
            group.store.lease_grant(5),
            group.store.lease_revoke(lease),
            group.store.compact(2),
        ):
            with pytest.raises(StoreError, match="etcdserver: corrupt cluster") as corrupt:
                await refused
            assert corrupt.value.code == "corrupt_cluster"
        # Reading goes on, and so does everything once somebody has looked.
        assert (await group.store.range(b"k")).count == 1
        assert (await group.store.txn([], [("range", b"k", None, 0)])).responses[0][2] == 1
        assert await group.store.lease_keep_alive(lease) == 60
        assert await group.store.alarm_disarm() == []
        await group.store.put(b"k", b"")


async def test_when_no_majority_agrees_everybody_is_suspect(tmp_path: Path) -> None:
    async with running(tmp_path) as group:
        await group.store.put(b"a", b"value")
        leader = group.leader().member
        assert leader is not None
        gone = next(m for m in group.members if m != leader.id)
        other = next(m for m in group.members if m not in (leader.id, gone))
        await group.corrupt(other)
        # Two answer, and they differ: which of them is right, nobody can say.
        server = group.servers[gone]
        assert server.member is not None
        peers = server._peers
        assert peers is not None
        await peers.close()
        await check(group)
        assert await group.store.alarm_list() == sorted([(leader.id, "CORRUPT"), (other, "CORRUPT")])


async def test_the_leader_looks_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path, corrupt_check_s=0.2) as group:
        await group.store.put(b"k", b"value")
        await group.corrupt(2)
        member = group.leader().member
        assert member is not None
        await until(lambda: bool(member.applier.alarms))
        assert await group.store.alarm_list() == [(2, "CORRUPT")]


async def test_space_comes_back_by_itself(tmp_path: Path) -> None:
    """Written, deleted and compacted over and over: the file stops growing, and the quota is never reached."""
    quota = 2 << 20
    async with running(
        tmp_path, 1, quota_backend_bytes=quota, auto_compaction_retention_s=0, flush_interval_s=0.02
    ) as group:
        server = group.leader()
        member = server.member
        assert member is not None
        sizes = []
        for _ in range(12):
            # 2,100 bytes take a page of 4,096 each.
            await asyncio.gather(*(group.store.put(b"k/%d" % i, b"v" * 2100) for i in range(250)))
            await until(lambda: member.space_in_use() > 250 * 4096)
            await group.store.delete(b"k/", b"k0")
            await group.store.compact(await group.store.read_index())
            await until(lambda: member.space_in_use() < 200_000)
            sizes.append(member.backend.size_bytes())
        assert await group.store.alarm_list() == []
        assert max(sizes) <= 2 * quota and max(sizes[6:]) <= max(sizes[:6]) * 1.25


async def test_pages_count_against_the_quota_not_bytes_alone(tmp_path: Path) -> None:
    async with running(tmp_path, 1, quota_backend_bytes=1 << 20, flush_interval_s=0.02) as group:
        member = group.leader().member
        assert member is not None
        with pytest.raises(StoreError, match="database space exceeded"):
            for i in range(450):  # 945,000 bytes of values, but 1.8 MB of pages
                await group.store.put(b"k/%d" % i, b"v" * 2100)
                if i % 50 == 0:
                    await asyncio.sleep(0.05)
        assert member.store.bytes_in_use < 1 << 20
