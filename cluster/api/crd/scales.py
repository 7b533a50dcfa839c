"""The scale subresource of a custom resource: three paths of its definition read and written as autoscaling/v1 Scale.

Pure. Source: k8s.io/apiextensions-apiserver `pkg/registry/customresource`.
"""

from __future__ import annotations

from typing import Any

from cluster.api import errors
from cluster.api.crd.structural import MISSING
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_MAX = 2**31 - 1
_KEPT = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def keys_of(path: str) -> list[str]:
    """Names between dots; brackets mean nothing here, as in Kubernetes."""
    return path.removeprefix(".").split(".")


def _found(path: str, obj: Object) -> Any:
    """The value at a path of field names; MISSING."""
    at: Any = obj
    for key in keys_of(path):
        if not isinstance(at, dict) or key not in at:
            return MISSING
        at = at[key]
    return at


def validate(faults: Faults, paths: Object, obj: Object, *, status: bool = False) -> None:
    """What is read as replicas must be a number of them; `status`: of those in the status alone."""
    for field in ("specReplicasPath", "statusReplicasPath")[status:]:
        path, replicas = paths[field], _found(paths[field], obj)
        if replicas is MISSING:
            continue
        if isinstance(replicas, bool) or not isinstance(replicas, int):
            faults.invalid(path, 0, f"{path} accessor error: {_shown(replicas)}, expected int64")
        elif replicas < 0:
            faults.invalid(path, replicas, "should be a non-negative integer")
        elif replicas > _MAX:
            faults.invalid(path, replicas, f"should be less than or equal to {_MAX}")
    selector = paths.get("labelSelectorPath")
    if selector and not isinstance(found := _found(selector, obj), str) and found is not MISSING:
        faults.invalid(selector, "", f"{selector} accessor error: {_shown(found)}, expected string")


def _shown(value: Any) -> str:
    names = {str: "string", bool: "bool", float: "float64", int: "int64", type(None): "<nil>"}
    kind = names.get(type(value), "map[string]interface {}" if isinstance(value, dict) else "[]interface {}")
    return f"{value} is of the type {kind}"


def to_scale(paths: Object, obj: Object) -> Object:
    """Raises ApiError 500 when the object does not say how many it wants."""
    spec = _found(paths["specReplicasPath"], obj)
    if spec is MISSING or spec is None:
        raise errors.internal(f'the spec replicas field "{paths["specReplicasPath"]}" does not exist')
    replicas = _found(paths["statusReplicasPath"], obj)
    status: Object = {"replicas": 0 if replicas is MISSING else replicas or 0}
    selector = _found(paths["labelSelectorPath"], obj) if paths.get("labelSelectorPath") else MISSING
    if selector is not MISSING and selector:
        status["selector"] = selector
    metadata = obj["metadata"]
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {k: metadata[k] for k in _KEPT if k in metadata},
        "spec": {"replicas": spec},
        "status": status,
    }


def from_scale(paths: Object, scale: Object, obj: Object) -> None:
    """Put the wish of a Scale into `obj`, in place."""
    *above, last = keys_of(paths["specReplicasPath"])
    at = obj
    for key in above:
        at = at.setdefault(key, {})
    at[last] = (scale.get("spec") or {}).get("replicas", 0)
