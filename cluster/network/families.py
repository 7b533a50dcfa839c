"""IPv4 and IPv6 as nftables and netlink spell them. Pure data.

Everything in this room that makes rules or routes does so for one family; a dual-stack machine runs it twice. So the
rules of a single-stack cluster know nothing of the other family, and a packet meets those of its own alone.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Family:
    """`nft`: the family of its tables, and the name of its header in rules. `unreachable`: how a port is refused.
    `learns_affinity`: a map keeps each client's endpoint; nft 1.0.6 has no registers for one with two IPv6 addresses
    (it aborts, or puts one over the other), so there the client's address alone decides.
    """

    name: str
    version: int
    number: int
    nft: str
    address_type: str
    loopback: str
    bits: int
    unreachable: str
    learns_affinity: bool

    def has(self, address: str) -> bool:
        return version_of(address) == self.version


V4 = Family("IPv4", 4, socket.AF_INET, "ip", "ipv4_addr", "127.0.0.0/8", 32, "icmp type port-unreachable", True)
V6 = Family("IPv6", 6, socket.AF_INET6, "ip6", "ipv6_addr", "::1", 128, "icmpv6 type port-unreachable", False)


def family_of(text: str) -> Family:
    """Of an address or a network that is valid."""
    return V6 if ":" in text else V4


@lru_cache(maxsize=1 << 16)
def version_of(address: str) -> int:
    """4 or 6; 0 for what is no address."""
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return 0
