"""The IPv6 half of a dual-stack pod's link (cni.py has the rest). IO: netlink and sysctls; blocking.

    pod eth0 IP/128, default via fe80::1  ==veth==  vethXXXXXXXX fe80::1, route IP/128 dev vethXXXXXXXX src GATEWAY
    lo: GATEWAY/128, ...::1 of the range            the rest of the range: unreachable

Unlike ARP, IPv6 answers for an address on the link that has it alone; so every veth has the router's link-local one.
Nobody else is on such a link, so nobody looks for duplicates: addresses are usable at once. What rp_filter is for IPv4,
a rule of the firewall is here (cluster/network/firewall.py).
"""

from __future__ import annotations

import errno
from pathlib import Path
from socket import AF_INET6
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

ROUTER = "fe80::1"
UNREACHABLE_METRIC = 4096
_BITS = 128
_NODAD = 0x02  # IFA_F_NODAD
_NO_LINK_LOCAL = "1"  # IN6_ADDR_GEN_MODE_NONE
_SETTINGS = Path("/proc/sys/net/ipv6/conf")
_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH)


def prepare_machine(ipr: Any, loopback: int | None, cidr: str, gateway: str) -> None:
    """Forwarding, the gateway address, and nothing but what has a route of its own in the range."""
    _set("all", "forwarding", "1")
    forget_gateways(ipr, loopback, keep=gateway)
    ipr.addr("replace", index=loopback, address=gateway, prefixlen=_BITS, flags=_NODAD)
    ipr.route("replace", dst=cidr, type="unreachable", priority=UNREACHABLE_METRIC, family=AF_INET6)


def connect_machine(ipr: Any, name: str, index: int | None, address: str, gateway: str) -> None:
    """The machine's end of a pod's link, once that is up."""
    _set(name, "addr_gen_mode", _NO_LINK_LOCAL)
    _set(name, "accept_dad", "0")
    _set(name, "disable_ipv6", "0")
    ipr.addr("replace", index=index, address=ROUTER, prefixlen=64, flags=_NODAD)
    ipr.route("replace", dst=f"{address}/{_BITS}", oif=index, prefsrc=gateway, family=AF_INET6)


def connect_pod(ipr: Any, index: int, address: str) -> None:
    """The pod's end, in its namespace, where engines have IPv6 off."""
    for link in ("all", "default", "lo", "eth0"):
        _set(link, "disable_ipv6", "0")
    _set("eth0", "accept_dad", "0")
    _set("eth0", "accept_ra", "0")
    ipr.addr("replace", index=index, address=address, prefixlen=_BITS, flags=_NODAD)
    ipr.link("set", index=index, state="up")
    ipr.route("replace", dst="::/0", gateway=ROUTER, oif=index, family=AF_INET6)


def is_connected(ipr: Any, index: int, address: str) -> bool:
    return any(True for _ in ipr.get_routes(family=AF_INET6, dst=f"{address}/{_BITS}", oif=index))


def forget_machine(ipr: Any, loopback: int | None, cidr: str) -> None:
    forget_gateways(ipr, loopback, keep="")
    try:
        ipr.route("del", dst=cidr, type="unreachable", priority=UNREACHABLE_METRIC, family=AF_INET6)
    except NetlinkError as err:
        if err.code not in _GONE:
            raise


def forget_gateways(ipr: Any, loopback: int | None, *, keep: str) -> None:
    """Remove those of earlier ranges. IPv6 addresses bear no label; nothing else is put on a local machine's lo."""
    for message in list(ipr.get_addr(family=AF_INET6, index=loopback)):
        address = message.get_attr("IFA_ADDRESS")
        if address not in ("::1", keep):
            ipr.addr("del", index=loopback, address=address, prefixlen=_BITS)


def _set(link: str, name: str, value: str) -> None:
    """Of the calling thread's network namespace."""
    target = _SETTINGS / link / name
    if target.read_text().strip() != value:
        target.write_text(value)
