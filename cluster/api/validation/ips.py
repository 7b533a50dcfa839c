"""Addresses in other objects than Services: pods, nodes, endpoints (pkg/apis/core/validation, KEP-563). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from cluster.api.validation import fields
from cluster.api.validation.fields import Faults
from cluster.api.validation.service_ips import family_of

Object = dict[str, Any]

_BAD_IP = "must be valid IP address"
_MAX_NAMESERVERS = 3
_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def validate_of_type(faults: Faults, at: str, address: str, address_type: str) -> None:
    """An endpoint's address, in a slice of IPv4 or IPv6."""
    why = fields.ip_address(address)
    if why or family_of(address) != address_type:
        faults.invalid(at, address, f"must be a valid {address_type} address")


def validate_external(faults: Faults, at: str, address: str) -> None:
    """Where traffic from outside may be meant for: nothing that means something else on every machine."""
    why = fields.ip_address(address)
    if why:
        faults.invalid(at, address, why)
        return
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        faults.invalid(at, address, "may not be unspecified (0.0.0.0 or ::)")
    if ip.is_loopback:
        faults.invalid(at, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if ip.is_link_local:
        faults.invalid(at, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if any(ip.version == net.version and ip in net for net in _LINK_LOCAL_MULTICAST):
        faults.invalid(at, address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


_LINK_LOCAL_MULTICAST = (ipaddress.ip_network("224.0.0.0/24"), ipaddress.ip_network("ff02::/16"))


def validate_pod_addresses(faults: Faults, at: str, spec: Object) -> None:
    """Those a pod's spec has: of host aliases and name servers."""
    for alias in spec.get("hostAliases") or ():
        if fields.ip_address(alias.get("ip", "")):
            faults.invalid(f"{at}.hostAliases.ip", alias.get("ip", ""), _BAD_IP)
        for name in alias.get("hostnames") or ():
            faults.check(f"{at}.hostAliases.hostnames", name, fields.dns_subdomain(name))
    config = spec.get("dnsConfig")
    servers = (config or {}).get("nameservers") or []
    if spec.get("dnsPolicy") == "None" and config is None:
        faults.required(f"{at}.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None")
    elif spec.get("dnsPolicy") == "None" and not servers:
        why = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        faults.required(f"{at}.dnsConfig.nameservers", why)
    if len(servers) > _MAX_NAMESERVERS:
        why = f"must not have more than {_MAX_NAMESERVERS} nameservers"
        faults.invalid(f"{at}.dnsConfig.nameservers", servers, why)
    for i, domain in enumerate((config or {}).get("searches") or ()):
        plain = domain.removesuffix(".").replace("_", "x")  # of DNS, not of host names
        if plain:
            faults.check(f"{at}.dnsConfig.searches[{i}]", domain, fields.dns_subdomain(plain))
    for i, server in enumerate(servers):
        if fields.ip_address(server):
            faults.invalid(f"{at}.dnsConfig.nameservers[{i}]", server, _BAD_IP)


def validate_pod_status(faults: Faults, new: Object, old: Object) -> None:
    """podIPs and hostIPs, where they change."""
    status, before = new.get("status") or {}, old.get("status") or {}
    for field in ("podIPs", "hostIPs"):
        listed = status.get(field) or []
        if listed and listed != before.get(field):
            _one_per_family(faults, f"status.{field}", listed)


def _one_per_family(faults: Faults, at: str, listed: Sequence[Object]) -> None:
    ips = [item.get("ip", "") for item in listed]
    wrong = [(i, ip, why) for i, ip in enumerate(ips) if (why := fields.ip_address(ip))]
    for i, ip, why in wrong:
        faults.invalid(f"{at}[{i}]", ip, why)
    if not wrong and len({family_of(ip) for ip in ips}) != len(ips):
        faults.invalid(at, listed, "may specify no more than one IP for each IP family")
    for i, item in enumerate(listed):
        if ips[i] in ips[:i]:
            faults.duplicate(f"{at}[{i}]", item)


def validate_service_status(faults: Faults, new: Object, old: Object) -> None:
    """What a load balancer says of itself."""
    balancer = (new.get("status") or {}).get("loadBalancer") or {}
    for i, ingress in enumerate(balancer.get("ingress") or ()):
        at, host = f"status.loadBalancer.ingress[{i}]", ingress.get("hostname") or ""
        if ingress.get("ip"):
            faults.check(f"{at}.ip", ingress["ip"], fields.ip_address(ingress["ip"]))
        if host:
            faults.check(f"{at}.hostname", host, fields.dns_subdomain(host))
            if not fields.ip_address(host):
                faults.invalid(f"{at}.hostname", host, "must be a DNS name, not an IP address")


def validate_pod_cidrs(faults: Faults, spec: Object) -> None:
    """A node's."""
    cidrs = spec.get("podCIDRs") or []
    versions = []
    for i, cidr in enumerate(cidrs):
        try:
            versions.append(ipaddress.ip_network(cidr, strict=False).version)
        except ValueError:
            faults.invalid(f"spec.podCIDRs[{i}]", cidr, _CIDR)
    if len(versions) == len(cidrs) and len(set(versions)) != len(cidrs):
        faults.invalid("spec.podCIDRs", cidrs, "may specify no more than one CIDR for each IP family")
