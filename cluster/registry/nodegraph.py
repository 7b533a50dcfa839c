"""What a machine's identity may read: the objects its own pods refer to.

Pure. Pods are indexed by node; claims lead on to volumes. The graph grows and shrinks with the pods' events, so a
node loses access with its last pod that needs an object. Source: Kubernetes' Node authorizer
(plugin/pkg/auth/authorizer/node).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.api.scheme import SCHEME
from cluster.registry.feed import split_key
from cluster.registry.keys import resource_prefix
from cluster.registry.types import Attributes, Decision, Stored

Object = dict[str, Any]
Ref = tuple[str, str, str]

_PODS = resource_prefix(SCHEME.named("pods"))
_CLAIMS = resource_prefix(SCHEME.named("persistentvolumeclaims"))
_ATTACHMENTS = resource_prefix(SCHEME.named("volumeattachments.storage.k8s.io"))
GRAPH_PREFIXES = (_PODS, _CLAIMS, _ATTACHMENTS)

_ALLOWED = Decision(True)
_READ = ("get", "list", "watch")
_READ_ALL = {
    ("", "services"), ("", "nodes"), ("", "pods"), ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "csidrivers"), ("node.k8s.io", "runtimeclasses"), ("discovery.k8s.io", "endpointslices"),
}  # fmt: skip
_WRITE: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "nodes"): ("create", "update", "patch"),
    ("", "nodes/status"): ("update", "patch"),
    ("", "pods"): ("create", "delete"),
    ("", "pods/status"): ("update", "patch"),
    ("", "pods/eviction"): ("create",),
    ("", "events"): ("create", "update", "patch"),
    ("events.k8s.io", "events"): ("create", "update", "patch"),
    ("authentication.k8s.io", "tokenreviews"): ("create",),
    ("authorization.k8s.io", "subjectaccessreviews"): ("create",),
    ("authorization.k8s.io", "localsubjectaccessreviews"): ("create",),
    ("certificates.k8s.io", "certificatesigningrequests"): ("create", "get", "list", "watch"),
}
_GRAPH = {"secrets", "configmaps", "persistentvolumeclaims", "persistentvolumes", "serviceaccounts"}


def static_decision(node: str, a: Attributes) -> Decision | None:
    """What needs no graph; None when it does. Whose Node or pod it is, NodeRestriction judges on the object."""
    what = f"{a.resource}/{a.subresource}" if a.subresource else a.resource
    if a.verb in _WRITE.get((a.group, what), ()):
        return _ALLOWED
    if a.verb in _READ and not a.subresource and (a.group, a.resource) in _READ_ALL:
        return _ALLOWED
    if (a.group, a.resource) == ("coordination.k8s.io", "leases"):
        own = a.namespace == "kube-node-lease" and (a.name == node or (a.verb == "create" and not a.name))
        if own and a.verb in ("get", "create", "update", "patch", "delete"):
            return _ALLOWED
        return Decision(False, 'can only access leases in the "kube-node-lease" system namespace with its own name')
    if (a.group, what) == ("storage.k8s.io", "csinodes"):
        # Whose it is that is created, NodeRestriction judges: its name is not known here.
        if a.verb == "create" or (a.name == node and a.verb in ("get", "update", "patch", "delete")):
            return _ALLOWED
        return Decision(False, "can only access CSINode with the same name as the requesting node")
    if not a.group and a.resource in _GRAPH:
        return None
    return None if (a.group, a.resource) == ("storage.k8s.io", "volumeattachments") else Decision(False)


def references(pod: Object) -> list[Ref]:
    """(resource, namespace, name) of everything the pod's node must be able to read."""
    spec, namespace = pod.get("spec") or {}, pod["metadata"].get("namespace", "")
    out: dict[Ref, None] = {}

    def add(resource: str, name: Any) -> None:
        if name:
            out[resource, namespace, str(name)] = None

    add("serviceaccounts", spec.get("serviceAccountName"))
    for s in spec.get("imagePullSecrets") or ():
        add("secrets", s.get("name"))
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for c in spec.get(field) or ():
            for e in c.get("env") or ():
                source = e.get("valueFrom") or {}
                add("secrets", (source.get("secretKeyRef") or {}).get("name"))
                add("configmaps", (source.get("configMapKeyRef") or {}).get("name"))
            for e in c.get("envFrom") or ():
                add("secrets", (e.get("secretRef") or {}).get("name"))
                add("configmaps", (e.get("configMapRef") or {}).get("name"))
    for v in spec.get("volumes") or ():
        add("secrets", (v.get("secret") or {}).get("secretName"))
        add("configmaps", (v.get("configMap") or {}).get("name"))
        add("persistentvolumeclaims", (v.get("persistentVolumeClaim") or {}).get("claimName"))
        if "ephemeral" in v:
            add("persistentvolumeclaims", f"{pod['metadata']['name']}-{v['name']}")
        for s in (v.get("projected") or {}).get("sources") or ():
            add("secrets", (s.get("secret") or {}).get("name"))
            add("configmaps", (s.get("configMap") or {}).get("name"))
    return list(out)


class NodeGraph:
    """Reference counts per node, from pods; volumes through claims; attachments by their node."""

    def __init__(self) -> None:
        self._pods: dict[bytes, tuple[str, list[Ref]]] = {}
        self._by_node: dict[str, Counter[Ref]] = {}
        self._claims: dict[bytes, str] = {}
        self._claim_of_volume: dict[str, tuple[str, str]] = {}
        self._attachments: dict[bytes, str] = {}

    def reset(self, prefix: bytes) -> None:
        if prefix == _PODS:
            self._pods.clear()
            self._by_node.clear()
        elif prefix == _CLAIMS:
            self._claims.clear()
            self._claim_of_volume.clear()
        else:
            self._attachments.clear()

    def put(self, key: bytes, stored: Stored) -> None:
        obj = stored.obj
        if key.startswith(_PODS):
            self._drop_pod(key)
            node = (obj.get("spec") or {}).get("nodeName", "")
            if node:
                refs = references(obj)
                self._pods[key] = (node, refs)
                self._by_node.setdefault(node, Counter()).update(refs)
        elif key.startswith(_CLAIMS):
            self._drop_claim(key)
            volume = (obj.get("spec") or {}).get("volumeName", "")
            if volume:
                self._claims[key] = volume
                self._claim_of_volume[volume] = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        else:
            self._attachments[key] = (obj.get("spec") or {}).get("nodeName", "")

    def delete(self, key: bytes) -> None:
        if key.startswith(_PODS):
            self._drop_pod(key)
        elif key.startswith(_CLAIMS):
            self._drop_claim(key)
        else:
            self._attachments.pop(key, None)

    def _drop_pod(self, key: bytes) -> None:
        node, refs = self._pods.pop(key, ("", []))
        held = self._by_node.get(node)
        if held is None:
            return
        held.subtract(refs)
        for ref in refs:
            if held[ref] <= 0:
                del held[ref]
        if not held:
            del self._by_node[node]

    def _drop_claim(self, key: bytes) -> None:
        volume = self._claims.pop(key, "")
        if volume:
            self._claim_of_volume.pop(volume, None)

    def decide(self, node: str, a: Attributes) -> Decision:
        if a.resource == "volumeattachments":
            key = _ATTACHMENTS + a.name.encode()
            own = bool(a.name) and a.verb == "get" and self._attachments.get(key) == node
            return _ALLOWED if own else _no_path(node)
        if not a.name:
            return Decision(False, "No Object name found")
        if not self._verb_fits(a):
            return Decision(False, f"can only read individual resources of this type, not {a.verb}")
        ref: Ref = (a.resource, a.namespace, a.name)
        if a.resource == "persistentvolumes":
            claim = self._claim_of_volume.get(a.name)
            if claim is None:
                return _no_path(node)
            ref = ("persistentvolumeclaims", *claim)
        return _ALLOWED if ref in self._by_node.get(node, ()) else _no_path(node)

    @staticmethod
    def _verb_fits(a: Attributes) -> bool:
        if a.resource == "serviceaccounts":
            return (a.verb, a.subresource) == ("create", "token")
        if a.resource == "persistentvolumeclaims" and a.subresource == "status":
            return a.verb in ("get", "update", "patch")
        if a.subresource:
            return False
        return a.verb in (_READ if a.resource in ("secrets", "configmaps") else ("get",))


def _no_path(node: str) -> Decision:
    return Decision(False, f"no relationship found between node '{node}' and this object")


__all__ = ["GRAPH_PREFIXES", "NodeGraph", "references", "split_key", "static_decision"]
