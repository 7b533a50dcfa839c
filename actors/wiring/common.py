"""What the parts that write objects need: the registry in their own process, and contexts for its calls.

Reads keys from the machine's `pki` directory; nothing secret travels in an argument.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from actors.wiring.basics import hit_of
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machinery.webhooks import WebhookClient
from cluster.registry import admissionconfig
from cluster.registry.context import CAUSE, RequestContext, UserInfo
from cluster.registry.rbac import RbacAuthorizer
from cluster.registry.registry import Registry
from cluster.registry.store import Compare, Store
from cluster.registry.types import RegistryConfig


class Runs(Protocol):
    async def run(self) -> None: ...


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
        service_cidr_ipv6=cluster.service_cidr_ipv6 if cluster.dual_stack else "",
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
