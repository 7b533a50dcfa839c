"""From hand-made Endpoints to the EndpointSlices that proxies read.

Pure. Source: kubernetes pkg/controller/endpointslicemirroring. Endpoints of Services that have a selector are the
Endpoints controller's, and their slices the EndpointSlice controller's; these are never mirrored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from cluster.api.meta import owner_reference
from cluster.controllers import endpoints_core as core
from cluster.machinery.client import Obj

CONTROLLER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
_LEADER = "control-plane.alpha.kubernetes.io/leader"
_NOT_COPIED = frozenset(
    (_LEADER, "endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration")
)
MAX_PER_SUBSET = 1000


def is_mirrored(service: Obj | None, endpoints: Obj | None) -> bool:
    """Neither opted out, nor somebody's lock, nor those of a Service that finds its pods by itself."""
    if service is None or endpoints is None:
        return False
    meta = endpoints["metadata"]
    skipped = (meta.get("labels") or {}).get(SKIP) == "true" or _LEADER in (meta.get("annotations") or {})
    return not skipped and not service["spec"].get("selector")


def plan(endpoints: Obj, slices: Sequence[Obj], max_per_slice: int) -> tuple[core.SlicePlan, int, int]:
    """(what to write, addresses that are none, addresses beyond what is mirrored)."""
    wanted: dict[core.Group, dict[str, Obj]] = {}
    invalid = beyond = 0
    for subset in endpoints.get("subsets") or ():
        ports = core.dump([_port(p) for p in subset.get("ports") or ()])
        taken = 0
        for ready in (True, False):
            for address in subset.get("addresses" if ready else "notReadyAddresses") or ():
                family = _family(address["ip"])
                if not family:
                    invalid += 1
                elif taken == MAX_PER_SUBSET:
                    beyond += 1
                else:
                    taken += 1
                    wanted.setdefault((family, ports), {}).setdefault(address["ip"], _endpoint(address, ready))
    return core.publish(_publisher(endpoints), wanted, slices, max_per_slice), invalid, beyond


def _publisher(endpoints: Obj) -> core.Publisher:
    meta = endpoints["metadata"]
    labels = {k: v for k, v in (meta.get("labels") or {}).items() if k not in (core.SERVICE_NAME, core.MANAGED_BY)}
    labels |= {core.SERVICE_NAME: meta["name"], core.MANAGED_BY: CONTROLLER}
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k not in _NOT_COPIED}
    owner = owner_reference({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta})
    return core.Publisher(meta["namespace"], f"{meta['name']}-", owner, labels, annotations)


def _port(port: Mapping[str, object]) -> Obj:
    entry: Obj = {"name": port.get("name") or "", "port": port["port"], "protocol": port.get("protocol", "TCP")}
    if port.get("appProtocol"):
        entry["appProtocol"] = port["appProtocol"]
    return entry


def _endpoint(address: Obj, ready: bool) -> Obj:
    endpoint: Obj = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
    for name in ("targetRef", "nodeName", "hostname"):
        if address.get(name):
            endpoint[name] = address[name]
    return endpoint


def _family(ip: str) -> str:
    try:
        return f"IPv{ipaddress.ip_address(ip).version}"
    except ValueError:
        return ""
