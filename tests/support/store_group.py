"""A store of real processes on loopback with TLS between them, for whatever tests want one."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raft.client import StoreClient
from raft.config import CLIENT_ROLE, PEER_ROLE, TlsFiles
from raft.errors import Unavailable
from tests.support.ports import free_ports

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
        patient = {"timeout_s": 60.0, **options}  # processes start slowly on a busy box
        client = StoreClient(endpoints, self.client_tls, prefer=self.endpoint(prefer), **patient)
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


async def eventually(what: Any, timeout_s: float = 60.0) -> Any:
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
