"""An API server on loopback over the in-memory store, with certificates of its own, for tests of the edge."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yarl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.apiserver.config import ApiServerConfig
from cluster.apiserver.server import ApiServer
from cluster.registry.rbac import RbacAuthorizer
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from tests.support.memory_store import MemoryStore

_DAY = datetime.timedelta(days=1)


def _pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Pki:
    """A CA and what it signed, as files in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
        ca = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._write("ca", ca.sign(self._key, hashes.SHA256()), self._key)
        self.issue("server", "kube-apiserver", server=True)
        self.issue("admin", "admin", ("system:masters",))
        self.issue("kubelet-client", "kube-apiserver-kubelet-client", ("sk8:apiservers",))
        self.issue("front-proxy", "front-proxy-client")
        account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (root / "sa.key").write_bytes(_pem(account))
        public = account.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (root / "sa.pub").write_bytes(public)

    def _builder(self, subject: x509.Name, public: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 2 * _DAY)
        )

    def _write(self, name: str, cert: x509.Certificate, key: Any) -> None:
        (self.root / f"{name}.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        (self.root / f"{name}.key").write_bytes(_pem(key))

    def issue(self, name: str, cn: str, groups: tuple[str, ...] = (), *, server: bool = False) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, cn)]
        attributes += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = self._builder(x509.Name(attributes), key.public_key()).add_extension(
            x509.ExtendedKeyUsage(usages), critical=False
        )
        if server:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._write(name, builder.sign(self._key, hashes.SHA256()), key)

    def path(self, name: str) -> str:
        return str(self.root / name)

    def client_context(self, name: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.path("ca.crt"))
        if name:
            context.load_cert_chain(self.path(f"{name}.crt"), self.path(f"{name}.key"))
        return context

    def server_context(self) -> ssl.SSLContext:
        """For a stand-in kubelet that demands the API server's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path("server.crt"), self.path("server.key"))
        context.load_verify_locations(self.path("ca.crt"))
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def config(self, **settings: Any) -> ApiServerConfig:
        base = ApiServerConfig(
            tls_cert_file=self.path("server.crt"),
            tls_private_key_file=self.path("server.key"),
            client_ca_file=self.path("ca.crt"),
            service_account_signing_key_file=self.path("sa.key"),
            service_account_key_files=(self.path("sa.pub"),),
            kubelet_client_certificate=self.path("kubelet-client.crt"),
            kubelet_client_key=self.path("kubelet-client.key"),
            kubelet_certificate_authority=self.path("ca.crt"),
            proxy_client_cert_file=self.path("front-proxy.crt"),
            proxy_client_key_file=self.path("front-proxy.key"),
            bind_address="127.0.0.1",
            secure_port=0,
            advertise_address="10.89.0.11",
        )
        return replace(base, **settings)


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes
    json: Any


@dataclass
class Edge:
    """A running server and a client of it."""

    server: ApiServer
    store: Any
    registry: Registry
    pki: Pki
    url: str
    session: aiohttp.ClientSession

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        cert: str = "admin",
        headers: dict[str, str] | None = None,
        data: Any = None,
    ) -> Answer:
        headers = dict(headers or {})
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            data = orjson.dumps(body)
        context = self.pki.client_context(cert)
        url = yarl.URL(self.url + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=headers, ssl=context) as r:
            raw = await r.read()
            is_json = r.headers.get("Content-Type", "").startswith("application/json")
            return Answer(r.status, r.headers, raw, orjson.loads(raw) if is_json and raw else None)

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        got = await self.call("POST", path, body)
        assert got.status == 201, got.body
        found: dict[str, Any] = got.json
        return found


@contextlib.asynccontextmanager
async def edge(
    pki: Pki, *, clock: Callable[[], float] = time.time, store: Any = None, **settings: Any
) -> AsyncIterator[Edge]:
    """A ready server; everything is stopped afterwards."""
    store = store or MemoryStore()
    authorizer = RbacAuthorizer(store)
    registry = Registry(store, RegistryConfig(), clock=clock, rng=random.Random(1), authorizer=authorizer)
    server = ApiServer(pki.config(**settings), store, registry, authorizer, clock=clock)
    tasks = [asyncio.create_task(server.run()), asyncio.create_task(authorizer.run())]
    tasks.append(asyncio.create_task(registry.run()))
    session = aiohttp.ClientSession()
    try:
        async with asyncio.timeout(20):
            while not server.health()["ready"] or not server.listening.is_set():
                for task in tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)
        yield Edge(server, store, registry, pki, f"https://127.0.0.1:{server.port}", session)
    finally:
        await session.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


async def pod_on_kubelet(server: Edge, port: int) -> None:
    """Pod p with container c in namespace default, on a machine whose kubelet listens on this port of loopback."""
    made = await server.create("/api/v1/nodes", {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "m1"}})
    made["status"] = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    got = await server.call("PUT", "/api/v1/nodes/m1/status", made)
    assert got.status == 200, got.body
    account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}}
    await server.call("POST", "/api/v1/namespaces/default/serviceaccounts", account)
    pod: dict[str, Any] = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}
    pod["spec"] = {"nodeName": "m1", "containers": [{"name": "c", "image": "x"}]}
    await server.create("/api/v1/namespaces/default/pods", pod)
