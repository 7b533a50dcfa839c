"""Validation of NetworkPolicy, Ingress and IngressClass (pkg/apis/networking/validation).

Pure.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_PROTOCOLS = ("SCTP", "TCP", "UDP")
_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_BAD_PATHS = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDS = ("/..", "/.")
CLASS_ANNOTATION = "kubernetes.io/ingress.class"


# --- NetworkPolicy ----------------------------------------------------------------------------------------------------


def _policy_port(faults: Faults, at: str, p: Object) -> None:
    if p.get("protocol") not in _PROTOCOLS:
        faults.unsupported(at + ".protocol", p.get("protocol"), _PROTOCOLS)
    port, end = p.get("port"), p.get("endPort")
    if isinstance(port, str):
        faults.check(at + ".port", port, fields.port_name(port))
    elif port is not None:
        faults.check(at + ".port", port, fields.port_number(port))
    if end is None:
        return
    if port is None:
        faults.required(at + ".endPort", "may not be specified when `port` is not specified")
    elif isinstance(port, str):
        faults.required(at + ".endPort", "may not be specified when `port` is non-numeric")
    elif end < port:
        faults.invalid(at + ".endPort", end, "must be greater than or equal to `port`")
    faults.check(at + ".endPort", end, fields.port_number(end))


def _ip_block(faults: Faults, at: str, block: Object) -> None:
    cidr = block.get("cidr", "")
    if not cidr:
        faults.required(at + ".cidr")
        return
    try:
        outer = ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        faults.invalid(at + ".cidr", cidr, _CIDR)
        return
    for i, text in enumerate(block.get("except") or ()):
        where = f"{at}.except[{i}]"
        try:
            inner = ipaddress.ip_network(text, strict=False)
        except ValueError:
            faults.invalid(where, text, _CIDR)
            continue
        if inner.version != outer.version or not inner.subnet_of(outer) or inner == outer:  # type: ignore[arg-type]
            faults.invalid(where, text, "must be a strict subset of `cidr`")


def _peer(faults: Faults, at: str, peer: Object) -> None:
    given = [k for k in ("podSelector", "namespaceSelector", "ipBlock") if k in peer]
    if not given:
        faults.required(at, "must specify a peer")
    if "ipBlock" in given and len(given) > 1:
        faults.forbidden(at, "may not specify both ipBlock and another peer")
    for field in ("podSelector", "namespaceSelector"):
        fields.label_selector(faults, f"{at}.{field}", peer.get(field))
    if "ipBlock" in given:
        _ip_block(faults, at + ".ipBlock", peer["ipBlock"])


def validate_network_policy(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    fields.label_selector(faults, "spec.podSelector", spec.get("podSelector"))
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{i}]"
            for j, port in enumerate(rule.get("ports") or ()):
                _policy_port(faults, f"{at}.ports[{j}]", port)
            for j, peer in enumerate(rule.get(side) or ()):
                _peer(faults, f"{at}.{side}[{j}]", peer)
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        faults.invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
    for i, t in enumerate(types):
        faults.enum(f"spec.policyTypes[{i}]", t, ("Egress", "Ingress"))


# --- Ingress ----------------------------------------------------------------------------------------------------------


def _is_ip(text: str) -> bool:
    return not fields.ip_address(text)


def _host(faults: Faults, at: str, host: str) -> None:
    if _is_ip(host):
        faults.invalid(at, host, "must be a DNS name, not an IP address")
    elif "*" in host:
        rest = host.removeprefix("*.")
        why = fields.dns_subdomain(rest) if host.startswith("*.") else "a wildcard may only be the first label: *."
        faults.check(at, host, why)
    else:
        faults.check(at, host, fields.dns_subdomain(host))


def _backend(faults: Faults, at: str, backend: Object) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        faults.invalid(at, "", "cannot set both resource and service backends")
    elif resource is not None:
        for field in ("kind", "name"):
            if not resource.get(field):
                faults.required(f"{at}.resource.{field}")
    elif service is None:
        faults.required(at, "resource or service backend is required")
    else:
        _service_backend(faults, at + ".service", service)


def _service_backend(faults: Faults, at: str, service: Object) -> None:
    name, port = service.get("name", ""), service.get("port") or {}
    if not name:
        faults.required(at + ".name")
    else:
        faults.check(at + ".name", name, fields.dns_1035_label(name))
    if port.get("name") and port.get("number"):
        faults.invalid(at, "", "cannot set both port name & port number")
    elif port.get("name"):
        faults.check(at + ".port.name", port["name"], fields.port_name(port["name"]))
    elif port.get("number"):
        faults.check(at + ".port.number", port["number"], fields.port_number(port["number"]))
    else:
        faults.required(at, "port name or number is required")


def _path(faults: Faults, at: str, p: Object) -> None:
    kind, path = p.get("pathType"), p.get("path", "")
    if not kind:
        faults.required(at + ".pathType", "pathType must be specified")
    elif kind in ("Exact", "Prefix"):
        if not path.startswith("/"):
            faults.invalid(at + ".path", path, "must be an absolute path")
        for bad in _BAD_PATHS:
            if bad in path:
                faults.invalid(at + ".path", path, f"must not contain '{bad}'")
        for bad in _BAD_ENDS:
            if path.endswith(bad):
                faults.invalid(at + ".path", path, f"cannot end with '{bad}'")
    elif kind == "ImplementationSpecific":
        if path and not path.startswith("/"):
            faults.invalid(at + ".path", path, "must be an absolute path")
    else:
        faults.unsupported(at + ".pathType", kind, ("Exact", "ImplementationSpecific", "Prefix"))
    _backend(faults, at + ".backend", p.get("backend") or {})


def validate_ingress(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    rules, default = spec.get("rules") or [], spec.get("defaultBackend")
    if not rules and default is None:
        faults.invalid("spec", rules, "either `defaultBackend` or `rules` must be specified")
    if default is not None:
        _backend(faults, "spec.defaultBackend", default)
    for i, rule in enumerate(rules):
        at = f"spec.rules[{i}]"
        if rule.get("host"):
            _host(faults, at + ".host", rule["host"])
        http = rule.get("http")
        if http is None:
            continue
        if not http.get("paths"):
            faults.required(at + ".http.paths")
        for j, p in enumerate(http.get("paths") or ()):
            _path(faults, f"{at}.http.paths[{j}]", p)
    for i, tls in enumerate(spec.get("tls") or ()):
        for j, host in enumerate(tls.get("hosts") or ()):
            _host(faults, f"spec.tls[{i}].hosts[{j}]", host)
        if tls.get("secretName"):
            faults.check(f"spec.tls[{i}].secretName", tls["secretName"], fields.dns_subdomain(tls["secretName"]))
    name = spec.get("ingressClassName")
    if name is not None:
        faults.check("spec.ingressClassName", name, fields.dns_subdomain(name))
    annotation = (obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION)
    if annotation is not None and name is not None and "creationTimestamp" not in obj["metadata"]:
        why = "can not be set when the class field is also set"
        faults.invalid(f"metadata.annotations[{CLASS_ANNOTATION}]", annotation, why)


def validate_ingress_class(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    controller = spec.get("controller", "")
    if not controller:
        faults.required("spec.controller")
    elif len(controller) > 250:
        faults.too_long("spec.controller", 250)
    else:
        prefix, slash, path = controller.partition("/")
        why = fields.dns_subdomain(prefix) if slash and path else "must be a domain-prefixed path (such as acme.io/foo)"
        faults.check("spec.controller", controller, why)
    parameters = spec.get("parameters")
    if parameters is None:
        return
    for field in ("kind", "name"):
        if not parameters.get(field):
            faults.required(f"spec.parameters.{field}")
    scope, namespace = parameters.get("scope"), parameters.get("namespace")
    faults.enum("spec.parameters.scope", scope, ("Cluster", "Namespace"))
    if scope == "Namespace" and not namespace:
        faults.required("spec.parameters.namespace", "`parameters.scope` is set to 'Namespace'")
    if scope == "Cluster" and namespace is not None:
        faults.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'")


def validate_ingress_class_update(faults: Faults, new: Object, old: Object) -> None:
    a, b = ((o.get("spec") or {}).get("controller") for o in (new, old))
    faults.immutable("spec.controller", a, b)
