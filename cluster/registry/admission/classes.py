"""RuntimeClass for pods and DefaultIngressClass for ingresses.

IO only through PolicyView. Sources: plugin/pkg/admission/runtimeclass and network/defaultingressclass of
k8s.io/kubernetes.
"""

from __future__ import annotations

from typing import Any

from cluster.api.quantity import parse_quantity
from cluster.registry.admission.request import Request
from cluster.registry.admission.view import PolicyView

Object = dict[str, Any]

_DEFAULT_INGRESS_CLASS = "ingressclass.kubernetes.io/is-default-class"
_LEGACY_INGRESS_CLASS = "kubernetes.io/ingress.class"


async def runtime_class(request: Request, view: PolicyView) -> None:
    """What the class says of its overhead and of where it runs becomes the pod's."""
    spec = (request.obj or {})["spec"]
    name = spec.get("runtimeClassName")
    overhead = spec.get("overhead")
    if not name:
        if overhead:
            raise request.forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
        return
    found = await view.one("runtimeclasses.node.k8s.io", "", name)
    if found is None:
        raise request.forbid(f'pod rejected: RuntimeClass "{name}" not found')
    fixed: Object = (found.obj.get("overhead") or {}).get("podFixed") or {}
    if overhead and not fixed:
        raise request.forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
    if overhead and not _same(overhead, fixed):
        raise request.forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
    if fixed:
        spec["overhead"] = dict(fixed)
    _schedule(request, spec, found.obj.get("scheduling") or {})


def _schedule(request: Request, spec: Object, scheduling: Object) -> None:
    selector = dict(spec.get("nodeSelector") or {})
    for k, v in (scheduling.get("nodeSelector") or {}).items():
        if selector.get(k, v) != v:
            raise request.forbid(f"conflict: runtimeClass.scheduling.nodeSelector[{k}] = {v}; "
                                 f"pod.spec.nodeSelector[{k}] = {selector[k]}")  # fmt: skip
        selector[k] = v
    if selector:
        spec["nodeSelector"] = selector
    present = spec.get("tolerations") or []
    more = [t for t in scheduling.get("tolerations") or () if t not in present]
    if more:
        spec["tolerations"] = [*present, *more]


def _same(a: Object, b: Object) -> bool:
    return a.keys() == b.keys() and all(parse_quantity(a[k]) == parse_quantity(b[k]) for k in a)


async def ingress_class(request: Request, view: PolicyView) -> None:
    """The newest class marked as default, by name among equals, for an ingress that names none."""
    ingress = request.obj or {}
    spec = ingress.setdefault("spec", {})
    if spec.get("ingressClassName") is not None:
        return
    if _LEGACY_INGRESS_CLASS in (ingress["metadata"].get("annotations") or {}):
        return
    classes = [s.obj["metadata"] for s in await view.all("ingressclasses.networking.k8s.io")]
    marked = [m for m in classes if (m.get("annotations") or {}).get(_DEFAULT_INGRESS_CLASS) == "true"]
    if marked:
        newest = max(m.get("creationTimestamp", "") for m in marked)
        spec["ingressClassName"] = min(m["name"] for m in marked if m.get("creationTimestamp", "") == newest)
