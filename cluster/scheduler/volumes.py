"""What a pod's PersistentVolumeClaims say about where it may run. Pure.

Source: kube-scheduler plugin VolumeBinding. A claim bound to a volume with node affinity narrows the nodes; an unbound
claim of a class with WaitForFirstConsumer waits for us to choose a node and write it on the claim; any other unbound
claim keeps the pod waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.api.pods import amount
from cluster.api.selectors import from_label_selector
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.filters import match_term
from cluster.scheduler.shape import canonical

NO_PROVISIONER = "kubernetes.io/no-provisioner"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
Lookup = Callable[[str, str], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class VolumeVerdict:
    """`refusal` keeps the pod waiting; `allowed` names the only nodes (None: any); `undecided` claims want a node.

    `provisioning`: all that is missing is a volume for a claim whose node was chosen before; nothing to say or decide.
    """

    refusal: str = ""
    allowed: frozenset[str] | None = None
    undecided: tuple[str, ...] = ()
    provisioning: bool = False


def _waits_for_consumer(claim: dict[str, Any], storage_class: Lookup) -> bool:
    found = storage_class("", claim["spec"].get("storageClassName") or "")
    return bool(found) and (found or {}).get("volumeBindingMode") == "WaitForFirstConsumer"


def _nodes_of(volume: dict[str, Any], columns: NodeColumns) -> frozenset[str] | None:
    required = (volume["spec"].get("nodeAffinity") or {}).get("required")
    return _matching(columns, required["nodeSelectorTerms"]) if required else None


def _matching(columns: NodeColumns, terms: Sequence[dict[str, Any]]) -> frozenset[str]:
    """The nodes that match one of the terms; remembered until a node changes."""

    def make() -> frozenset[str]:
        mask = np.zeros(columns.size, dtype=np.bool_)
        for term in terms:
            mask |= match_term(columns, term)
        return frozenset(columns.names[row] for row in np.flatnonzero(mask & columns.alive))

    return columns.memo(("matching", canonical(terms)), make)


def _offers(claim: dict[str, Any], volume: dict[str, Any]) -> bool:
    """Whether an unclaimed volume would do for a claim."""
    spec, wanted = volume["spec"], claim["spec"]
    if spec.get("claimRef") or (volume.get("status") or {}).get("phase", "Available") != "Available":
        return False
    if spec.get("storageClassName", "") != (wanted.get("storageClassName") or ""):
        return False
    if (spec.get("volumeMode") or "Filesystem") != (wanted.get("volumeMode") or "Filesystem"):
        return False
    if not set(wanted.get("accessModes") or ()) <= set(spec.get("accessModes") or ()):
        return False
    selector = wanted.get("selector")
    if selector and not from_label_selector(selector).matches(volume["metadata"].get("labels") or {}):
        return False
    size = amount("storage", (spec.get("capacity") or {}).get("storage", 0))
    return size >= amount("storage", ((wanted.get("resources") or {}).get("requests") or {}).get("storage", 0))


def _reachable(
    claim: dict[str, Any], columns: NodeColumns, storage_class: dict[str, Any], volumes: Sequence[dict[str, Any]]
) -> frozenset[str] | None:
    """The nodes where an unbound claim can be served: by a volume that is there, or by one made for it (None: all)."""
    if storage_class.get("provisioner") != NO_PROVISIONER:
        return _in_topologies(storage_class, columns)
    found: frozenset[str] = frozenset()
    for volume in volumes:
        if _offers(claim, volume):
            nodes = _nodes_of(volume, columns)
            if nodes is None:
                return None
            found |= nodes
    return found


def _in_topologies(storage_class: dict[str, Any], columns: NodeColumns) -> frozenset[str] | None:
    """The nodes of a class's allowedTopologies; None: all."""
    terms = storage_class.get("allowedTopologies")
    if not terms:
        return None
    selectors = [
        {"matchExpressions": [e | {"operator": "In"} for e in term.get("matchLabelExpressions") or ()]}
        for term in terms
    ]
    return _matching(columns, selectors)


def check_claims(
    namespace: str,
    names: Sequence[str],
    columns: NodeColumns,
    claims: Lookup,
    volumes: Lookup,
    classes: Lookup,
    all_volumes: Callable[[], Sequence[dict[str, Any]]] = tuple,
) -> VolumeVerdict:
    """The verdict over all claims of one pod."""
    allowed: frozenset[str] | None = None
    undecided: list[str] = []
    provisioning = False
    for name in names:
        claim = claims(namespace, name)
        if claim is None:
            return VolumeVerdict(f'persistentvolumeclaim "{name}" not found')
        if claim["metadata"].get("deletionTimestamp"):
            return VolumeVerdict(f'persistentvolumeclaim "{name}" is being deleted')
        if "ReadWriteOncePod" in (claim["spec"].get("accessModes") or ()) and columns.claims.get((namespace, name)):
            reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            return VolumeVerdict(f"{len(columns.rows)} {reason}")
        volume_name = claim["spec"].get("volumeName")
        volume = volumes("", volume_name) if volume_name else None
        if volume is None or claim.get("status", {}).get("phase") != "Bound":
            if not _waits_for_consumer(claim, classes):
                return VolumeVerdict("pod has unbound immediate PersistentVolumeClaims")
            storage_class = classes("", claim["spec"].get("storageClassName") or "") or {}
            there = _reachable(claim, columns, storage_class, all_volumes())
            if there is not None:
                if not there:
                    reason = "node(s) didn't find available persistent volumes to bind"
                    return VolumeVerdict(f"{len(columns.rows)} {reason}")
                allowed = there if allowed is None else allowed & there
            chosen = (claim["metadata"].get("annotations") or {}).get(SELECTED_NODE)
            provisioning = provisioning or chosen in columns.rows
            undecided.append(name)
            continue
        nodes = _nodes_of(volume, columns)
        if nodes is not None:
            allowed = nodes if allowed is None else allowed & nodes
    return VolumeVerdict("", allowed, tuple(undecided), provisioning)
