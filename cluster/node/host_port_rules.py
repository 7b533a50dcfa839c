"""The nftables tables of the machine's host ports, one for each family of addresses.

Pure. Chain `ports` leads from a port of the machine to a pod's. Its chains come before kube-proxy's, as those of CNI's
portmap do: a host port wins over a NodePort of the same number.

    to any local address, or to one hostIP  --dnat-->  pod IP : container port
    from the machine's loopback, or from the pod itself  --masquerade--> so that the answer finds its way back

A connection from 127.0.0.1 leaves by the veth of a pod, which the kernel allows with route_localnet only. That would
also let the pod reach what listens on the machine's loopback; chain `guard` drops such packets. ::1 leads to no pod:
the kernel lets nothing from there leave the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

TABLE = "sk8-hostports"
_PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True, order=True)
class PortMapping:
    """One hostPort of a pod. `host_ip` "" means every address of the machine."""

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""


Pods = Mapping[str, tuple[tuple[str, ...], tuple[PortMapping, ...]]]
"""(pod IPs, mappings) by sandbox."""


@dataclass(frozen=True, slots=True)
class _Family:
    """What of a table differs by family. `guard` and `loopback`: a chain, and a rule of masquerading."""

    nft: Literal["ip", "ip6"]
    address: str
    from_machine: str
    guard: str = ""
    loopback: str = ""


_IPV4 = _Family(
    "ip",
    "ipv4_addr",
    "fib daddr type local",
    guard="""
  chain guard {
    type filter hook prerouting priority -300; policy accept;
    iifname "veth*" ip saddr 127.0.0.0/8 drop
    iifname "veth*" ip daddr 127.0.0.0/8 drop
  }""",
    loopback="\n    ct status dnat ip saddr 127.0.0.0/8 masquerade",
)
_IPV6 = _Family("ip6", "ipv6_addr", "fib daddr type local ip6 daddr != ::1")


def ruleset(pods: Pods, *, ipv6: bool = False) -> str:
    """One transaction that makes the tables say exactly this; `ipv6`: of pods' addresses of that family, too."""
    return _table(pods, _IPV4) + (_table(pods, _IPV6) if ipv6 else "")


def _table(pods: Pods, family: _Family) -> str:
    entries = _entries(pods, ipv6=family is _IPV6)
    ip, address = family.nft, family.address
    drop = f"add table {ip} {TABLE}\ndelete table {ip} {TABLE}\n"
    if not entries:
        return drop
    anywhere, at, own = _element_lists(entries)
    return f"""{drop}table {ip} {TABLE} {{
  map anywhere {{ type inet_proto . inet_service : {address} . inet_service;{anywhere} }}
  map at {{ type {address} . inet_proto . inet_service : {address} . inet_service;{at} }}
  set own {{ type {address} . {address};{own} }}{family.guard}
  chain ports {{
    dnat {ip} to {ip} daddr . meta l4proto . th dport map @at
    dnat {ip} to meta l4proto . th dport map @anywhere
  }}
  chain prerouting {{
    type nat hook prerouting priority -105; policy accept;
    fib daddr type local goto ports
  }}
  chain output {{
    type nat hook output priority -105; policy accept;
    {family.from_machine} goto ports
  }}
  chain postrouting {{
    type nat hook postrouting priority 90; policy accept;
    {ip} saddr . {ip} daddr @own masquerade{family.loopback}
  }}
}}
"""


def _entries(pods: Pods, *, ipv6: bool) -> list[tuple[PortMapping, str]]:
    """Each port of the machine with the pod's address of that family; a hostIP of the other one is not its."""
    return sorted(
        (m, ip)
        for ips, mappings in pods.values()
        for ip in ips
        for m in mappings
        if m.protocol in _PROTOCOLS and (":" in ip) is ipv6 and (not m.host_ip or (":" in m.host_ip) is ipv6)
    )


def _element_lists(entries: Iterable[tuple[PortMapping, str]]) -> tuple[str, str, str]:
    """Of the maps `anywhere` and `at`, and of the set `own`."""
    listed = list(entries)
    anywhere = _elements(f"{m.protocol} . {m.host_port} : {_to(m, ip)}" for m, ip in listed if not m.host_ip)
    at = _elements(f"{m.host_ip} . {m.protocol} . {m.host_port} : {_to(m, ip)}" for m, ip in listed if m.host_ip)
    return anywhere, at, _elements(sorted({f"{ip} . {ip}" for _, ip in listed}))


def _to(mapping: PortMapping, ip: str) -> str:
    return f"{ip} . {mapping.container_port}"


def _elements(lines: Iterable[str]) -> str:
    listed = ", ".join(lines)
    return f" elements = {{ {listed} }};" if listed else ""
