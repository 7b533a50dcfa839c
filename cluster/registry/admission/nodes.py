"""NodeRestriction: a machine's identity writes its own Node, its own Lease and the pods bound to it, nothing else.
TaintNodesByCondition: what a new Node starts with.

It may create mirror pods, but none that refers to other objects: a reference is the right to read them (nodegraph.py).

Pure. Source: k8s.io/kubernetes plugin/pkg/admission/noderestriction.
"""

from __future__ import annotations

from typing import Any

from cluster.registry.admission.request import Request
from cluster.registry.nodegraph import references

Object = dict[str, Any]

_NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
_PROTECTED_LABEL = "node-restriction.kubernetes.io/"
_OWN_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
_OWN_LABELS = frozenset(
    (
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        # Kubernetes leaves this one to whoever installs it; here a control plane's kubelet says it when it registers.
        "node-role.kubernetes.io/control-plane",
    )
)


async def taint_not_ready(request: Request) -> None:
    """TaintNodesByCondition: a new machine takes no pods until the node controller finds it Ready."""
    spec = (request.obj or {}).setdefault("spec", {})
    taints = spec.get("taints") or []
    if not any(t.get("key") == _NOT_READY["key"] and t.get("effect") == _NOT_READY["effect"] for t in taints):
        spec["taints"] = [*taints, dict(_NOT_READY)]


async def restrict(request: Request) -> None:
    node = request.ctx.user.node_name
    if not node:
        return
    resource = request.info.name
    if resource == "nodes":
        _own_node(request, node)
    elif resource == "pods":
        _own_pod(request, node)
    elif resource == "csinodes.storage.k8s.io" and request.name != node:
        raise request.forbid("can only access CSINode with the same name as the requesting node")
    elif resource == "leases.coordination.k8s.io" and (request.namespace, request.name) != ("kube-node-lease", node):
        raise request.forbid(
            f'can only access leases in the "kube-node-lease" system namespace with the same name as node "{node}"'
        )


def _own_node(request: Request, node: str) -> None:
    if request.name != node:
        raise request.forbid(f'node "{node}" is not allowed to modify node "{request.name}"')
    if request.operation == "DELETE":
        raise request.forbid(f'node "{node}" is not allowed to delete its own Node')
    new, old = _labels(request.obj), _labels(request.old)
    touched = sorted(k for k in {**new, **old} if new.get(k) != old.get(k) and not _may_label(k))
    if touched and request.operation == "CREATE":
        raise request.forbid(f'node "{node}" is not allowed to set the following labels: {", ".join(touched)}')
    if touched:
        raise request.forbid(f"is not allowed to modify labels: {', '.join(touched)}")
    if request.operation == "UPDATE" and not request.subresource:
        before, after = _spec(request.old).get("taints") or [], _spec(request.obj).get("taints") or []
        if before != after:
            raise request.forbid(f'node "{node}" is not allowed to modify taints')


def _may_label(label: str) -> bool:
    """A machine must not steer pods to itself: of Kubernetes' own labels it writes those that describe it."""
    domain, slash, _ = label.partition("/")
    if not slash:
        return True
    if f"{domain}/".endswith(_PROTECTED_LABEL):
        return False
    if not any(domain == d or domain.endswith("." + d) for d in ("kubernetes.io", "k8s.io")):
        return True
    return label in _OWN_LABELS or any(domain == d or domain.endswith("." + d) for d in _OWN_DOMAINS)


def _own_pod(request: Request, node: str) -> None:
    if request.operation == "CREATE":
        obj = request.obj or {}
        if "kubernetes.io/config.mirror" not in (obj.get("metadata", {}).get("annotations") or {}):
            raise request.forbid(f'pod does not have "kubernetes.io/config.mirror" annotation, node "{node}" can only '
                                 "create mirror pods")  # fmt: skip
        if _spec(obj).get("nodeName") != node:
            raise request.forbid(f'node "{node}" can only create pods with spec.nodeName set to itself')
        # What its pods refer to, a machine may read: it must not choose that itself.
        chosen = references(obj)
        if chosen:
            raise request.forbid(f'node "{node}" can not create pods that reference {chosen[0][0]}')
        return
    if _spec(request.old).get("nodeName") != node:
        verb = "delete" if request.operation == "DELETE" else "update status for"
        raise request.forbid(f'node "{node}" can only {verb} pods with spec.nodeName set to itself')
    if request.operation == "UPDATE" and request.subresource != "status":
        raise request.forbid(
            f'unexpected subresource "{request.subresource}", node "{node}" may only update pod status'
        )
    if request.operation == "UPDATE" and _labels(request.obj) != _labels(request.old):
        raise request.forbid(f'node "{node}" cannot update labels through pod status')


def _labels(obj: Object | None) -> dict[str, str]:
    return ((obj or {}).get("metadata") or {}).get("labels") or {}


def _spec(obj: Object | None) -> Object:
    return (obj or {}).get("spec") or {}
