"""The tunnel to machines that share no link with this one: VXLAN, everything about it derived from Node objects.

Pure: `split`, `vtep_mac`, `vtep_ip`; `sync_overlay` is the IO (pyroute2; it blocks, call it in a thread). RFC 7348.

A machine's end of the tunnel (VTEP) is link `sk8-vxlan` with the network address of its podCIDRs, which no pod gets,
and a MAC made from its InternalIP. So whoever knows the Node knows all that has to be told to the kernel, and nothing
is learnt or asked on the wire:

    route  10.244.2.0/24 via 10.244.2.0 dev sk8-vxlan onlink      the other machine's pods are behind its VTEP
    neigh  10.244.2.0 lladdr 02:73:0a:59:4e:0c                    the VTEP's MAC
    fdb    02:73:0a:59:4e:0c dst 10.89.78.12                      ... is at that machine

Pods' packets of both families go through the one tunnel, which itself is IPv4.
What a machine itself sends through the tunnel comes from its VTEP's address, so that the answer comes back through it.

VXLAN proves nothing of a sender: that only machines reach its port is the firewall's part (`firewall.py`).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cluster.network.config import OVERLAY_LINK as LINK
from cluster.network.config import OVERLAY_PORT as PORT
from cluster.network.families import V4, V6, family_of

VNI = 1
HEADERS_BYTES = 50
"""What VXLAN over IPv4 adds to a packet: outer Ethernet 14, IP 20, UDP 8, VXLAN 8."""
_PERMANENT = 0x80  # NUD_PERMANENT
_NODAD = 0x02  # IFA_F_NODAD
_FAMILIES = (V4.number, V6.number)
_IFF_UP = 1
_LINK_LOCAL = "fe80:"  # the kernel's own

Routes = Mapping[str, str]
"""podCIDR, of either family -> IPv4 InternalIP of its machine."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """This machine's end. `cidrs`: its own podCIDRs."""

    node_ip: str
    cidrs: tuple[str, ...]
    protocol: int


def split(
    wanted: Routes, local: Iterable[ipaddress.IPv4Network], *, always: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """(routed directly, through the tunnel): a machine on one of the networks of our links needs no tunnel."""
    networks = list(local)
    direct: dict[str, str] = {}
    tunnelled: dict[str, str] = {}
    for cidr, gateway in wanted.items():
        near = not always and any(ipaddress.IPv4Address(gateway) in network for network in networks)
        (direct if near else tunnelled)[cidr] = gateway
    return direct, tunnelled


def vtep_mac(node_ip: str) -> str:
    return "02:73:" + ":".join(f"{byte:02x}" for byte in socket.inet_aton(node_ip))


def vtep_ip(cidr: str) -> str:
    return cidr.partition("/")[0]


def local_networks() -> list[ipaddress.IPv4Network]:
    """Those of this machine's links."""
    with IPRoute() as ipr:
        found = [f"{item.get('address')}/{item['prefixlen']}" for item in ipr.addr("dump", family=2)]
    networks = [ipaddress.IPv4Interface(text).network for text in found]
    return [network for network in networks if network.prefixlen < 32 and not network.is_loopback]


def sync_overlay(wanted: Routes, tunnel: Tunnel) -> dict[str, str]:
    """Make the tunnel lead exactly to `wanted`; returns podCIDR -> why for those the kernel refused.

    Without anybody behind it the link is removed. Raises NetlinkError when the link itself cannot be made.
    """
    with IPRoute() as ipr:
        index = _link(ipr, tunnel) if wanted else None
        if index is None:
            _remove(ipr)
            return {}
        failed: dict[str, str] = {}
        there = _routes(ipr, index, tunnel.protocol)
        for cidr, node_ip in wanted.items():
            try:
                _peer(ipr, index, cidr, node_ip, tunnel.protocol, route=there.get(cidr) != vtep_ip(cidr))
            except NetlinkError as err:
                failed[cidr] = str(err)
        _forget(ipr, index, wanted, tunnel)
        return failed


def _routes(ipr: Any, index: int, protocol: int) -> dict[str, str]:
    """podCIDR -> gateway of the tunnel's routes that there are."""
    found = (route for family in _FAMILIES for route in ipr.route("dump", family=family, proto=protocol))
    return {f"{r.get('dst')}/{r['dst_len']}": str(r.get("gateway")) for r in found if r.get("oif") == index}


def _link(ipr: Any, tunnel: Tunnel) -> int:
    """What is right already is left alone: each change is heard by whoever keeps the routes, who would sync anew."""
    index = _index(ipr)
    if index is not None and not _is_ours(ipr, index, tunnel):
        ipr.link("del", index=index)
        index = None
    if index is None:
        ipr.link(
            "add",
            ifname=LINK,
            kind="vxlan",
            vxlan_id=VNI,
            vxlan_local=tunnel.node_ip,
            vxlan_port=PORT,
            vxlan_learning=False,
            address=vtep_mac(tunnel.node_ip),
            mtu=uplink_mtu(ipr, tunnel.node_ip) - HEADERS_BYTES,
        )
        index = _index(ipr)
        if index is None:
            raise NetlinkError(errno.ENODEV, f"link {LINK} was made and is not there")
    for address in set(map(vtep_ip, tunnel.cidrs)) - _addresses(ipr, index):
        once = {"flags": _NODAD} if family_of(address) is V6 else {}
        ipr.addr("replace", index=index, address=address, prefixlen=family_of(address).bits, **once)
    if not ipr.get_links(index)[0]["flags"] & _IFF_UP:
        ipr.link("set", index=index, state="up")
    return index


def _addresses(ipr: Any, index: int) -> set[str]:
    return {str(item.get("address")) for family in _FAMILIES for item in ipr.addr("dump", family=family, index=index)}


def _is_ours(ipr: Any, index: int, tunnel: Tunnel) -> bool:
    """Made for this InternalIP and podCIDR: another life of the machine may have had others."""
    mac = str(ipr.get_links(index)[0].get("address"))
    addresses = {address for address in _addresses(ipr, index) if not address.startswith(_LINK_LOCAL)}
    return mac == vtep_mac(tunnel.node_ip) and addresses <= set(map(vtep_ip, tunnel.cidrs))


def _peer(ipr: Any, index: int, cidr: str, node_ip: str, protocol: int, *, route: bool) -> None:
    """First how its VTEP is reached, then the `route` if it is wanted: no packet finds half of it."""
    mac, vtep = vtep_mac(node_ip), vtep_ip(cidr)
    try:
        ipr.fdb("add", ifindex=index, lladdr=mac, dst=node_ip)
    except NetlinkError as err:
        if err.code != errno.EEXIST:  # a MAC says which machine it is: what is there is right
            raise
    ipr.neigh("replace", ifindex=index, dst=vtep, lladdr=mac, state=_PERMANENT)
    if route:
        ipr.route("replace", dst=cidr, gateway=vtep, oif=index, flags=["onlink"], proto=protocol)


def _forget(ipr: Any, index: int, wanted: Routes, tunnel: Tunnel) -> None:
    """Routes, neighbours and forwarding entries of machines that are no longer behind the tunnel."""
    vteps, macs = {vtep_ip(cidr) for cidr in wanted}, {vtep_mac(ip) for ip in wanted.values()}
    for family in _FAMILIES:
        for route in list(ipr.route("dump", family=family, proto=tunnel.protocol)):
            cidr = f"{route.get('dst')}/{route['dst_len']}"
            if route.get("oif") == index and cidr not in wanted:
                _gone(lambda c=cidr: ipr.route("del", dst=c, oif=index, proto=tunnel.protocol))
        for neighbour in list(ipr.get_neighbours(family=family, ifindex=index)):
            if neighbour.get("dst") not in vteps and neighbour["state"] & _PERMANENT:
                _gone(lambda n=neighbour: ipr.neigh("del", ifindex=index, dst=n.get("dst"), lladdr=n.get("lladdr")))
    for entry in list(ipr.fdb("dump", ifindex=index)):
        mac = str(entry.get("lladdr"))
        if entry["ifindex"] == index and mac not in macs and entry.get("dst"):
            _gone(lambda e=entry, m=mac: ipr.fdb("del", ifindex=index, lladdr=m, dst=e.get("dst")))


def _gone(remove: Any) -> None:
    try:
        remove()
    except NetlinkError as err:
        if err.code not in (errno.ESRCH, errno.ENOENT):
            raise


def _remove(ipr: Any) -> None:
    index = _index(ipr)
    if index is not None:
        ipr.link("del", index=index)


def _index(ipr: Any) -> int | None:
    found = ipr.link_lookup(ifname=LINK)
    return int(found[0]) if found else None


def uplink_mtu(ipr: Any, node_ip: str) -> int:
    """MTU of the link that has the machine's InternalIP."""
    for item in ipr.addr("dump", family=2):
        if item.get("address") == node_ip:
            return int(ipr.get_links(item["index"])[0].get("mtu"))
    return 1500
