"""What a Service keeps when it is updated: allocated values that the client left out, without those its new type
forbids.

Pure, in place. Source: pkg/registry/core/service/strategy.go (patchAllocatedValues, dropTypeDependentFields).
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

_IP_FIELDS = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
_EXPOSED = ("NodePort", "LoadBalancer")


def inherit(new: Object, old: Object) -> None:
    """Runs before defaulting, so the type may be absent."""
    spec, before = new.setdefault("spec", {}), old.get("spec") or {}
    kind = spec.get("type") or "ClusterIP"
    _ips(spec, before, kind)
    if kind in _EXPOSED:
        _keep_ports(spec, before)
        _health_check_port(spec, before, kind)
    else:
        _drop_ports(spec, before)
        _drop(spec, before, ("externalTrafficPolicy", "healthCheckNodePort"))
    if kind != "LoadBalancer":
        _drop(spec, before, ("allocateLoadBalancerNodePorts", "loadBalancerClass"))


def needs_health_check_port(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _health_check_port(spec: Object, before: Object, kind: str) -> None:
    needs = needs_health_check_port({**spec, "type": kind})
    had = before.get("healthCheckNodePort") if needs_health_check_port(before) else None
    if needs and had and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = had
    elif not needs and had and spec.get("healthCheckNodePort") == had:
        del spec["healthCheckNodePort"]


def _ips(spec: Object, before: Object, kind: str) -> None:
    if kind == "ExternalName":
        if before.get("type") != "ExternalName":
            _drop(spec, before, (*_IP_FIELDS, "internalTrafficPolicy"))
    elif before.get("type") != "ExternalName":
        _keep_ips(spec, before)


def _keep_ips(spec: Object, before: Object) -> None:
    """clusterIP and clusterIPs say one thing; a client may know the first alone (patchAllocatedValues,
    normalizeClusterIPs). Families follow from the addresses (servicefamilies.py)."""
    ip, ips = before.get("clusterIP"), before.get("clusterIPs")
    if not spec.get("clusterIP") and ip:
        spec["clusterIP"] = ip
    if spec.get("clusterIP") == ip:
        if not spec.get("clusterIPs") and ips:
            spec["clusterIPs"] = list(ips)
    elif spec.get("clusterIP") and (not spec.get("clusterIPs") or spec["clusterIPs"] == ips):
        spec["clusterIPs"] = [spec["clusterIP"]]


def _drop(spec: Object, before: Object, fields: tuple[str, ...]) -> None:
    """Those the client only left as they were."""
    for field in fields:
        if field in spec and spec[field] == before.get(field):
            del spec[field]


def _keep_ports(spec: Object, before: Object) -> None:
    old = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in before.get("ports") or ()}
    used = {p.get("nodePort") for p in spec.get("ports") or ()}
    for p in spec.get("ports") or ():
        kept = old.get((p.get("protocol") or "TCP", p.get("port")))
        if not p.get("nodePort") and kept and kept not in used:
            p["nodePort"] = kept


def _drop_ports(spec: Object, before: Object) -> None:
    dropped = {p.get("nodePort") for p in before.get("ports") or ()}
    for p in spec.get("ports") or ():
        if p.get("nodePort") in dropped:
            p.pop("nodePort", None)
