"""What scheduler, controllers and kubelet all ask of a pod.

Pure. The effective request is Kubernetes' (k8s.io/component-helpers `resource`): restartable init containers
(sidecars) add up with the containers; an ordinary init container needs itself plus the sidecars started before it;
the pod needs the larger of both, plus overhead. Pod-level resources (spec.resources) replace the sum where given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.api import quantity
from cluster.api.meta import is_true

Pod = Mapping[str, Any]


def is_terminal(pod: Pod) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_terminating(pod: Pod) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Pod) -> bool:
    return is_true(pod, "Ready")


def is_static(pod: Pod) -> bool:
    return "kubernetes.io/config.mirror" in (pod["metadata"].get("annotations") or {})


def amount(resource: str, v: str | int | float) -> int:
    """cpu in millicores, everything else in units, rounded up."""
    return quantity.millis(v) if resource == "cpu" else quantity.units(v)


def amounts(quantities: Mapping[str, Any] | None) -> dict[str, int]:
    return {k: amount(k, v) for k, v in (quantities or {}).items()}


def _add(into: dict[str, int], more: Mapping[str, int]) -> None:
    for k, v in more.items():
        into[k] = into.get(k, 0) + v


def _raise_to(into: dict[str, int], floor: Mapping[str, int]) -> None:
    for k, v in floor.items():
        if v > into.get(k, 0):
            into[k] = v


def _total(spec: Mapping[str, Any], field: str) -> dict[str, int]:
    running: dict[str, int] = {}
    for c in spec.get("containers") or ():
        _add(running, amounts((c.get("resources") or {}).get(field)))
    sidecars: dict[str, int] = {}
    initial: dict[str, int] = {}
    for c in spec.get("initContainers") or ():
        need = amounts((c.get("resources") or {}).get(field))
        if c.get("restartPolicy") == "Always":
            _add(running, need)
            _add(sidecars, need)
            need = dict(sidecars)
        else:
            _add(need, sidecars)
        _raise_to(initial, need)
    _raise_to(running, initial)
    running.update(amounts((spec.get("resources") or {}).get(field)))
    return running


def is_extended(resource: str) -> bool:
    """Whether it is counted in whole pieces and never overcommitted; what Kubernetes names itself is not."""
    return "/" in resource and "kubernetes.io/" not in resource


def pod_requests(pod: Pod) -> dict[str, int]:
    spec = pod.get("spec") or {}
    total = _total(spec, "requests")
    _add(total, amounts(spec.get("overhead")))
    return total


def pod_limits(pod: Pod) -> dict[str, int]:
    spec = pod.get("spec") or {}
    total = _total(spec, "limits")
    for k, v in amounts(spec.get("overhead")).items():
        if k in total:
            total[k] += v
    return total


def qos_class(pod: Pod) -> str:
    """Guaranteed, Burstable or BestEffort, by cpu and memory of all containers."""
    spec = pod.get("spec") or {}
    containers: Iterable[Mapping[str, Any]] = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    if (spec.get("resources") or {}).get("requests") or (spec.get("resources") or {}).get("limits"):
        containers = [{"resources": spec["resources"]}]
    any_request = False
    guaranteed = True
    for c in containers:
        resources = c.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        for r in ("cpu", "memory"):
            request, limit = requests.get(r), limits.get(r)
            if (request and quantity.parse_quantity(request)) or (limit and quantity.parse_quantity(limit)):
                any_request = True
            same = not request or not limit or quantity.parse_quantity(request) == quantity.parse_quantity(limit)
            if not same or not limit or not quantity.parse_quantity(limit):
                guaranteed = False
    if not any_request:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
