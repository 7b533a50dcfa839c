"""Routes to the pods of all other machines: podCIDR of a Node via its InternalIP on the machines' common link, or,
where there is none, through a tunnel (`overlay.py`). With backend "bgp" they are bird's to learn and make (`bgp.py`).

`wanted_routes` and `route_changes` are pure; `RouteManager` is the shell: it wakes for Node events and for netlink
events (a link that went down takes its routes with it), never by polling, and touches only routes that carry our
protocol number. What the kernel refuses is named in `health()` and in the log.

Invariant: a route is replaced in place, so traffic to a machine that keeps its podCIDR is never without a route.
Stopping it leaves the routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cluster.api.bgp import parse_router
from cluster.api.nodes import internal_ips, pod_cidrs
from cluster.machinery.client import Client
from cluster.machinery.informer import Informers
from cluster.network import links
from cluster.network.bgp import Speaker, bird_config, not_established, sessions
from cluster.network.bird import Bird
from cluster.network.config import RouteConfig
from cluster.network.families import V4, V6, Family, family_of
from cluster.network.netlink import LinkWatch
from cluster.network.overlay import Tunnel, local_networks, split, sync_overlay

log = logging.getLogger(__name__)

Obj = dict[str, Any]
Routes = dict[str, str]
"""Destination (CIDR) -> gateway."""
NODES = "nodes"
_RETRY_MAX_S = 15.0
_ANYWHERE = {4: "0.0.0.0", 6: "::"}


@dataclass(frozen=True, slots=True)
class RouteChanges:
    replace: tuple[tuple[str, str], ...]
    remove: tuple[tuple[str, str], ...]


def wanted_routes(nodes: Iterable[Obj], node_name: str, cluster_cidr: str) -> Routes:
    """The podCIDRs of every node but this one. Two nodes that claim one CIDR (an error): the first by name has it.

    A range outside the pods' is nobody's to claim: it would draw the machines' own traffic to that node.
    """
    pods = ipaddress.ip_network(cluster_cidr)
    out: Routes = {}
    for node in sorted(nodes, key=lambda item: str(item["metadata"]["name"])):
        if node["metadata"]["name"] == node_name:
            continue
        gateway = internal_ip(node, family_of(cluster_cidr))
        for cidr in pod_cidrs(node):
            if gateway and _is_part_of(cidr, pods):
                out.setdefault(cidr, gateway)
    return out


def internal_ip(node: Obj, family: Family = V4) -> str:
    """The node's InternalIP of that family, or ""."""
    return next((address for address in internal_ips(node) if family.has(address)), "")


def route_changes(wanted: Mapping[str, str], present: Mapping[str, str]) -> RouteChanges:
    """What turns `present` (ours only) into `wanted`."""
    replace = tuple((dst, via) for dst, via in sorted(wanted.items()) if present.get(dst) != via)
    remove = tuple((dst, via) for dst, via in sorted(present.items()) if dst not in wanted)
    return RouteChanges(replace, remove)


def retry_delay(first_s: float, last_s: float, before: Collection[str], now: Collection[str]) -> float:
    """Until those that cannot be reached are tried again: longer each time that they are the same ones. 0: there are
    none."""
    if not now:
        return 0.0
    return min(2 * last_s, _RETRY_MAX_S) if last_s and set(now) == set(before) else first_s


def _is_part_of(cidr: str, whole: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_network(cidr).subnet_of(whole)  # type: ignore[arg-type]  # else TypeError
    except (ValueError, TypeError):
        return False


class RouteManager:
    """`run()` until cancelled. `informers` are shared with whoever else runs here."""

    def __init__(self, config: RouteConfig, client: Client, *, informers: Informers | None = None) -> None:
        config.validate()
        self._config = config
        self._own_informers = informers is None
        self._informers = informers or Informers(client)
        self._wake = asyncio.Event()
        self._count = 0
        self._unreachable: dict[str, str] = {}
        self._synced = False

    async def run(self) -> None:
        """Returns only by cancellation."""
        self._informers.of(NODES).add_handler(self._on_node)
        async with asyncio.TaskGroup() as group:
            if self._own_informers:
                group.create_task(self._informers.run(), name="route-informers")
            group.create_task(self._sync_forever(), name="routes")

    def health(self) -> dict[str, object]:
        return {"ready": self._synced, "routes": self._count, "unreachable": dict(self._unreachable)}

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        before = self._wanted([old]) if old else {}
        after = self._wanted([new]) if new else {}
        own = (new or old or {})["metadata"]["name"] == self._config.node_name
        if before != after or (own and (old or {}).get("spec") != (new or {}).get("spec")):
            self._wake.set()

    def _wanted(self, nodes: Iterable[Obj]) -> Routes:
        """Of both families."""
        found = list(nodes)
        ranges = filter(None, (self._config.cluster_cidr, self._config.cluster_cidr_ipv6))
        return {dst: via for cidr in ranges for dst, via in wanted_routes(found, self._config.node_name, cidr).items()}

    async def _sync_forever(self) -> None:
        await asyncio.to_thread(links.prepare_forwarding)
        if self._config.cluster_cidr_ipv6:
            await asyncio.to_thread(links.prepare_forwarding, V6)
        await self._informers.of(NODES).wait_synced()
        watch = LinkWatch(self._wake.set, ipv6=bool(self._config.cluster_cidr_ipv6))
        delay_s = 0.0
        try:
            while True:
                self._wake.clear()
                before = self._unreachable
                await self._sync()
                delay_s = retry_delay(self._config.retry_delay_s, delay_s, before, self._unreachable)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), delay_s or None)
        finally:
            watch.close()

    async def _sync(self) -> None:
        nodes = self._informers.of(NODES).items()
        wanted = self._wanted(nodes)
        try:
            failed = await asyncio.to_thread(apply, self._config, nodes)
        except (NetlinkError, OSError) as err:
            failed = dict.fromkeys(wanted or [self._config.cluster_cidr], str(err))  # with nobody to reach, too: again
        for dst, why in failed.items():
            if self._unreachable.get(dst) != why:
                log.warning("no route to pods in %s via %s: %s", dst, wanted.get(dst, "?"), why)
        self._unreachable = failed
        self._count = len(wanted.keys() - failed.keys())
        self._synced = True


def apply(config: RouteConfig, nodes: Sequence[Obj]) -> dict[str, str]:
    """Make the kernel's routes and tunnel what `nodes` ask for; returns destination -> why for what it refused."""
    wanted = wanted_routes(nodes, config.node_name, config.cluster_cidr)
    if config.backend == "bgp":
        return _apply_bgp(config, nodes, wanted)
    far: Routes = {}
    failed: dict[str, str] = {}
    own = next((node for node in nodes if node["metadata"]["name"] == config.node_name), {})
    cidrs = pod_cidrs(own)
    if not config.node_ip or not cidrs:  # not yet given out: the tunnel would have no address
        near = wanted
    else:
        near, far = split(wanted, local_networks(), always=config.backend == "vxlan")
        inside = far | _behind(nodes, set(far.values()), config.cluster_cidr_ipv6)
        failed = sync_overlay(inside, Tunnel(config.node_ip, tuple(cidrs), config.protocol))
    failed |= sync_routes(near, config.protocol, leave=frozenset(far))
    if config.cluster_cidr_ipv6:
        failed |= _apply_ipv6(config, nodes, set(far.values()))
    return failed


def _apply_bgp(config: RouteConfig, nodes: Sequence[Obj], wanted: Routes) -> dict[str, str]:
    """Routes are bird's to make; what another backend had made goes once bird has been told."""
    own = next((node for node in nodes if node["metadata"]["name"] == config.node_name), {})
    routers = tuple(map(parse_router, config.bgp_routers))
    speaker = Speaker(config.node_ip, config.bgp_asn, tuple(pod_cidrs(own)), config.cluster_cidr, routers)
    machines = {via: [cidr for cidr, gateway in wanted.items() if gateway == via] for via in set(wanted.values())}
    bird = Bird(Path(config.bird_dir))
    bird.run(bird_config(speaker, machines, f"{config.bird_dir}/bird.log"))
    sync_overlay({}, Tunnel(config.node_ip, speaker.cidrs, config.protocol))
    failed = sync_routes({}, config.protocol)
    missing = not_established(sessions(bird.ask("show protocols")), [*machines, *(r.address for r in routers)])
    failed |= {cidr: missing[machine] for cidr, machine in wanted.items() if machine in missing}
    return failed | {router.address: missing[router.address] for router in routers if router.address in missing}


def _apply_ipv6(config: RouteConfig, nodes: Sequence[Obj], far_machines: Collection[str]) -> dict[str, str]:
    """The direct routes of the other family; which machines are behind the tunnel, their IPv4 addresses say."""
    far = _behind(nodes, far_machines, config.cluster_cidr_ipv6)
    wanted = wanted_routes(nodes, config.node_name, config.cluster_cidr_ipv6)
    near = {cidr: gateway for cidr, gateway in wanted.items() if cidr not in far}
    return sync_routes(near, config.protocol, leave=frozenset(far), family=V6)


def _behind(nodes: Sequence[Obj], machines: Collection[str], cluster_cidr: str) -> Routes:
    """The podCIDRs of these machines (by IPv4 InternalIP) that are part of the range, if there is one."""
    if not cluster_cidr:
        return {}
    pods = ipaddress.ip_network(cluster_cidr)
    found = ((cidr, internal_ip(node)) for node in nodes for cidr in pod_cidrs(node) if _is_part_of(cidr, pods))
    return {cidr: ip for cidr, ip in found if ip in machines}


def sync_routes(
    wanted: Mapping[str, str], protocol: int, *, leave: Collection[str] = (), family: Family = V4
) -> dict[str, str]:
    """Make the kernel's routes of `protocol` those wanted; returns destination -> why for those it refused.

    Blocking. Routes to `leave`, and routes without a gateway (the Services' range on its link), are not this
    function's.
    """
    failed: dict[str, str] = {}
    with IPRoute() as ipr:
        present = {dst: via for dst, via in _present(ipr, protocol, family).items() if dst not in leave}
        changes = route_changes(wanted, present)
        for dst, via in changes.replace:
            try:
                ipr.route("replace", dst=dst, gateway=via, proto=protocol)
            except NetlinkError as err:
                unreachable = err.code in (errno.ENETUNREACH, errno.EHOSTUNREACH)
                failed[dst] = "gateway is not on a link of this machine" if unreachable else str(err)
        for dst, via in changes.remove:
            try:
                ipr.route("del", dst=dst, gateway=via, proto=protocol)
            except NetlinkError as err:
                if err.code != errno.ESRCH:
                    failed[dst] = str(err)
    return failed


def _present(ipr: Any, protocol: int, family: Family) -> Routes:
    out: Routes = {}
    for route in ipr.route("dump", family=family.number, proto=protocol):
        gateway = route.get("gateway")
        if gateway and route["proto"] == protocol and route.get("table", 254) == 254:
            out[f"{route.get('dst', _ANYWHERE[family.version])}/{route['dst_len']}"] = str(gateway)
    return out
