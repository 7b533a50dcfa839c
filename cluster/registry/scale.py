"""The scale subresource: an autoscaling/v1 Scale seen through a workload.

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import selectors
from cluster.api.fieldsets import FieldSet
from cluster.api.scheme import ResourceInfo

Object = dict[str, Any]


def from_workload(obj: Object) -> Object:
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    wanted = obj["spec"].get("selector")
    plain = obj.get("kind") == "ReplicationController"  # its selector is a map of labels
    selector = selectors.from_map(wanted) if plain else selectors.from_label_selector(wanted)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {k: metadata[k] for k in kept if k in metadata},
        "spec": {"replicas": obj["spec"].get("replicas", 1)},
        "status": {"replicas": (obj.get("status") or {}).get("replicas", 0), "selector": str(selector)},
    }


def into_workload(scale: Object, workload: Object) -> None:
    """Put the wish of `scale` into `workload`, in place."""
    workload["spec"]["replicas"] = (scale.get("spec") or {}).get("replicas", 0)


def of(info: ResourceInfo, obj: Object) -> Object:
    """The Scale of an object of any kind that has one."""
    if info.custom is not None:
        scale: Object = info.custom.to_scale(obj)
        return scale
    return from_workload(obj)


def into(info: ResourceInfo, scale: Object, obj: Object) -> None:
    """Put the wish of `scale` into `obj`, in place."""
    if info.custom is not None:
        info.custom.from_scale(scale, obj)
    else:
        into_workload(scale, obj)


def replicas_path(info: ResourceInfo) -> FieldSet:
    """Where an object says how many it wants, as a field set."""
    path: FieldSet = {}
    for key in reversed(info.custom.replicas_path() if info.custom is not None else ("spec", "replicas")):
        path = {"f:" + key: path}
    return path


def is_scale(info: ResourceInfo, subresource: str) -> bool:
    return subresource == "scale" and "scale" in info.subresources
