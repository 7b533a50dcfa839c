"""Who answers for the addresses of load balancers on the machines' link. `holder` is pure; `Announcer` is the shell.

An address of `status.loadBalancer.ingress` belongs to nobody until some machine answers ARP for it. For each address
one machine does: it takes it on a link without peers (`sk8-lb`), and the kernel answers for all addresses it has. The
maps of table `ip sk8` then send its connections on. All machines choose alike, from the Nodes and Services they watch,
so nobody has to be asked; when that machine is not Ready any more the next one takes the address and says so to the
link (gratuitous ARP, RFC 5227), because others remember the old one.

Any number of machines may believe they hold one address while their watches differ: the last to say so gets the
packets, and every one of them knows what to do with them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import struct
from collections.abc import Iterable
from typing import Any

from cluster.api.meta import is_true
from cluster.machinery.client import key_of, split_key
from cluster.machinery.informer import Informers
from cluster.network import links
from cluster.network.endpoints import is_ready, service_key
from cluster.network.rules import load_balancer_addresses

log = logging.getLogger(__name__)

Obj = dict[str, Any]
LINK = "sk8-lb"
EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
SERVICES, SLICES, NODES = "services", "endpointslices.discovery.k8s.io", "nodes"
_BY_SERVICE = "service"
_RETRY_S = 1.0
_ETH_P_ARP = 0x0806


def may_hold(node: Obj) -> bool:
    """A machine that is Ready and not kept out by its label."""
    if EXCLUDE_LABEL in (node["metadata"].get("labels") or {}):
        return False
    return is_true(node, "Ready")


def holder(address: str, nodes: Iterable[str]) -> str:
    """The one of `nodes` with the highest hash, so that the address stays when another leaves; "" without any."""
    return max(nodes, key=lambda name: (hashlib.sha256(f"{address}/{name}".encode()).digest(), name), default="")


def held(service: Obj, slices: Iterable[Obj], nodes: Iterable[str], node_name: str) -> list[str]:
    """The addresses of one Service that this machine answers for; with policy Local only one with endpoints may."""
    spec = service.get("spec") or {}
    addresses = load_balancer_addresses(service.get("status") or {}) if spec.get("type") == "LoadBalancer" else []
    if not addresses:
        return []
    candidates = list(nodes)
    if spec.get("externalTrafficPolicy") == "Local":
        with_endpoints = {
            endpoint.get("nodeName")
            for slice_ in slices
            for endpoint in slice_.get("endpoints") or ()
            if is_ready(endpoint)
        }
        candidates = [name for name in candidates if name in with_endpoints]
    return [address for address in addresses if holder(address, candidates) == node_name]


class Announcer:
    """`run()` until cancelled. What it took stays when it stops: its next life begins with looking."""

    def __init__(self, node_name: str, node_ip: str, informers: Informers) -> None:
        self._node_name = node_name
        self._node_ip = node_ip
        self._informers = informers
        self._wake = asyncio.Event()
        self._balanced: set[str] = set()
        self._held: frozenset[str] | None = None
        """None: what an earlier life holds is not known yet."""

    async def run(self) -> None:
        """Returns only by cancellation."""
        slices = self._informers.of(SLICES)
        slices.add_index(_BY_SERVICE, lambda obj: [key] if (key := service_key(obj)) else [])
        slices.add_handler(self._on_slice)
        self._informers.of(SERVICES).add_handler(self._on_service)
        self._informers.of(NODES).add_handler(self._on_node)
        for resource in (SERVICES, SLICES, NODES):
            await self._informers.of(resource).wait_synced()
        while True:
            self._wake.clear()
            try:
                await self._sync()
            except (OSError, links.LinkError) as err:
                log.error("addresses of load balancers are not taken, trying again: %s", err)
                await asyncio.sleep(_RETRY_S)
                continue
            await self._wake.wait()

    def _on_service(self, old: Obj | None, new: Obj | None) -> None:
        key = key_of(new or old or {})
        if new is not None and load_balancer_addresses(new.get("status") or {}):
            self._balanced.add(key)
            self._wake.set()
        elif key in self._balanced:
            self._balanced.discard(key)
            self._wake.set()

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        if service_key(new or old or {}) in self._balanced:
            self._wake.set()

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None or may_hold(old) != may_hold(new):
            self._wake.set()

    async def _sync(self) -> None:
        nodes = sorted(node["metadata"]["name"] for node in self._informers.of(NODES).items() if may_hold(node))
        found: set[str] = set()
        for key in self._balanced:
            service = self._informers.of(SERVICES).get(*split_key(key))
            if service is not None:
                slices = self._informers.of(SLICES).by_index(_BY_SERVICE, key)
                found.update(held(service, slices, nodes, self._node_name))
        wanted = frozenset(found)
        if wanted == self._held:
            return
        await asyncio.to_thread(links.set_addresses, LINK, wanted)
        await asyncio.to_thread(announce, self._node_ip, sorted(wanted - (self._held or frozenset())))
        self._held = wanted
        if wanted:
            log.info("this machine answers for %s", ", ".join(sorted(wanted)))


def announce(node_ip: str, addresses: Iterable[str]) -> None:
    """Tell everybody on the link of `node_ip` that these addresses are here now. Blocking. Raises OSError."""
    found = links.link_of(node_ip)
    if found is None:
        return
    name, mac = found
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as sock:
        sock.bind((name, _ETH_P_ARP))
        for address in addresses:
            sock.send(gratuitous_arp(mac, address))


def gratuitous_arp(mac: bytes, address: str) -> bytes:
    """An Ethernet frame: an ARP request for the sender's own address, which everybody hears (RFC 5227, section 3)."""
    packed = socket.inet_aton(address)
    header = b"\xff" * 6 + mac + struct.pack("!H", _ETH_P_ARP)
    return header + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + packed + b"\0" * 6 + packed
