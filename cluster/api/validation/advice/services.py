"""Services, Ingresses, NetworkPolicies and ServiceAccounts.

Pure. Source: pkg/api/service/warnings.go, pkg/registry/networking, pkg/registry/core/serviceaccount/strategy.go,
k8s.io/apimachinery `pkg/util/validation/ip.go`. Addresses that only older parsers took (leading zeros, IPv4 in IPv6)
are refused here, so nothing is said of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

_HINTS, _MODE = "service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"
_INGRESS_CLASS = "kubernetes.io/ingress.class"
_MOUNTABLE = "kubernetes.io/enforce-mountable-secrets"


def _address(path: str, value: str) -> Iterator[str]:
    try:
        shown = str(ipaddress.ip_address(value))
    except ValueError:
        return
    if ":" in value and shown != value:
        yield f'{path}: IPv6 address "{value}" should be in RFC 5952 canonical format ("{shown}")'


def _block(path: str, value: str) -> Iterator[str]:
    try:
        at = ipaddress.ip_interface(value)
    except ValueError:
        return
    if at.ip != at.network.network_address:
        alone = f"{at.ip}/{at.network.max_prefixlen}"
        yield f'{path}: CIDR value "{value}" is ambiguous in this context (should be "{at.network}" or "{alone}"?)'
    elif ":" in value and str(at.network) != value:
        yield f'{path}: IPv6 CIDR value "{value}" should be in RFC 5952 canonical format ("{at.network}")'


def service(new: Object, old: Object | None) -> Iterator[str]:
    spec = new.get("spec") or {}
    if _HINTS in (new["metadata"].get("annotations") or {}):
        yield f"annotation {_HINTS} is deprecated, please use {_MODE} instead"
    for i, value in enumerate(spec.get("clusterIPs") or ()):
        yield from _address(f"spec.clusterIPs[{i}]", value)
    if spec.get("type") == "ClusterIP" and spec.get("clusterIP") == "None":
        yield from _ignored_when_headless(spec)
    for i, value in enumerate(spec.get("externalIPs") or ()):
        yield from _address(f"spec.externalIPs[{i}]", value)
    yield from _address("spec.loadBalancerIP", spec.get("loadBalancerIP") or "")
    for i, value in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        yield from _block(f"spec.loadBalancerSourceRanges[{i}]", value.strip())
    if spec.get("type") == "ExternalName" and spec.get("externalIPs"):
        yield 'spec.externalIPs is ignored when spec.type is "ExternalName"'
    if spec.get("type") != "ExternalName" and spec.get("externalName"):
        yield 'spec.externalName is ignored when spec.type is not "ExternalName"'


def _ignored_when_headless(spec: Object) -> Iterator[str]:
    if spec.get("loadBalancerIP"):
        yield "spec.loadBalancerIP is ignored for headless services"
    if spec.get("externalIPs"):
        yield "spec.externalIPs is ignored for headless services"
    if spec.get("sessionAffinity") != "None":
        yield "spec.SessionAffinity is ignored for headless services"


def ingress(new: Object, old: Object | None) -> Iterator[str]:
    if old is None and _INGRESS_CLASS in (new["metadata"].get("annotations") or {}):
        yield f"annotation \"{_INGRESS_CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"


def network_policy(new: Object, old: Object | None) -> Iterator[str]:
    spec = new.get("spec") or {}
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or ()):
            for j, peer in enumerate(rule.get(peers) or ()):
                yield from _peer(f"spec.{direction}[{i}].{peers}[{j}].ipBlock", peer.get("ipBlock") or {})


def _peer(path: str, block: Object) -> Iterator[str]:
    yield from _block(f"{path}.cidr", block.get("cidr") or "")
    for i, value in enumerate(block.get("except") or ()):
        yield from _block(f"{path}.except[{i}]", value)


def service_account(new: Object, old: Object | None) -> Iterator[str]:
    if _MOUNTABLE not in (new["metadata"].get("annotations") or {}):
        return
    if old is None or _MOUNTABLE not in (old["metadata"].get("annotations") or {}):
        instead = "prefer separate namespaces to isolate access to mounted secrets"
        yield f"metadata.annotations[{_MOUNTABLE}]: deprecated in v1.32+; {instead}"
