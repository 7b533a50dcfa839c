"""Settings of BGP: the cluster's AS, and the routers that are told of pods. Pure.

Source: RFC 4271; RFC 6793 (AS numbers of four bytes), of which RFC 7607 and RFC 7300 reserve the first and the last.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PORT = 179
DEFAULT_ASN = 64512
"""Private (RFC 6996)."""
_MAX_ASN = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Router:
    """A BGP speaker outside the cluster, of an AS of its own."""

    address: str
    asn: int


def parse_router(text: str) -> Router:
    """`10.0.0.1:64513`. Raises ValueError."""
    address, colon, asn = text.partition(":")
    if not colon or not asn.isdigit() or not 0 < int(asn) <= _MAX_ASN:
        raise ValueError(f"{text!r}: must be an IPv4 address and the number of its AS, such as 10.0.0.1:64513")
    return Router(str(ipaddress.IPv4Address(address)), int(asn))


def problems(asn: int, routers: Sequence[str]) -> Iterator[str]:
    """Why BGP cannot be spoken so, naming the setting."""
    if not 0 < asn <= _MAX_ASN:
        yield f"bgp_asn: {asn}: must be between 1 and {_MAX_ASN}, such as {DEFAULT_ASN}"
    for text in routers:
        try:
            router = parse_router(text)
        except ValueError as err:
            yield f"bgp_routers: {err}"
            continue
        if router.asn == asn:
            yield f"bgp_routers: {text!r}: has the cluster's own AS; a router needs another (bgp_asn is {asn})"
