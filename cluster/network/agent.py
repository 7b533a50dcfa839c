"""Everything the network of one machine needs, in one coroutine: what the Proxy actor runs. Composition only.

Order matters a little: firewall first (it needs no API server), then policies, routes, services and DNS as soon as the
shared informers have listed. Each part keeps what it made in the kernel when this process stops, so that a restarted
agent finds traffic flowing and takes over without a gap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from prometheus_client import REGISTRY
from prometheus_client.registry import CollectorRegistry

from cluster.api.faults import Hit, no_fault
from cluster.machinery.client import Client
from cluster.machinery.informer import Informers
from cluster.network import links
from cluster.network.announce import LINK as LOAD_BALANCER_LINK
from cluster.network.announce import Announcer
from cluster.network.config import OVERLAY_LINK, SERVICE_LINK, NetworkConfig
from cluster.network.dns import DnsServer
from cluster.network.families import V4, V6
from cluster.network.firewall import Firewall
from cluster.network.nft import NftError, open_nft
from cluster.network.policy_agent import PolicyAgent
from cluster.network.policy_table import TABLE as POLICY_TABLE
from cluster.network.proxy import ServiceProxy
from cluster.network.routes import RouteManager, sync_routes

Part = Firewall | PolicyAgent | RouteManager | ServiceProxy | DnsServer
"""What says how it is, in `health()`."""


class NetworkAgent:
    """`run()` until cancelled; when one part cannot go on, all stop and `run()` raises (an ExceptionGroup)."""

    def __init__(
        self,
        config: NetworkConfig,
        client: Client,
        *,
        clock: Callable[[], float] = time.time,
        registry: CollectorRegistry = REGISTRY,
        hit: Hit = no_fault,
    ) -> None:
        config.validate()
        self.informers = Informers(client)
        self.firewall = Firewall(config.firewall, client, informers=self.informers)
        self.policy = PolicyAgent(config.policy, client, informers=self.informers)
        self.routes = RouteManager(config.routes, client, informers=self.informers)
        self.proxy = ServiceProxy(config.proxy, client, clock=clock, informers=self.informers, hit=hit)
        self.ipv6: dict[str, Part] = {}
        if config.proxy_ipv6 is not None:
            self.ipv6 = {
                "policy_ipv6": PolicyAgent(config.policy_ipv6, client, informers=self.informers),
                "proxy_ipv6": ServiceProxy(config.proxy_ipv6, client, clock=clock, informers=self.informers, hit=hit),
            }
        self.announcer = Announcer(config.proxy.node_name, config.proxy.node_ip, self.informers)
        self.dns = DnsServer(config.dns, client, informers=self.informers, registry=registry)

    async def run(self) -> None:
        """Returns only by cancellation."""
        async with asyncio.TaskGroup() as group:
            for name, part in self._parts().items():
                group.create_task(part.run(), name=name)
            group.create_task(self.announcer.run(), name="announcer")
            await asyncio.sleep(0)  # every part has asked for its informers now
            group.create_task(self.informers.run(), name="informers")

    def health(self) -> dict[str, object]:
        parts = {name: part.health() for name, part in self._parts().items()}
        return {"ready": all(bool(part["ready"]) for part in parts.values()), **parts}

    def _parts(self) -> dict[str, Part]:
        return {
            "firewall": self.firewall,
            "policy": self.policy,
            "routes": self.routes,
            "proxy": self.proxy,
            "dns": self.dns,
            **self.ipv6,
        }


def clean_up(protocol: int | None = None) -> None:
    """Take back all that an agent made in this namespace: tables, link, routes, as when a machine leaves. Blocking.

    `protocol`: that of RouteConfig, when routes should go too.
    """
    nft = open_nft()
    try:
        for table in ("ip sk8", "ip6 sk8", "inet sk8", f"ip {POLICY_TABLE}", f"ip6 {POLICY_TABLE}"):
            try:
                nft.run(f"delete table {table}")
            except NftError:
                continue  # it was not there
    finally:
        nft.close()
    links.remove_link(SERVICE_LINK)
    links.remove_link(LOAD_BALANCER_LINK)
    links.remove_link(OVERLAY_LINK)
    if protocol is not None:
        for family in (V4, V6):
            sync_routes({}, protocol, family=family)
