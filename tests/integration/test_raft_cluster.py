"""A store of real processes with TLS between them: what clients were promised holds while members die and return."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raft.client import StoreClient
from raft.config import CLIENT_ROLE, PEER_ROLE, TlsFiles
from raft.errors import Invalid, OutcomeUnknown, StoreError, Unavailable
from raft.transport import Connection, client_context, dial
from raft.wire import Hello

REPOSITORY = Path(__file__).parents[2]


class Pki:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
        self.ca = directory / "ca.crt"
        builder = self._builder(self._name, self._key.public_key())
        certificate = builder.add_extension(x509.BasicConstraints(True, None), True).sign(self._key, hashes.SHA256())
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def issue(self, name: str, role: str) -> TlsFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, role)]
        )
        san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            self._builder(subject, key.public_key()).add_extension(san, False).sign(self._key, hashes.SHA256())
        )
        files = TlsFiles(self.directory / f"{name}.crt", self.directory / f"{name}.key", self.ca)
        files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Group:
    """Members as processes; everything is gone after close."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.settings = settings
        pki = root / "pki"
        pki.mkdir()
        self.pki = Pki(pki)
        self.peer_tls = self.pki.issue("peer", PEER_ROLE)
        self.client_tls = self.pki.issue("client", CLIENT_ROLE)
        ports = free_ports(6)
        self.addresses = {i + 1: ("127.0.0.1", ports[2 * i], ports[2 * i + 1]) for i in range(3)}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.clients: list[StoreClient] = []

    def start(self, member: int, how: str = "create", directory: str = "") -> subprocess.Popen[bytes]:
        host, peer_port, client_port = self.addresses[member]
        files = {"cert": str(self.peer_tls.cert), "key": str(self.peer_tls.key), "ca": str(self.peer_tls.ca)}
        config = {
            "dir": str(self.root / (directory or str(member))),
            "host": host,
            "peer_port": peer_port,
            "client_port": client_port,
            "metrics": None,
            "peer_tls": files,
            how: {"cluster_id": "test", "member_id": member, "members": self.addresses},
            **self.settings,
        }
        path = self.root / f"{member}{directory}.json"
        path.write_text(json.dumps(config))
        log = (self.root / f"{member}.log").open("ab")
        command = [sys.executable, "-m", "raft", "--config", str(path)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        log.close()
        if not directory:
            self.processes[member] = process
        return process

    def kill(self, member: int) -> None:
        process = self.processes.pop(member)
        process.kill()
        process.wait()

    def endpoint(self, member: int) -> tuple[str, int]:
        return ("127.0.0.1", self.addresses[member][2])

    def client(self, prefer: int = 1, **options: Any) -> StoreClient:
        endpoints = [self.endpoint(member) for member in self.addresses]
        client = StoreClient(endpoints, self.client_tls, prefer=self.endpoint(prefer), **options)
        self.clients.append(client)
        return client

    async def leader(self, client: StoreClient) -> int:
        await client.read_index()
        return int((await client.status(self.endpoint(next(iter(self.processes)))))["leader"])

    def log(self, member: int) -> str:
        return (self.root / f"{member}.log").read_text()

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.asynccontextmanager
async def running(root: Path, **settings: Any) -> AsyncIterator[Group]:
    group = Group(root, **settings)
    try:
        for member in group.addresses:
            group.start(member)
        yield group
    finally:
        await group.close()


async def eventually(what: Any, timeout_s: float = 15.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(Unavailable):
            result = await what()
            if result:
                return result
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what.__name__}"
        await asyncio.sleep(0.05)


async def same_everywhere(group: Group, client: StoreClient) -> None:
    """All members come to one state."""

    async def equal() -> bool:
        found = [await client.hash(group.endpoint(member)) for member in group.processes]
        return len({h[:2] for h in found}) == 1

    await eventually(equal)


class Watched:
    """Everything a watch of b"w/" said."""

    def __init__(self, client: StoreClient) -> None:
        self.events: list[tuple[int, bytes, bytes]] = []
        self.revision = 0
        self._task = asyncio.create_task(self._follow(client))

    async def _follow(self, client: StoreClient) -> None:
        async for batch in client.watch(b"w/", b"w0", start_revision=1):
            assert batch.revision > self.revision
            for event in batch.events:
                assert self.revision < event.kv.mod_revision <= batch.revision
                self.events.append((event.kv.mod_revision, event.kv.key, event.kv.value))
            self.revision = batch.revision

    async def up_to(self, revision: int) -> None:
        async def reached() -> bool:
            if self._task.done():
                self._task.result()
            return self.revision >= revision

        await eventually(reached)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))


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
        longest_gap_s = 0.0

        async def writer(number: int) -> None:
            nonlocal longest_gap_s
            mine, i, last = group.client(prefer=others[number % 2]), 0, time.monotonic()
            while not stop.is_set():
                key = b"w/%d/%06d" % (number, i)
                i += 1
                try:
                    acknowledged[key] = await mine.put(key, b"%d" % i)
                except StoreError as error:
                    assert error.code == "outcome_unknown", error
                    unknown.append(key)
                    continue
                longest_gap_s = max(longest_gap_s, time.monotonic() - last)
                last = time.monotonic()

        writers = [asyncio.create_task(writer(n)) for n in range(4)]
        await asyncio.sleep(0.7)
        group.kill(leader)
        before = len(acknowledged)
        await asyncio.sleep(3)
        stop.set()
        await asyncio.gather(*writers)
        assert len(acknowledged) > before + 10
        assert longest_gap_s < 2.5, f"no write for {longest_gap_s:.2f} s"

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

        kept, dropped = await client.lease_grant(1), await client.lease_grant(1)
        await client.put(b"kept", b"", kept)
        await client.put(b"dropped", b"", dropped)
        until = time.monotonic() + 3.5
        while time.monotonic() < until:
            assert await client.lease_keep_alive(kept) == 1
            await asyncio.sleep(0.3)
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
            await group.client(timeout_s=0.5).member_promote(new)
        group.start(new, "join")

        members = await group.client(timeout_s=15).member_promote(new)
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
        process = group.processes.pop(other)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        await client.put(b"k", b"go on")
        assert time.monotonic() - began < 2
        assert process.wait(10) == 0
        assert "stopped" in group.log(other)


async def test_frozen_leader_is_replaced_and_comes_back_harmless(tmp_path: Path) -> None:
    """As with a lost power or link: no FIN, no RST, only silence."""
    async with running(tmp_path) as group:
        client = group.client(timeout_s=20)
        await client.put(b"k", b"0")
        leader = await group.leader(client)
        stale = group.client(prefer=leader)
        assert (await stale.range(b"k")).kvs[0].value == b"0"
        group.processes[leader].send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with contextlib.suppress(OutcomeUnknown):
                await client.put(b"lost", b"")
            await client.put(b"k", b"1")
            assert time.monotonic() - began < 6
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
    async with asyncio.timeout(5):
        await closed.wait()
    return str(said)
