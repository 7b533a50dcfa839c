"""What an object costs a ResourceQuota: usage, scopes, and what a quota demands of a pod.

Pure. Usage is a dict from the quota's own resource names (`requests.cpu`, `count/jobs.batch`) to quantities, as in
`status.used`. Source: k8s.io/kubernetes pkg/quota/v1/evaluator/core, apiserver/pkg/quota/v1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cluster.api import amounts, pods
from cluster.api.quantity import parse_quantity
from cluster.api.scheme import ResourceInfo

Object = Mapping[str, Any]
Usage = dict[str, str]

IGNORED = frozenset(("events", "events.events.k8s.io"))
"""Resources whose objects are never counted."""

_PLAIN_COUNTS = frozenset(("configmaps", "secrets", "services", "replicationcontrollers", "resourcequotas",
                           "persistentvolumeclaims"))  # fmt: skip
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_DEMANDED = frozenset(
    ("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
)  # of every container, where a quota tracks them
_BY_CLASS = ".storageclass.storage.k8s.io/"


def count_name(info: ResourceInfo) -> str:
    return f"count/{info.name}"


def usage(info: ResourceInfo, obj: Object) -> Usage:
    """Everything `obj` could be charged for; {} for kinds that are never counted."""
    if info.name in IGNORED or not info.namespaced:
        return {}
    used = {count_name(info): "1"}
    if info.name in _PLAIN_COUNTS:
        used[info.name] = "1"
    more = _MORE.get(info.name)
    if more is not None:
        used.update(more(obj))
    return used


def _pod(pod: Object) -> Usage:
    """A pod that is over costs only its existence."""
    if pods.is_terminal(pod):
        return {}
    spec = pod.get("spec") or {}
    overhead = spec.get("overhead")
    requests = amounts.plus(amounts.pod_total(spec, "requests"), overhead)
    limits = amounts.pod_total(spec, "limits")
    limits = amounts.plus(limits, {k: v for k, v in (overhead or {}).items() if k in limits})
    return {"pods": "1", **_compute(requests, limits)}


def _compute(requests: Mapping[str, Any], limits: Mapping[str, Any]) -> Usage:
    used: Usage = {}
    for k in _COMPUTE:
        if k in requests:
            used[k] = used["requests." + k] = str(requests[k])
        if k in limits:
            used["limits." + k] = str(limits[k])
    for k, v in requests.items():
        if k.startswith("hugepages-"):
            used[k] = used["requests." + k] = str(v)
        elif pods.is_extended(k):  # requests alone
            used["requests." + k] = str(v)
    return used


def _service(service: Object) -> Usage:
    spec = service.get("spec") or {}
    kind, ports = spec.get("type"), spec.get("ports") or ()
    used = {"services.nodeports": "0", "services.loadbalancers": "0"}
    if kind == "NodePort":
        used["services.nodeports"] = str(len(ports))
    elif kind == "LoadBalancer":
        used["services.loadbalancers"] = "1"
        asked = len(ports)
        if spec.get("allocateLoadBalancerNodePorts") is False:
            asked = sum(1 for p in ports if p.get("nodePort"))
        used["services.nodeports"] = str(asked)
    return used


def _claim(claim: Object) -> Usage:
    spec = claim.get("spec") or {}
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    allocated = ((claim.get("status") or {}).get("allocatedResources") or {}).get("storage")
    if allocated is not None and (size is None or parse_quantity(allocated) > parse_quantity(size)):
        size = allocated  # a growth that was taken back is paid for until it is undone
    used: Usage = {}
    if size is not None:
        used["requests.storage"] = str(size)
    name = spec.get("storageClassName")
    if name:
        used[f"{name}{_BY_CLASS}persistentvolumeclaims"] = "1"
        if size is not None:
            used[f"{name}{_BY_CLASS}requests.storage"] = str(size)
    return used


_MORE: dict[str, Callable[[Object], Usage]] = {"pods": _pod, "services": _service, "persistentvolumeclaims": _claim}


def tracks(info: ResourceInfo, resource: str) -> bool:
    """Whether objects of this kind can be charged for the quota's `resource`."""
    if resource == count_name(info) or (resource == info.name and info.name in _PLAIN_COUNTS):
        return True
    if info.name == "pods":
        bare = resource.removeprefix("requests.").removeprefix("limits.")
        extended = resource.startswith("requests.") and "/" in bare
        return resource == "pods" or bare in _COMPUTE or bare.startswith("hugepages-") or extended
    if info.name == "services":
        return resource in ("services.nodeports", "services.loadbalancers")
    if info.name == "persistentvolumeclaims":
        return resource == "requests.storage" or _BY_CLASS in resource
    return False


def may_change(info: ResourceInfo, new: Object, old: Object) -> bool:
    """Whether an update can cost another amount than before; cheap, since it is asked of every status write."""
    if info.name == "pods":
        if pods.is_terminal(new) != pods.is_terminal(old):
            return True
        a, b = new.get("spec") or {}, old.get("spec") or {}
        fields = ("containers", "initContainers", "resources", "activeDeadlineSeconds")
        return any(a.get(f) != b.get(f) for f in fields)
    if info.name == "services":
        return bool(new.get("spec") != old.get("spec"))
    if info.name == "persistentvolumeclaims":
        return any(new.get(f) != old.get(f) for f in ("spec", "status"))
    return False


# --- scopes -----------------------------------------------------------------------------------------------------------


def matches(quota: Object, info: ResourceInfo, obj: Object) -> bool:
    """Whether the quota counts the object: it tracks something of its kind, and all its scopes hold."""
    spec = quota.get("spec") or {}
    if not any(tracks(info, r) for r in spec.get("hard") or ()):
        return False
    wanted = [{"scopeName": s, "operator": "Exists"} for s in spec.get("scopes") or ()]
    wanted += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_in_scope(info, w, obj) for w in wanted)


def _in_scope(info: ResourceInfo, wanted: Object, obj: Object) -> bool:
    scope, spec = wanted["scopeName"], obj.get("spec") or {}
    if scope == "VolumeAttributesClass" and info.name == "persistentvolumeclaims":
        return _selects(wanted, spec.get("volumeAttributesClassName") or "")
    if info.name != "pods":
        return False
    if scope in ("Terminating", "NotTerminating"):
        return bool((spec.get("activeDeadlineSeconds") is not None) == (scope == "Terminating"))
    if scope in ("BestEffort", "NotBestEffort"):
        return bool((pods.qos_class(obj) == "BestEffort") == (scope == "BestEffort"))
    if scope == "PriorityClass":
        return _selects(wanted, spec.get("priorityClassName") or "")
    return bool(scope == "CrossNamespacePodAffinity" and _reaches_out(spec))


def _selects(wanted: Object, value: str) -> bool:
    operator = wanted.get("operator")
    values: list[str] = wanted.get("values") or []
    if operator == "Exists":
        return bool(value)
    if operator == "DoesNotExist":
        return not value
    return (value in values) if operator == "In" else value not in values


def _reaches_out(spec: Object) -> bool:
    """Pod affinity terms that name other namespaces."""
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        hard = terms.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        soft = terms.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        for term in [*hard, *(t.get("podAffinityTerm") or {} for t in soft)]:
            if term.get("namespaces") or term.get("namespaceSelector") is not None:
                return True
    return False


# --- what a quota demands ---------------------------------------------------------------------------------------------


def missing(hard: Iterable[str], pod: Object) -> str:
    """`must specify cpu for: a,b; memory for: a`, or "": who tracks cpu or memory wants to be told by everyone."""
    demanded = sorted(_DEMANDED.intersection(hard))
    if not demanded:
        return ""
    spec = pod.get("spec") or {}
    of_pod = spec.get("resources") or {}
    covered = _compute(of_pod.get("requests") or {}, of_pod.get("limits") or {})
    who: dict[str, set[str]] = {}
    for c in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        resources = c.get("resources") or {}
        given = _compute(resources.get("requests") or {}, resources.get("limits") or {})
        for k in demanded:
            if k not in given and k not in covered:
                who.setdefault(k, set()).add(c["name"])
    return "must specify " + "; ".join(f"{k} for: {','.join(sorted(who[k]))}" for k in sorted(who)) if who else ""


def text(quantities: Mapping[str, str]) -> str:
    """`pods=1,requests.cpu=100m`."""
    return ",".join(f"{k}={quantities[k]}" for k in sorted(quantities))


def exceeded(hard: Mapping[str, Any], used: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    """The resources of which `wanted`, added to `used`, is more than `hard`; what gives back never is."""
    over = []
    for k, v in wanted.items():
        more = parse_quantity(v)
        if more > 0 and parse_quantity(used.get(k, "0")) + more > parse_quantity(hard[k]):
            over.append(k)
    return sorted(over)
