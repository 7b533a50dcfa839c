"""A DaemonSet's pods: how one is made for its node, and which nodes should have one.

Pure. Source: kubernetes pkg/controller/daemon/{daemon_controller,util/daemonset_util}.go. A daemon pod is placed by the
scheduler like any other; it names its node in required affinity on the field metadata.name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.api.meta import owner_reference
from cluster.api.placement import affinity_allows, untolerated
from cluster.controllers.revisions_core import REVISION_HASH_LABEL
from cluster.machinery.client import Obj, clone

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


@dataclass(frozen=True, slots=True)
class Placement:
    """`run`: a pod should be made here; `keep`: one that is here may stay."""

    run: bool
    keep: bool


def placement(ds: Obj, node: Obj) -> Placement:
    spec = ds["spec"]["template"]["spec"]
    named = spec.get("nodeName")
    if (named and named != node["metadata"]["name"]) or not affinity_allows(spec, node):
        return Placement(False, False)
    taints = (node.get("spec") or {}).get("taints") or []
    tolerations = daemon_tolerations(spec)
    if untolerated(taints, tolerations, ("NoSchedule", "NoExecute")) is None:
        return Placement(True, True)
    return Placement(False, untolerated(taints, tolerations, ("NoExecute",)) is None)


def daemon_tolerations(spec: Obj) -> list[dict[str, Any]]:
    """The template's, and those every daemon has: it stays on a node in trouble."""
    tolerations = [dict(t) for t in spec.get("tolerations") or []]
    wanted = list(_TOLERATED)
    if spec.get("hostNetwork"):
        wanted.append(("node.kubernetes.io/network-unavailable", "NoSchedule"))
    for key, effect in wanted:
        new = {"key": key, "operator": "Exists", "effect": effect}
        same = [
            i
            for i, t in enumerate(tolerations)
            if (t.get("key"), t.get("effect"), t.get("operator", "Equal"), t.get("value", "")) == (*_id(new), "")
        ]
        if same:
            tolerations[same[0]] = new
        else:
            tolerations.append(new)
    return tolerations


def _id(toleration: dict[str, str]) -> tuple[str, str, str]:
    return toleration["key"], toleration["effect"], toleration["operator"]


def new_pod(ds: Obj, digest: str, node: str) -> Obj:
    template = ds["spec"]["template"]
    meta = template.get("metadata") or {}
    spec = clone(template["spec"])
    spec["tolerations"] = daemon_tolerations(spec)
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    affinity = spec.setdefault("affinity", {})
    affinity.setdefault("nodeAffinity", {})[_REQUIRED] = {"nodeSelectorTerms": [term]}
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{ds['metadata']['name']}-",
            "namespace": ds["metadata"]["namespace"],
            "labels": {**(meta.get("labels") or {}), REVISION_HASH_LABEL: digest},
            "ownerReferences": [owner_reference(ds)],
        },
        "spec": spec,
    }
    for field in ("annotations", "finalizers"):
        if meta.get(field):
            pod["metadata"][field] = meta[field]
    return pod


def target_node(pod: Obj) -> str:
    """The node the pod is on, or the one its affinity names; "" for none."""
    spec = pod["spec"]
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(_REQUIRED) or {}
    for term in affinity.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if (field.get("key"), field.get("operator")) == ("metadata.name", "In") and field.get("values"):
                return str(field["values"][0])
    return ""


def pod_hash(pod: Obj) -> str:
    return str((pod["metadata"].get("labels") or {}).get(REVISION_HASH_LABEL, ""))


def oldest_first(pods: Sequence[Obj]) -> list[Obj]:
    """Scheduled before unscheduled, then by age."""
    return sorted(
        pods,
        key=lambda p: (
            not p["spec"].get("nodeName"),
            p["metadata"].get("creationTimestamp", ""),
            p["metadata"]["name"],
        ),
    )
