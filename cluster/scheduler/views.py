"""Objects as the scheduler keeps them: cut down to what it reads, with what is equal shared. Pure.

A pod of 4 KB of JSON is 19 KB of dicts; of it the scheduler reads a name, some words of spec and status, and its shape,
which most pods share with thousands of others. A view has the object's own layout for what is left; a pod's has its
`shape` besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cluster.api.meta import controller_of
from cluster.scheduler.gangs import ANNOTATIONS
from cluster.scheduler.shape import PodShape, shape_of

Obj = dict[str, Any]
_SHAPES = 20_000
_SPEC = ("nodeName", "schedulerName", "priority", "preemptionPolicy", "schedulingGates")
_STATUS = ("phase", "nominatedNodeName", "startTime")
_WISHES = ("nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "overhead", "resources",
           "resourceClaims")  # fmt: skip
_OF_CONTAINER = ("image", "resources", "ports", "restartPolicy")
_DISKS = ("persistentVolumeClaim", "ephemeral", "gcePersistentDisk", "awsElasticBlockStore", "iscsi", "rbd")


class PodViews:
    """Makes views; holds the shapes and label sets they share."""

    def __init__(self) -> None:
        self._shapes: dict[bytes, PodShape] = {}
        self._labels: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}

    def view(self, pod: Obj) -> Obj:
        meta, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
        shape = self._shape(pod)
        kept: Obj = {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion") if k in meta}
        kept["labels"] = self._labels.setdefault(shape.labels, dict(shape.labels))
        if "deletionTimestamp" in meta:
            kept["deletionTimestamp"] = meta["deletionTimestamp"]
        if owner := controller_of(pod):
            kept["ownerReferences"] = [owner]
        if notes := {k: v for k, v in (meta.get("annotations") or {}).items() if k in ANNOTATIONS}:
            kept["annotations"] = notes
        said: Obj = {k: status[k] for k in _STATUS if k in status}
        if not spec.get("nodeName"):
            said["conditions"] = [c for c in status.get("conditions") or () if c["type"] == "PodScheduled"]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": kept,
            "spec": {k: spec[k] for k in _SPEC if k in spec},
            "status": said,
            "shape": shape,
        }

    def _shape(self, pod: Obj) -> PodShape:
        key = orjson.dumps(_wishes(pod))
        known = self._shapes.get(key)
        if known is None:
            if len(self._shapes) > _SHAPES:
                self._shapes.clear()
                self._labels.clear()
            unbound = pod | {"spec": {k: v for k, v in pod["spec"].items() if k != "nodeName"}}
            known = self._shapes[key] = shape_of(unbound)
        return known


def _wishes(pod: Mapping[str, Any]) -> list[Any]:
    """All that a shape is made of but the node's name; equal lists make equal shapes."""
    meta, spec = pod["metadata"], pod["spec"]
    volumes = [v for v in spec.get("volumes") or () if any(kind in v for kind in _DISKS)]
    return [
        meta.get("namespace"),
        meta.get("labels"),
        "deletionTimestamp" in meta,
        meta["name"] if any("ephemeral" in v for v in volumes) else "",
        volumes,
        [spec.get(k) for k in _WISHES],
        [[c.get(k) for k in _OF_CONTAINER] for c in spec.get("containers") or ()],
        [[c.get(k) for k in _OF_CONTAINER] for c in spec.get("initContainers") or ()],
    ]


class NodeViews:
    """Of nodes; many have the same images."""

    def __init__(self) -> None:
        self._images: dict[bytes, list[Obj]] = {}

    def view(self, node: Obj) -> Obj:
        """What decisions read, and nothing a heartbeat changes."""
        meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
        images = [{"names": i.get("names"), "sizeBytes": i.get("sizeBytes")} for i in status.get("images") or ()]
        if len(self._images) > _SHAPES:
            self._images.clear()
        kept = {k: meta[k] for k in ("name", "resourceVersion", "labels") if k in meta}
        return {
            "metadata": kept,
            "spec": {k: spec[k] for k in ("taints", "unschedulable") if k in spec},
            "status": {
                "allocatable": status.get("allocatable"),
                "images": self._images.setdefault(orjson.dumps(images), images),
            },
        }


def selecting_view(obj: Obj) -> Obj:
    """Of Services and the owners of pods: which pods they select."""
    kept = {k: obj["metadata"][k] for k in ("name", "namespace", "resourceVersion") if k in obj["metadata"]}
    return {"metadata": kept, "spec": {"selector": (obj.get("spec") or {}).get("selector")}}
