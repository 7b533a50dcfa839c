"""The machine's own link for the Services' range, its address for DNS, and the kernel settings forwarding needs. IO.

ClusterIPs exist on no link. A program on the machine itself still needs a route to them, because the kernel looks for
one before nat output rewrites the destination: so the whole range points at `sk8-dns`, a link without peers, with the
machine's InternalIP as the source (what a pod elsewhere answers to). Whatever nothing rewrote is rejected by the
table, or dropped by that link. The address of the node-local DNS server is on the same link.

The link is a `dummy`, or a bridge without ports where the kernel has no dummy driver; both swallow packets.
All functions block (pyroute2's asyncio sockets do not work on uvloop): call them in a thread. All are idempotent.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cluster.network.config import ROUTE_PROTOCOL
from cluster.network.families import V4, V6, Family, family_of

_IFF_UP = 1
_SCOPE_LINK = 253


class LinkError(Exception):
    """The kernel refused a link, address or route; says which."""


def prepare_forwarding(family: Family = V4) -> None:
    """Make this namespace a router that stays silent about better ways. Raises LinkError.

    A pod that reaches itself through its Service comes in and goes out on one link; the redirects the kernel would
    send for that are wrong here, and use up its budget of ICMP errors, which refused UDP clients need.
    """
    if family is V6:  # sends no redirects that a setting could stop; nftables' reject has a budget of its own
        _set_sysctl(Path("/proc/sys/net/ipv6/conf/all/forwarding"), "1")
        return
    _set_sysctl(Path("/proc/sys/net/ipv4/ip_forward"), "1")
    for conf in sorted(Path("/proc/sys/net/ipv4/conf").iterdir()):
        _set_sysctl(conf / "send_redirects", "0")


def _set_sysctl(path: Path, value: str) -> None:
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except FileNotFoundError:
        return  # its link is gone
    except OSError as err:
        raise LinkError(f"{path}={value}: {err}") from err


def ensure_service_route(name: str, service_cidr: str, node_ip: str) -> None:
    """Programs on this machine reach `service_cidr` from `node_ip`. Raises LinkError."""
    with IPRoute() as ipr:
        index = _ensure_link(ipr, name)
        route: dict[str, Any] = {"dst": service_cidr, "oif": index, "proto": ROUTE_PROTOCOL}
        if family_of(service_cidr) is V4:
            route["scope"] = _SCOPE_LINK
        if node_ip and _has_address(ipr, node_ip):
            route["prefsrc"] = node_ip
        try:
            ipr.route("replace", **route)
        except NetlinkError as err:
            raise LinkError(f"route {service_cidr} dev {name}: {err}") from err


def ensure_address(name: str, address: str) -> None:
    """`address`/32 on the link. Raises LinkError."""
    with IPRoute() as ipr:
        index = _ensure_link(ipr, name)
        try:
            ipr.addr("replace", index=index, address=address, prefixlen=32)
        except NetlinkError as err:
            raise LinkError(f"address {address} dev {name}: {err}") from err


def set_addresses(name: str, addresses: Collection[str]) -> None:
    """Exactly these as /32 on the link, which goes when there are none. Raises LinkError."""
    if not addresses:
        remove_link(name)
        return
    with IPRoute() as ipr:
        index = _ensure_link(ipr, name)
        present = {str(item.get("address")) for item in ipr.addr("dump", family=2, index=index)}
        try:
            for address in sorted(set(addresses) - present):
                ipr.addr("replace", index=index, address=address, prefixlen=32)
            for address in sorted(present - set(addresses)):
                ipr.addr("del", index=index, address=address, prefixlen=32)
        except NetlinkError as err:
            raise LinkError(f"addresses of {name}: {err}") from err


def link_of(address: str) -> tuple[str, bytes] | None:
    """(name, MAC) of the link that has `address`."""
    with IPRoute() as ipr:
        for item in ipr.addr("dump", family=2):
            if item.get("address") == address:
                link = ipr.get_links(item["index"])[0]
                return str(link.get("ifname")), bytes.fromhex(str(link.get("address")).replace(":", ""))
    return None


def service_route_present(name: str, service_cidr: str) -> bool:
    network, _, length = service_cidr.partition("/")
    with IPRoute() as ipr:
        index = _index(ipr, name)
        return index is not None and any(
            route.get("dst") == network and route["dst_len"] == int(length) and route.get("oif") == index
            for route in ipr.route("dump", family=family_of(network).number, proto=ROUTE_PROTOCOL)
        )


def local_addresses(family: Family = V4) -> frozenset[str]:
    """Every address of this namespace."""
    with IPRoute() as ipr:
        return frozenset(str(item.get("address")) for item in ipr.addr("dump", family=family.number))


def remove_link(name: str) -> None:
    """Gone, with its addresses and routes, if it was there."""
    with IPRoute() as ipr:
        index = _index(ipr, name)
        if index is not None:
            ipr.link("del", index=index)


def _ensure_link(ipr: Any, name: str) -> int:
    index = _index(ipr, name)
    if index is None:
        _add_link(ipr, name)
        index = _index(ipr, name)
        if index is None:
            raise LinkError(f"link {name} was made and is not there")
    if not ipr.get_links(index)[0]["flags"] & _IFF_UP:
        ipr.link("set", index=index, state="up")
    return index


def _add_link(ipr: Any, name: str) -> None:
    for kind in ("dummy", "bridge"):
        try:
            ipr.link("add", ifname=name, kind=kind)
            return
        except NetlinkError as err:
            if err.code == errno.EEXIST:
                return
            if err.code != errno.EOPNOTSUPP:
                raise LinkError(f"link {name} ({kind}): {err}") from err
    raise LinkError(f"link {name}: this kernel has neither the dummy nor the bridge driver")


def _index(ipr: Any, name: str) -> int | None:
    found = ipr.link_lookup(ifname=name)
    return int(found[0]) if found else None


def _has_address(ipr: Any, address: str) -> bool:
    return any(item.get("address") == address for item in ipr.addr("dump", family=2))
