"""From a Service and its pods to EndpointSlices and Endpoints, touching as few slices as possible.

Pure. Source: kubernetes staging/src/k8s.io/endpointslice (reconciler.go, utils.go) and pkg/controller/endpoint.

Conditions of an endpoint: serving = the pod is Ready; terminating = it is being deleted; ready = serving and not
terminating, or whatever the pod says when the Service publishes not-ready addresses.
Invariants: at most `max_per_slice` endpoints a slice; one address family and one set of ports a slice; an address of a
group is in exactly one of its slices.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from cluster.api.meta import owner_reference
from cluster.api.pods import is_ready, is_terminal
from cluster.machinery.client import Obj

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"
MAX_LEGACY = 1000
_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"


@dataclass(frozen=True, slots=True)
class SlicePlan:
    create: tuple[Obj, ...]
    update: tuple[Obj, ...]
    delete: tuple[Obj, ...]


Group = tuple[str, bytes]  # address type, canonical JSON of the ports


@dataclass(frozen=True, slots=True)
class Publisher:
    """Whose slices they are: what a new one is made with, and the labels and annotations that all of them carry."""

    namespace: str
    name_prefix: str
    owner: Obj
    labels: dict[str, str]
    annotations: dict[str, str] = field(default_factory=dict)


def plan_slices(
    service: Obj, pods: Sequence[Obj], slices: Sequence[Obj], zones: Mapping[str, str], max_per_slice: int = 100
) -> SlicePlan:
    """`slices`: those of this Service that this controller manages; `zones`: zone by node name."""
    wanted: dict[Group, dict[str, Obj]] = {}
    for family in _families(service):
        for pod in pods:
            address = _address(pod, family)
            if not address or is_terminal(pod):
                continue
            group = (family, dump(_ports(service, pod)))
            wanted.setdefault(group, {})[address] = endpoint(service, pod, address, zones)
        if not any(g[0] == family for g in wanted):
            # One empty slice says that the Service is known and has no endpoints; without them there are no ports.
            wanted[(family, dump([]))] = {}
    _hint(service, [e for endpoints in wanted.values() for e in endpoints.values()])
    meta = service["metadata"]
    owner = owner_reference({"apiVersion": "v1", "kind": "Service", "metadata": meta})
    publisher = Publisher(meta["namespace"], f"{meta['name']}-", owner, _labels(service))
    return publish(publisher, wanted, slices, max_per_slice)


def publish(
    publisher: Publisher, wanted: Mapping[Group, dict[str, Obj]], slices: Sequence[Obj], max_per_slice: int
) -> SlicePlan:
    """From the publisher's `slices` to those that hold what is `wanted`: endpoints by address, of each group."""
    create: list[Obj] = []
    update: list[Obj] = []
    delete = [s for s in slices if _group_of(s) not in wanted]
    for group, endpoints in wanted.items():
        existing = [s for s in slices if _group_of(s) == group]
        _pack(publisher, group, endpoints, existing, max_per_slice, create, update, delete)
    return SlicePlan(tuple(create), tuple(update), tuple(delete))


def _pack(
    publisher: Publisher,
    group: Group,
    endpoints: dict[str, Obj],
    existing: Sequence[Obj],
    limit: int,
    create: list[Obj],
    update: list[Obj],
    delete: list[Obj],
) -> None:
    """Keep what is in place, drop what is gone, put the new into the free room, then into new slices."""
    left = dict(endpoints)
    kept: list[tuple[Obj, list[Obj]]] = []
    for old in sorted(existing, key=lambda s: str(s["metadata"]["name"])):
        stay = [left.pop(a) for a in _addresses(old) if a in left]
        kept.append((old, stay))
    rest = [left[a] for a in left]
    for _, stay in kept:
        room = limit - len(stay)
        if room > 0 and rest:
            stay += rest[:room]
            rest = rest[room:]
    any_left = bool(rest) or any(stay for _, stay in kept)
    for i, (old, stay) in enumerate(kept):
        if not stay and (any_left or i > 0):
            delete.append(old)
        elif stay != (old.get("endpoints") or []) or not _carries(publisher, old["metadata"]):
            said = {"labels": publisher.labels, "annotations": publisher.annotations}
            update.append({**old, "metadata": {**old["metadata"], **said}, "endpoints": stay})
    while rest or (not kept and not endpoints and not _created_for(create, group)):
        create.append(_new_slice(publisher, group, rest[:limit]))
        rest = rest[limit:]


def _carries(publisher: Publisher, meta: Obj) -> bool:
    same_labels = (meta.get("labels") or {}) == publisher.labels
    return same_labels and (meta.get("annotations") or {}) == publisher.annotations


def _created_for(create: Sequence[Obj], group: Group) -> bool:
    return any(_group_of(s) == group for s in create)


def _new_slice(publisher: Publisher, group: Group, endpoints: list[Obj]) -> Obj:
    ports: list[Obj] = orjson.loads(group[1])
    meta: Obj = {
        "generateName": publisher.name_prefix,
        "namespace": publisher.namespace,
        "labels": publisher.labels,
        "ownerReferences": [publisher.owner],
    }
    if publisher.annotations:
        meta["annotations"] = publisher.annotations
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": group[0],
        "endpoints": endpoints,
        "ports": ports,
    }


def endpoint(service: Obj, pod: Obj, address: str, zones: Mapping[str, str]) -> Obj:
    meta, spec = pod["metadata"], pod["spec"]
    serving = is_ready(pod)
    terminating = "deletionTimestamp" in meta
    result: Obj = {
        "addresses": [address],
        "conditions": {
            "ready": bool(service["spec"].get("publishNotReadyAddresses")) or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
    }
    if spec.get("nodeName"):
        result["nodeName"] = spec["nodeName"]
        if zones.get(spec["nodeName"]):
            result["zone"] = zones[spec["nodeName"]]
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        result["hostname"] = spec["hostname"]
    return result


def _hint(service: Obj, endpoints: list[Obj]) -> None:
    """spec.trafficDistribution (KEP-2433, KEP-3015): each ready endpoint is for its own zone, or node; in place. Where
    one has no zone there are no hints for zones at all, or that endpoint would get no traffic."""
    wish = service["spec"].get("trafficDistribution")
    ready = [e for e in endpoints if e["conditions"]["ready"]]
    if wish not in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        return
    zoned = all(e.get("zone") for e in ready)
    for e in ready:
        hints: Obj = {"forZones": [{"name": e["zone"]}]} if zoned else {}
        if wish == "PreferSameNode" and e.get("nodeName"):
            hints["forNodes"] = [{"name": e["nodeName"]}]
        if hints:
            e["hints"] = hints


def is_headless(service: Obj) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def has_selector(service: Obj) -> bool:
    """Services without a selector are filled by somebody else; ExternalName has no endpoints."""
    return bool(service["spec"].get("selector")) and service["spec"].get("type") != "ExternalName"


def _labels(service: Obj) -> dict[str, str]:
    own = service["metadata"].get("labels") or {}
    labels = {k: v for k, v in own.items() if k not in (SERVICE_NAME, MANAGED_BY, HEADLESS)}
    labels |= {SERVICE_NAME: service["metadata"]["name"], MANAGED_BY: CONTROLLER}
    if is_headless(service):
        labels[HEADLESS] = ""
    return labels


def _families(service: Obj) -> list[str]:
    return list(service["spec"].get("ipFamilies") or ["IPv4"])


def _address(pod: Obj, family: str) -> str:
    status = pod.get("status") or {}
    version = 6 if family == "IPv6" else 4
    candidates = [p.get("ip", "") for p in status.get("podIPs") or []] or [status.get("podIP", "")]
    for ip in candidates:
        if ip and ipaddress.ip_address(ip).version == version:
            return str(ip)
    return ""


def _ports(service: Obj, pod: Obj) -> list[Obj]:
    """The ports of the Service as this pod has them; a named target port the pod does not know is left out."""
    result: list[Obj] = []
    for port in service["spec"].get("ports") or []:
        number = _target_port(port, pod)
        if number is None:
            continue
        entry = {"name": port.get("name", ""), "port": number, "protocol": port.get("protocol", "TCP")}
        if port.get("appProtocol"):
            entry["appProtocol"] = port["appProtocol"]
        result.append(entry)
    return result


def _target_port(port: Obj, pod: Obj) -> int | None:
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    if str(target).isdigit():
        return int(target)
    sidecars = [c for c in pod["spec"].get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    for container in [*pod["spec"].get("containers", []), *sidecars]:
        for candidate in container.get("ports") or []:
            if candidate.get("name") == target and candidate.get("protocol", "TCP") == port.get("protocol", "TCP"):
                return int(candidate["containerPort"])
    return None


def _group_of(slice_: Obj) -> Group:
    ports = []
    for port in slice_.get("ports") or []:
        entry = {"name": port.get("name") or "", "port": port.get("port"), "protocol": port.get("protocol", "TCP")}
        if port.get("appProtocol"):
            entry["appProtocol"] = port["appProtocol"]
        ports.append(entry)
    return (slice_.get("addressType", "IPv4"), dump(ports))


def _addresses(slice_: Obj) -> list[str]:
    return [e["addresses"][0] for e in slice_.get("endpoints") or [] if e.get("addresses")]


def dump(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


# ---- the legacy core/v1 Endpoints


def legacy(service: Obj, pods: Sequence[Obj], current: Obj | None) -> Obj | None:
    """The Endpoints object as it should be, None when `current` is right. Terminating pods have left it."""
    groups: dict[bytes, tuple[list[Obj], list[Obj]]] = {}
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    for pod in sorted(pods, key=lambda p: str((p.get("status") or {}).get("podIP", ""))):
        address = _address(pod, _families(service)[0])
        if not address or is_terminal(pod) or ("deletionTimestamp" in pod["metadata"] and not publish):
            continue
        ready, waiting = groups.setdefault(dump(_ports(service, pod)), ([], []))
        (ready if publish or is_ready(pod) else waiting).append(_legacy_address(service, pod, address))
    subsets, cut = _subsets(groups)
    before = (current or {}).get("metadata") or {}
    annotations = {k: v for k, v in (before.get("annotations") or {}).items() if k != _OVER_CAPACITY}
    if cut:
        annotations[_OVER_CAPACITY] = "truncated"
    labels = {k: v for k, v in (service["metadata"].get("labels") or {}).items() if k != HEADLESS}
    labels["endpoints.kubernetes.io/managed-by"] = "endpoint-controller"
    if is_headless(service):
        labels[HEADLESS] = ""
    meta = service["metadata"]
    if current is not None:
        marks = (before.get("labels") or {}, before.get("annotations") or {})
        if (current.get("subsets") or []) == subsets and marks == (labels, annotations):
            return None
    kept = {k: v for k, v in before.items() if k != "annotations"}
    new_meta: Obj = {"name": meta["name"], "namespace": meta["namespace"], **kept, "labels": labels}
    if annotations:
        new_meta["annotations"] = annotations
    return {**(current or {"apiVersion": "v1", "kind": "Endpoints"}), "metadata": new_meta, "subsets": subsets}


def _subsets(groups: dict[bytes, tuple[list[Obj], list[Obj]]]) -> tuple[list[Obj], bool]:
    left = MAX_LEGACY
    cut = False
    subsets: list[Obj] = []
    for ports in sorted(groups):
        ready, waiting = groups[ports]
        cut = cut or len(ready) + len(waiting) > left
        ready = ready[:left]
        left -= len(ready)
        waiting = waiting[:left]
        left -= len(waiting)
        subset: Obj = {}
        if ready:
            subset["addresses"] = ready
        if waiting:
            subset["notReadyAddresses"] = waiting
        decoded = [{k: v for k, v in p.items() if v != ""} for p in orjson.loads(ports)]
        if decoded:
            subset["ports"] = decoded
        if ready or waiting:
            subsets.append(subset)
    return subsets, cut


def _legacy_address(service: Obj, pod: Obj, address: str) -> Obj:
    meta, spec = pod["metadata"], pod["spec"]
    result: Obj = {"ip": address}
    if spec.get("nodeName"):
        result["nodeName"] = spec["nodeName"]
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        result["hostname"] = spec["hostname"]
    result["targetRef"] = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
    return result
