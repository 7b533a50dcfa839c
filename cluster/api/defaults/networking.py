"""Defaults of NetworkPolicy and IngressClass (pkg/apis/networking/v1/defaults.go). Pure, in place."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def default_network_policy(obj: Object) -> None:
    """A policy speaks of ingress always, of egress when it has egress rules."""
    spec = obj.setdefault("spec", {})
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            for port in rule.get("ports") or ():
                port.setdefault("protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def default_ingress_class(obj: Object) -> None:
    parameters = (obj.get("spec") or {}).get("parameters")
    if parameters is not None:
        parameters.setdefault("scope", "Cluster")
