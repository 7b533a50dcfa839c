"""What several roles need: the store's client, the registry, an HTTP client with a machine identity, metrics.

Reads keys from the machine's `pki` directory; nothing secret travels in an argument.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from prometheus_client import start_http_server

from cluster.api.faults import Hit, no_fault
from cluster.machine.config import ClusterConfig, MachineConfig
from cluster.machinery.http_client import HttpClient, HttpConfig
from cluster.machinery.webhooks import WebhookClient
from cluster.registry import admissionconfig
from cluster.registry.context import CAUSE, RequestContext, UserInfo
from cluster.registry.rbac import RbacAuthorizer
from cluster.registry.registry import Registry
from cluster.registry.store import Compare, Store
from cluster.registry.types import RegistryConfig
from raft.client import StoreClient
from raft.config import TlsFiles
from raft.faults import CRASH_EXIT_CODE, Faults

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


class Runs(Protocol):
    async def run(self) -> None: ...


def store_client(cluster: ClusterConfig, machine: MachineConfig) -> StoreClient:
    """Speaks to all members, this machine's own first."""
    endpoints = list(cluster.state_client_endpoints)
    own = (machine.ip, cluster.state_client_port)
    return StoreClient(endpoints, store_tls(machine), prefer=own if own in endpoints else None)


def store_tls(machine: MachineConfig) -> TlsFiles:
    """This machine's identity as a client of the store."""
    pki = machine.pki
    return TlsFiles(cert=pki / "store-client.crt", key=pki / "store-client.key", ca=pki / "ca.crt")


def encryption_keys(pki: Path) -> dict[str, bytes]:
    """Keys by id, the one that encrypts first: `encryption.key` is key1, `encryption-<id>.key` any other; the file
    `encryption.primary` names the one that encrypts (key1 without it). Raises ValueError when it is not there.
    """
    keys = {"key1": (pki / "encryption.key").read_bytes()}
    for path in sorted(pki.glob("encryption-*.key")):
        keys[path.stem.removeprefix("encryption-")] = path.read_bytes()
    file = pki / "encryption.primary"
    primary = file.read_text().strip() if file.exists() else "key1"
    if primary not in keys:
        raise ValueError(f"{file} names key {primary!r}, but there is no encryption-{primary}.key beside it")
    return {primary: keys.pop(primary), **keys}


def registry_config(cluster: ClusterConfig, machine: MachineConfig) -> RegistryConfig:
    return RegistryConfig(
        service_cidr=cluster.service_cidr,
        node_port_range=(cluster.node_port_min, cluster.node_port_max),
        cluster_domain=cluster.domain,
        kubernetes_service_ip=cluster.kubernetes_ip,
        dns_service_ip=cluster.dns_ip,
        api_port=cluster.api_port,
        encryption_keys=encryption_keys(machine.pki),
        admission=admissionconfig.load(
            cluster.admission_control_config_file,
            enable=cluster.enable_admission_plugins,
            disable=cluster.disable_admission_plugins,
        ),
    )


def faults_of(machine: MachineConfig, part: str) -> Faults:
    """Injected faults (syntax in raft/faults.py, points in docs/operations.md) from `<disk>/faults`, else none.

    For chaos tests: nobody but root of the machine can write there, and without the file nothing is injected.
    """
    path = machine.disk / "faults"
    spec = path.read_text().strip() if path.exists() else ""
    if spec:
        log.warning("faults are injected into this part (%s): %s", part, spec)
    return Faults.parse(spec, on_crash=_crash)


def _crash() -> None:
    """As a power cut would, but for the line in the log that says so."""
    log.warning("an injected fault ends this process now")
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(CRASH_EXIT_CODE)


def hit_of(machine: MachineConfig, part: str) -> Hit:
    """The part's fault points, as `<part>.<point>`; costs nothing when nothing is injected."""
    faults = faults_of(machine, part)
    return (lambda point, about: faults.hit(f"{part}.{point}", about)) if faults.armed else no_fault


def registry(
    cluster: ClusterConfig, machine: MachineConfig, store: Store, authorizer: RbacAuthorizer | None, part: str
) -> Registry:
    """`part` names the fault points of what it writes."""
    made = Registry(
        store,
        registry_config(cluster, machine),
        clock=time.time,
        rng=random.Random(),
        authorizer=authorizer,
        hit=hit_of(machine, part),
    )
    client = WebhookClient(made.cluster_ip)
    made.converter.call, made.webhooks.call = client.convert, client.post
    return made


def context_of(user: str, *groups: str, fence: Callable[[], tuple[Compare, ...]]) -> Callable[[], RequestContext]:
    """Makes each call's context: who calls, under which leadership, and on whose behalf."""
    who = UserInfo(user, groups=(*groups, "system:authenticated"))
    manager = user.removeprefix("system:")
    return lambda: RequestContext(user=who, fence=fence(), field_manager=manager, cause_id=CAUSE.get())


def http_client(cluster: ClusterConfig, machine: MachineConfig, identity: str) -> HttpClient:
    """Speaks to the API through this machine's forwarder, as `identity` (a pair of files in pki)."""
    pki = machine.pki
    return HttpClient(
        HttpConfig(
            server=f"https://{LOOPBACK}:{cluster.api_port}",
            ca_file=str(pki / "ca.crt"),
            cert_file=str(pki / f"{identity}.crt"),
            key_file=str(pki / f"{identity}.key"),
        )
    )


def serve_metrics(port: int) -> None:
    """/metrics of this process on loopback."""
    start_http_server(port, LOOPBACK)


class Together:
    """Several coroutines that live and die with the first of them, whose health is the whole's."""

    def __init__(self, main: Runs, *others: Runs, health: Callable[[], dict[str, object]]) -> None:
        self._parts = (main, *others)
        self._health = health

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for part in self._parts:
                group.create_task(part.run())

    def health(self) -> dict[str, object]:
        return self._health()
