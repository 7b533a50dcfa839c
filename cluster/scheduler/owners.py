"""What a pod without spread constraints of its own is spread by: its Services and its owner. Pure.

Source: kube-scheduler's helper.DefaultSelector: the selectors of all Services that match the pod, and of the
ReplicaSet, StatefulSet or ReplicationController that controls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.api.meta import controller_of
from cluster.scheduler.shape import canonical

RESOURCE_OF_KIND = {
    ("apps/v1", "ReplicaSet"): "replicasets.apps",
    ("apps/v1", "StatefulSet"): "statefulsets.apps",
    ("v1", "ReplicationController"): "replicationcontrollers",
}


def owner_resource(pod: dict[str, Any]) -> tuple[str, str]:
    """(resource, name) of the controlling owner whose selector counts; ("", "") when there is none."""
    owner = controller_of(pod)
    if owner is None:
        return "", ""
    return RESOURCE_OF_KIND.get((owner.get("apiVersion", ""), owner.get("kind", "")), ""), owner.get("name", "")


def default_spread(labels: dict[str, str], services: Sequence[dict[str, Any]], owner: dict[str, Any] | None) -> bytes:
    """A LabelSelector as canonical JSON; empty when nothing selects the pod. `services`: those of its namespace;
    `owner`: the controlling object."""
    match: dict[str, str] = {}
    for service in services:
        selector = service["spec"].get("selector")
        if selector and all(labels.get(k) == v for k, v in selector.items()):
            match |= selector
    selector = (owner or {}).get("spec", {}).get("selector") or {}
    if (owner or {}).get("kind") == "ReplicationController":
        selector = {"matchLabels": selector}
    labels_of_owner = (selector.get("matchLabels") or {}).items()
    expressions: list[dict[str, Any]] = [{"key": k, "operator": "In", "values": [v]} for k, v in labels_of_owner]
    expressions += selector.get("matchExpressions") or []
    if not match and not expressions:
        return b""
    return canonical({"matchLabels": match, "matchExpressions": expressions})
