"""LimitRanger: a namespace's defaults for containers, and the bounds of what pods and claims may ask for.

IO only through PolicyView. Source: plugin/pkg/admission/limitranger of k8s.io/kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from cluster.api import amounts
from cluster.api.quantity import canonical, parse_quantity
from cluster.registry.admission.request import Request
from cluster.registry.admission.view import PolicyView

Object = dict[str, Any]
Quantities = Mapping[str, Any]

_ANNOTATION = "kubernetes.io/limit-ranger"


class LimitRanger:
    def __init__(self, view: PolicyView) -> None:
        self._view = view

    async def default(self, request: Request) -> None:
        """Fill in what containers leave out (mutating); new pods only."""
        if request.info.name != "pods" or request.operation != "CREATE" or request.obj is None:
            return
        for limits in await self._ranges(request):
            fill_in(request.obj, limits)

    async def validate(self, request: Request) -> None:
        obj = request.obj or {}
        if "deletionTimestamp" in obj.get("metadata", {}):
            return
        if request.info.name == "pods":
            if request.operation != "CREATE" and request.subresource != "resize":
                return
            faults: Callable[[list[Object], Object], list[str]] = pod_faults
        elif not request.subresource:
            faults = claim_faults
        else:
            return
        for limits in await self._ranges(request):
            found = faults(limits, obj)
            if found:
                raise request.forbid(found[0] if len(found) == 1 else f"[{', '.join(found)}]")

    async def _ranges(self, request: Request) -> Iterable[list[Object]]:
        if await self._view.empty("limitranges"):
            return ()
        found = await self._view.all("limitranges", request.namespace)
        return [(s.obj.get("spec") or {}).get("limits") or [] for s in found]


def fill_in(pod: Object, limits: list[Object]) -> None:
    """Kubernetes notes on the pod what it set."""
    defaults: dict[str, dict[str, Any]] = {"limits": {}, "requests": {}}
    for item in limits:
        if item.get("type") == "Container":
            defaults["limits"].update(item.get("default") or {})
            defaults["requests"].update(item.get("defaultRequest") or {})
    if not any(defaults.values()):
        return
    notes: list[str] = []
    for field, what in (("containers", "container"), ("initContainers", "init container")):
        for c in pod["spec"].get(field) or ():
            for kind, word in (("requests", "request"), ("limits", "limit")):
                given = (c.get("resources") or {}).get(kind) or {}
                missing = {k: v for k, v in defaults[kind].items() if k not in given}
                if missing:
                    c["resources"] = {**(c.get("resources") or {}), kind: {**given, **missing}}
                    notes.append(f"{', '.join(sorted(missing))} {word} for {what} {c['name']}")
    if notes:
        annotations = pod["metadata"].get("annotations") or {}
        pod["metadata"]["annotations"] = {**annotations, _ANNOTATION: "LimitRanger plugin set: " + "; ".join(notes)}


def pod_faults(limits: list[Object], pod: Object) -> list[str]:
    faults: list[str] = []
    spec = pod.get("spec") or {}
    for item in limits:
        if item.get("type") == "Container":
            for c in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
                resources = c.get("resources") or {}
                faults += _bounds(item, "Container", resources.get("requests") or {}, resources.get("limits") or {})
        elif item.get("type") == "Pod":
            faults += _bounds(item, "Pod", amounts.pod_total(spec, "requests"), amounts.pod_total(spec, "limits"))
    return faults


def claim_faults(limits: list[Object], claim: Object) -> list[str]:
    """Claims have no limits: both bounds are for the request."""
    requests = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    faults: list[str] = []
    for item in limits:
        if item.get("type") != "PersistentVolumeClaim":
            continue
        for k, v in _sorted(item.get("min")):
            faults += _minimum("PersistentVolumeClaim", k, v, requests, {})
        for k, v in _sorted(item.get("max")):
            faults += _at_most("request", "PersistentVolumeClaim", k, v, requests, needed=True)
    return faults


def _sorted(quantities: Quantities | None) -> list[tuple[str, Any]]:
    return sorted((quantities or {}).items())


def _bounds(item: Object, kind: str, requests: Quantities, limits: Quantities) -> list[str]:
    faults: list[str] = []
    for k, v in _sorted(item.get("min")):
        faults += _minimum(kind, k, v, requests, limits)
    for k, v in _sorted(item.get("max")):
        over = _at_most("limit", kind, k, v, limits, needed=True)
        faults += over or _at_most("request", kind, k, v, requests, needed=False)
    for k, v in _sorted(item.get("maxLimitRequestRatio")):
        faults += _ratio(kind, k, v, requests, limits)
    return faults


def _minimum(kind: str, resource: str, bound: Any, requests: Quantities, limits: Quantities) -> list[str]:
    head = f"minimum {resource} usage per {kind} is {_text(bound)}"
    floor = parse_quantity(bound)
    if resource not in requests:
        return [f"{head}.  No request is specified"]
    if _value(requests[resource]) < floor:
        return [f"{head}, but request is {_text(requests[resource])}"]
    if resource in limits and _value(limits[resource]) < floor:
        return [f"{head}, but limit is {_text(limits[resource])}"]
    return []


def _at_most(word: str, kind: str, resource: str, bound: Any, given: Quantities, *, needed: bool) -> list[str]:
    head = f"maximum {resource} usage per {kind} is {_text(bound)}"
    if resource not in given:
        return [f"{head}.  No {word} is specified"] if needed else []
    over = _value(given[resource]) > parse_quantity(bound)
    return [f"{head}, but {word} is {_text(given[resource])}"] if over else []


def _ratio(kind: str, resource: str, bound: Any, requests: Quantities, limits: Quantities) -> list[str]:
    head = f"{resource} max limit to request ratio per {kind} is {_text(bound)}"
    for word, given in (("request", requests), ("limit", limits)):
        if resource not in given or _value(given[resource]) == 0:
            return [f"{head}, but no {word} is specified or {word} is 0"]
    ratio = _value(limits[resource]) / _value(requests[resource])
    return [f"{head}, but provided ratio is {float(ratio):f}"] if ratio > parse_quantity(bound) else []


def _value(quantity: Any) -> Fraction:
    return parse_quantity(quantity)


def _text(quantity: Any) -> str:
    return canonical(str(quantity))
