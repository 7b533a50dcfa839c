"""DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize.

IO only through Reads. Sources: plugin/pkg/admission/storage of k8s.io/kubernetes.
"""

from __future__ import annotations

from typing import Any

from cluster.api.quantity import parse_quantity
from cluster.registry.admission.request import Reads, Request

Object = dict[str, Any]

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_PROTECTION = {
    "persistentvolumeclaims": "kubernetes.io/pvc-protection",
    "persistentvolumes": "kubernetes.io/pv-protection",
}


async def protect(request: Request) -> None:
    """StorageObjectInUseProtection: what is in use does not go."""
    finalizer = _PROTECTION[request.info.name]
    finalizers = (request.obj or {})["metadata"].setdefault("finalizers", [])
    if finalizer not in finalizers:
        finalizers.append(finalizer)


async def default(request: Request, reads: Reads) -> None:
    """DefaultStorageClass."""
    spec = (request.obj or {})["spec"]
    if spec.get("storageClassName") is None:
        chosen = await default_class(reads)
        if chosen:
            spec["storageClassName"] = chosen


async def resize(request: Request, reads: Reads) -> None:
    """A claim grows only where its class says that volumes can."""
    new, old = (((o or {}).get("spec") or {}) for o in (request.obj, request.old))
    want, have = (((s.get("resources") or {}).get("requests") or {}).get("storage") for s in (new, old))
    if not old.get("volumeName") or want is None or have is None or parse_quantity(want) <= parse_quantity(have):
        return
    name = old.get("storageClassName")
    found = await reads.get("storageclasses.storage.k8s.io", "", name) if name else None
    if found is None or not found.obj.get("allowVolumeExpansion"):
        raise request.forbid(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support "
            "resize"
        )


async def default_class(reads: Reads) -> str:
    """The newest class marked as default, by name among equals; "" when there is none."""
    classes = [s.obj["metadata"] for s in await reads.fresh("storageclasses.storage.k8s.io")]
    marked = [m for m in classes if (m.get("annotations") or {}).get(_DEFAULT_CLASS) == "true"]
    if not marked:
        return ""
    newest = max(m.get("creationTimestamp", "") for m in marked)
    return str(min(m["name"] for m in marked if m.get("creationTimestamp", "") == newest))
