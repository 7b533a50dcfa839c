"""Addresses to be given out one by one: `10.89.0.200-10.89.0.250`, `10.89.0.192/26`, or several, with commas.

Pure. In what order they are listed is the order they are taken in.
"""

from __future__ import annotations

import ipaddress


def addresses(text: str) -> tuple[str, ...]:
    """Every address of the pool, each once. Raises ValueError saying what is wrong with the text."""
    found: dict[str, None] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        first, last = _ends(part)
        if int(last) - int(first) >= 1 << 16:
            raise ValueError(f"{part!r} has more than 65536 addresses")
        found |= {str(ipaddress.IPv4Address(i)): None for i in range(int(first), int(last) + 1)}
    return tuple(found)


def last_quarter(network: str) -> tuple[str, ...]:
    """Of a network, without its broadcast address: what is given out when nobody chose."""
    net = ipaddress.IPv4Network(network)
    start = int(net.broadcast_address) - net.num_addresses // 4 + 1
    return tuple(str(ipaddress.IPv4Address(i)) for i in range(start, int(net.broadcast_address)))


def _ends(part: str) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    low, dash, high = part.partition("-")
    try:
        if dash:
            first, last = ipaddress.IPv4Address(low.strip()), ipaddress.IPv4Address(high.strip())
        else:
            net = ipaddress.IPv4Network(part)
            first, last = net.network_address, net.broadcast_address
    except ValueError as e:
        raise ValueError(f"{part!r}: {e}; needed are addresses such as 10.89.0.200-10.89.0.250") from e
    if first > last:
        raise ValueError(f"{part!r} ends before it begins")
    return first, last
