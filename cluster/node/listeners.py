"""What listens on ports of the machine itself: /proc/net/{tcp,udp}[6], of the reader's network namespace (proc_net(5)).

`parse` is pure. A hostPort rewrites the address of every packet to that port, so a pod that asks for the API server's
port would get its traffic; whoever has the port keeps it, as kubelets do that hold a socket for each hostPort.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FILES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_STATES = {"tcp": "0A", "udp": "07"}
"""LISTEN; for UDP, a socket that is not connected to one peer."""


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """`ip` "" means every address."""

    protocol: str
    port: int
    ip: str = ""


def parse(protocol: str, table: str) -> Iterator[Listener]:
    """Listeners that IPv4 reaches: an IPv6 socket only where it is bound to every address, or to a mapped one."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[3] != _STATES[protocol]:
            continue
        address, _, port = fields[1].partition(":")
        ip = _address(address)
        if ip is not None:
            yield Listener(protocol, int(port, 16), ip)


def _address(text: str) -> str | None:
    """Words of 32 bits in the machine's byte order, in hexadecimal. None: no IPv4 packet comes there."""
    raw = b"".join(int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8))
    found = ipaddress.ip_address(raw)
    if found.is_unspecified:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped) if found.ipv4_mapped else None
    return str(found)


def listeners(proc_net: Path = Path("/proc/net")) -> frozenset[Listener]:
    found: set[Listener] = set()
    for protocol, names in _FILES.items():
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                found.update(parse(protocol, (proc_net / name).read_text()))
    return frozenset(found)
