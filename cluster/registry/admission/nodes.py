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
    elif resource == "leases.coordination.k8s.io" and (request.namespace, request.name) != ("kube-node-lease", node):
        raise request.forbid(
            f'can only access leases in the "kube-node-lease" system namespace with the same name as node "{node}"'
        )


def _own_node(request: Request, node: str) -> None:
    if request.name != node:
        raise request.forbid(f'node "{node}" is not allowed to modify node "{request.name}"')
    if request.operation == "DELETE":
        raise request.forbid(f'node "{node}" is not allowed to delete its own Node')
    new = _labels(request.obj)
    old = _labels(request.old)
    touched = sorted(
        k for k in {**new, **old} if _PROTECTED_LABEL in k.partition("/")[0] + "/" and new.get(k) != old.get(k)
    )
    if touched:
        raise request.forbid(f"is not allowed to modify labels: {', '.join(touched)}")
    if request.operation == "UPDATE" and not request.subresource:
        before, after = _spec(request.old).get("taints") or [], _spec(request.obj).get("taints") or []
        if before != after:
            raise request.forbid(f'node "{node}" is not allowed to modify taints')


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
