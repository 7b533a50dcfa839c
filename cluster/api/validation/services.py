"""Validation of Service, Endpoints and EndpointSlice (pkg/apis/{core,discovery}/validation).

Pure. That an address or node port is free is the allocator's to say.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from cluster.api.validation import fields, ips
from cluster.api.validation.fields import Faults
from cluster.api.validation.service_ips import validate_cluster_ips, validate_cluster_ips_update

Object = dict[str, Any]

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_POLICIES = ("Cluster", "Local")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
MAX_AFFINITY_S = 86400


def validate_service(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    kind = spec.get("type")
    headless = spec.get("clusterIP") == "None"
    faults.enum("spec.type", kind, _TYPES)
    if not spec.get("ports") and not headless and kind != "ExternalName":
        faults.required("spec.ports")
    if kind in ("NodePort", "LoadBalancer") and headless:
        faults.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        _external(faults, spec)
    _ports(faults, spec.get("ports") or [], kind)
    fields.check_labels(faults, "spec.selector", spec.get("selector"))
    faults.enum("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    for field in ("internalTrafficPolicy", "externalTrafficPolicy"):
        if spec.get(field):
            faults.enum("spec." + field, spec[field], _POLICIES)
    if spec.get("externalTrafficPolicy") and kind not in ("NodePort", "LoadBalancer"):
        why = "may only be set for externally-accessible services"
        faults.invalid("spec.externalTrafficPolicy", spec["externalTrafficPolicy"], why)
    for i, ip in enumerate(spec.get("externalIPs") or ()):
        ips.validate_external(faults, f"spec.externalIPs[{i}]", ip)
    _affinity(faults, spec)
    _load_balancer(faults, spec, kind)
    validate_cluster_ips(faults, spec)


def _affinity(faults: Faults, spec: Object) -> None:
    config = spec.get("sessionAffinityConfig")
    if config is None:
        return
    if spec.get("sessionAffinity") != "ClientIP":
        faults.forbidden("spec.sessionAffinityConfig", "must not be set when session affinity is None")
        return
    seconds = (config.get("clientIP") or {}).get("timeoutSeconds")
    at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    if seconds is None:
        faults.required(at)
    elif not 0 < seconds <= MAX_AFFINITY_S:
        faults.invalid(at, seconds, f"must be greater than 0 and less than {MAX_AFFINITY_S}")


def _load_balancer(faults: Faults, spec: Object, kind: Any) -> None:
    """What only a load balancer has, and what hints there are for whom traffic goes to."""
    only = "may only be used when `type` is 'LoadBalancer'"
    if kind != "LoadBalancer":
        for field in ("loadBalancerSourceRanges", "loadBalancerClass", "allocateLoadBalancerNodePorts"):
            if spec.get(field) not in (None, [], ""):
                faults.forbidden("spec." + field, only)
    for i, cidr in enumerate(spec.get("loadBalancerSourceRanges") or () if kind == "LoadBalancer" else ()):
        at = f"spec.loadBalancerSourceRanges[{i}]"
        try:
            ipaddress.ip_network(str(cidr).strip(), strict=False)
        except ValueError:
            faults.invalid(at, cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
    if kind == "LoadBalancer" and spec.get("loadBalancerClass"):
        name = spec["loadBalancerClass"]
        faults.check("spec.loadBalancerClass", name, fields.qualified_name(name))
    port = spec.get("healthCheckNodePort")
    if port and not (kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"):
        why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        faults.invalid("spec.healthCheckNodePort", port, why)
    elif port:
        faults.check("spec.healthCheckNodePort", port, fields.port_number(port))
    if spec.get("trafficDistribution"):
        faults.enum("spec.trafficDistribution", spec["trafficDistribution"], _DISTRIBUTIONS)


def _external(faults: Faults, spec: Object) -> None:
    if spec.get("clusterIP") or spec.get("clusterIPs"):
        faults.forbidden("spec.clusterIPs", "may not be set for ExternalName services")
    name = spec.get("externalName", "").rstrip(".")
    if not name:
        faults.required("spec.externalName")
    else:
        faults.check("spec.externalName", spec["externalName"], fields.dns_subdomain(name))


def _ports(faults: Faults, ports: list[Object], kind: Any) -> None:
    names: set[str] = set()
    seen: set[tuple[Any, Any]] = set()
    node_ports: set[tuple[Any, Any]] = set()
    for i, p in enumerate(ports):
        at = f"spec.ports[{i}]"
        name = p.get("name", "")
        if not name:
            if len(ports) > 1:
                faults.required(at + ".name")
        else:
            faults.check(at + ".name", name, fields.dns_label(name))
            if name in names:
                faults.duplicate(at + ".name", name)
            names.add(name)
        faults.check(at + ".port", p.get("port", 0), fields.port_number(p.get("port", 0)))
        faults.enum(at + ".protocol", p.get("protocol"), _PROTOCOLS)
        target = p.get("targetPort")
        if isinstance(target, int):
            faults.check(at + ".targetPort", target, fields.port_number(target))
        elif target is not None:
            faults.check(at + ".targetPort", target, fields.port_name(target))
        if p.get("appProtocol"):
            faults.check(at + ".appProtocol", p["appProtocol"], fields.qualified_name(p["appProtocol"]))
        if (p.get("protocol"), p.get("port")) in seen:
            faults.duplicate(at, {"protocol": p.get("protocol"), "port": p.get("port")})
        seen.add((p.get("protocol"), p.get("port")))
        if p.get("nodePort"):
            if kind not in ("NodePort", "LoadBalancer"):
                faults.forbidden(at + ".nodePort", f"may not be used when `type` is '{kind}'")
            if (p.get("protocol"), p["nodePort"]) in node_ports:
                faults.duplicate(at + ".nodePort", p["nodePort"])
            node_ports.add((p.get("protocol"), p["nodePort"]))


def validate_service_update(faults: Faults, new: Object, old: Object) -> None:
    """A cluster IP, once given, stays while the Service has one; so does the port of health checks."""
    a, b = new["spec"], old["spec"]
    health = b.get("healthCheckNodePort")
    if health and a.get("healthCheckNodePort") and a["healthCheckNodePort"] != health:
        faults.invalid("spec.healthCheckNodePort", a["healthCheckNodePort"], "field is immutable")
    validate_cluster_ips_update(faults, a, b)


def _endpoint_ports(faults: Faults, at: str, ports: list[Object]) -> None:
    for i, p in enumerate(ports):
        if p.get("port") is not None:
            faults.check(f"{at}[{i}].port", p["port"], fields.port_number(p["port"]))
        if p.get("protocol"):
            faults.enum(f"{at}[{i}].protocol", p["protocol"], _PROTOCOLS)
        if p.get("name"):
            faults.check(f"{at}[{i}].name", p["name"], fields.dns_label(p["name"]))


def validate_endpoints(faults: Faults, obj: Object) -> None:
    for i, subset in enumerate(obj.get("subsets") or ()):
        at = f"subsets[{i}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            faults.required(at, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for j, a in enumerate(subset.get(field) or ()):
                faults.check(f"{at}.{field}[{j}].ip", a.get("ip", ""), fields.ip_address(a.get("ip", "")))
        _endpoint_ports(faults, at + ".ports", subset.get("ports") or [])


def validate_endpoint_slice(faults: Faults, obj: Object) -> None:
    faults.enum("addressType", obj.get("addressType", ""), ("FQDN", "IPv4", "IPv6"))
    endpoints = obj.get("endpoints") or []
    if len(endpoints) > 1000:
        faults.too_long("endpoints", 1000)
    for i, e in enumerate(endpoints):
        addresses = e.get("addresses") or []
        if not addresses:
            faults.required(f"endpoints[{i}].addresses", "must contain at least 1 address")
        for j, a in enumerate(addresses):
            if obj.get("addressType") in ("IPv4", "IPv6"):
                ips.validate_of_type(faults, f"endpoints[{i}].addresses[{j}]", a, obj["addressType"])
    _endpoint_ports(faults, "ports", obj.get("ports") or [])


def validate_endpoint_slice_update(faults: Faults, new: Object, old: Object) -> None:
    faults.immutable("addressType", new.get("addressType"), old.get("addressType"))
