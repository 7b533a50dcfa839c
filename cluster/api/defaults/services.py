"""Defaults of Service, Endpoints and EndpointSlice (pkg/apis/core/v1/defaults.go, pkg/apis/discovery/v1).

Pure, in place. IP families and addresses are the registry's to allocate, not defaults.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

CLIENT_IP_TIMEOUT_S = 10800


def default_service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("sessionAffinity"):
        spec["sessionAffinity"] = "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {})
        config.setdefault("clientIP", {}).setdefault("timeoutSeconds", CLIENT_IP_TIMEOUT_S)
    if not spec.get("type"):
        spec["type"] = "ClusterIP"
    for p in spec.get("ports") or ():
        if not p.get("protocol"):
            p["protocol"] = "TCP"
        if p.get("targetPort") in (None, 0, ""):
            p["targetPort"] = p.get("port")
    kind = spec["type"]
    if kind in ("NodePort", "LoadBalancer") and not spec.get("externalTrafficPolicy"):
        spec["externalTrafficPolicy"] = "Cluster"
    if kind in ("ClusterIP", "NodePort", "LoadBalancer"):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def default_endpoints(obj: Object) -> None:
    for subset in obj.get("subsets") or ():
        for p in subset.get("ports") or ():
            if not p.get("protocol"):
                p["protocol"] = "TCP"


def default_endpoint_slice(obj: Object) -> None:
    for p in obj.get("ports") or ():
        p.setdefault("name", "")
        p.setdefault("protocol", "TCP")
