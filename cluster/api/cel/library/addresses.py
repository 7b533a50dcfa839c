"""IP addresses and CIDRs.

Pure. Values keep the text that they were made of; it is parsed anew by each function. Source: k8s.io/apiserver
`pkg/cel/library/{ip,cidr}.go`.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from cluster.api.cel.library.declaring import Declarations
from cluster.api.cel.library.values import Value, tagged

_IP, _CIDR = "net.IP", "net.CIDR"


def _parse_ip(text: str) -> Any:
    if "%" in text:
        raise ValueError(f'IP Address "{text}" with zone value is not allowed')
    try:
        address = ipaddress.ip_address(text)
    except ValueError as e:
        raise ValueError(f'IP Address "{text}" parse error during conversion from string: {e}') from e
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f'IPv4-mapped IPv6 address "{text}" is not allowed')
    return address


def _parse_cidr(text: str) -> Any:
    try:
        if "/" not in text:
            raise ValueError("no '/'")
        return ipaddress.ip_interface(text)
    except ValueError as e:
        raise ValueError(f"network address parse error during conversion from string: {e}") from e


def _ip(v: Value) -> Any:
    return _parse_ip(tagged(v, _IP))


def _cidr(v: Value) -> Any:
    return _parse_cidr(tagged(v, _CIDR))


def _contains_ip(v: Value, address: Any) -> bool:
    inside = _parse_ip(address) if isinstance(address, str) else _ip(address)
    return bool(inside in _cidr(v).network)


def _contains_cidr(v: Value, other: Any) -> bool:
    inner = (_parse_cidr(other) if isinstance(other, str) else _cidr(other)).network
    outer = _cidr(v).network
    return bool(inner.version == outer.version and inner.subnet_of(outer))


def _link_local_multicast(address: Any) -> bool:
    net = "224.0.0.0/24" if address.version == 4 else "ff02::/16"
    return address in ipaddress.ip_network(net)


def _global_unicast(address: Any) -> bool:
    limited = address.version == 4 and str(address) == "255.255.255.255"
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    return not (limited or special)


def declare(to: Declarations) -> None:
    """ip and cidr with their functions."""
    to.constructor("ip", _IP, _parse_ip)
    to.method("ip", [to.value], to.value, lambda v: {_IP: str(_cidr(v).ip)})
    to.predicate("isIP", _parse_ip)
    to.function("ip.isCanonical", [to.text], to.boolean, lambda s: str(_parse_ip(s)) == s)
    to.method("family", [to.value], to.integer, lambda v: _ip(v).version)
    to.method("isUnspecified", [to.value], to.boolean, lambda v: _ip(v).is_unspecified)
    to.method("isLoopback", [to.value], to.boolean, lambda v: _ip(v).is_loopback)
    to.method("isLinkLocalUnicast", [to.value], to.boolean, lambda v: _ip(v).is_link_local)
    to.method("isLinkLocalMulticast", [to.value], to.boolean, lambda v: _link_local_multicast(_ip(v)))
    to.method("isGlobalUnicast", [to.value], to.boolean, lambda v: _global_unicast(_ip(v)))

    to.constructor("cidr", _CIDR, _parse_cidr)
    to.predicate("isCIDR", _parse_cidr)
    for other in (to.text, to.value):
        to.method("containsIP", [to.value, other], to.boolean, _contains_ip)
        to.method("containsCIDR", [to.value, other], to.boolean, _contains_cidr)
    to.method("masked", [to.value], to.value, lambda v: {_CIDR: str(_cidr(v).network)})
    to.method("prefixLength", [to.value], to.integer, lambda v: _cidr(v).network.prefixlen)
