"""What a Node says of the machine that its provider knows: pure decisions of the cloud node controllers.

Pure. Source: k8s.io/cloud-provider (controllers/node, controllers/nodelifecycle) and KEP-2392. A kubelet whose cluster
has a cloud registers its Node with the taint `uninitialized`; nothing runs there before the provider's word is on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cluster.api.meta import is_true
from cluster.controllers.node_lifecycle_core import SHUTDOWN
from cluster.machinery.client import Obj, clone
from cluster.machinery.provider import Instance

UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"
_LABELS = {
    "node.kubernetes.io/instance-type": "instance_type",
    "topology.kubernetes.io/zone": "zone",
    "topology.kubernetes.io/region": "region",
}
_BETA = {
    "node.kubernetes.io/instance-type": "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone": "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region": "failure-domain.beta.kubernetes.io/region",
}
_KUBELETS = ("InternalIP", "Hostname")
Verdict = Literal["keep", "delete", "shutdown", "running"]


def is_uninitialized(node: Obj) -> bool:
    return any(t["key"] == UNINITIALIZED for t in node["spec"].get("taints") or ())


def initialized(node: Obj, instance: Instance) -> Obj:
    """The Node with its providerID and labels and without the taint; the same object when it says all that."""
    changed = clone(node)
    spec, labels = changed.setdefault("spec", {}), changed["metadata"].setdefault("labels", {})
    spec.setdefault("providerID", instance.provider_id)
    for label, field in _LABELS.items():
        if value := getattr(instance, field):
            labels[label] = value
            labels[_BETA[label]] = value
    taints = [t for t in spec.get("taints") or () if t["key"] != UNINITIALIZED]
    if "taints" in spec:
        spec["taints"] = taints
    return node if changed == node else changed


def addresses(node: Obj, instance: Instance) -> list[Obj] | None:
    """node.status.addresses with what the provider adds, None when they say so. What the kubelet reports (the address
    it was told to use, its host name) is its own word; the provider's stands where it has none yet."""
    current: Sequence[Obj] = (node.get("status") or {}).get("addresses") or ()
    own = [dict(a) for a in current if a["type"] in _KUBELETS]
    kinds = {a["type"] for a in own}
    wanted = own + [{"type": k, "address": a} for k, a in instance.addresses if k not in kinds]
    return None if [dict(a) for a in current] == wanted else wanted


def verdict(node: Obj, instance: Instance | None) -> Verdict:
    """Of a Node whose provider was asked. Only one that is silent is judged: a kubelet that answers is no ghost."""
    tainted = any(t["key"] == SHUTDOWN for t in node["spec"].get("taints") or ())
    if is_true(node, "Ready"):
        return "running" if tainted else "keep"
    if instance is None or instance.state == "gone":
        return "delete"
    if instance.state == "off":
        return "keep" if tainted else "shutdown"
    return "running" if tainted else "keep"


def with_shutdown(node: Obj, off: bool) -> Obj:
    """The Node with or without the taint of a machine that was switched off."""
    changed = clone(node)
    taints = [t for t in changed["spec"].get("taints") or () if t["key"] != SHUTDOWN]
    changed["spec"]["taints"] = [*taints, {"key": SHUTDOWN, "effect": "NoSchedule"}] if off else taints
    return changed
