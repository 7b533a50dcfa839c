"""Where things live in the store.

Pure. Objects at `/registry/<group or core>/<plural>/[<namespace>/]<name>`; the registry's own invariants, one key per
fact so that a transaction can compare it, under `/sk8/`: a namespace's phase, every allocated node port (a cluster IP
is claimed by its IPAddress object). There, too, machines ask to have their member of the store replaced
(`actors/members.py`), and it is kept who is Ray's head (`actors/ray_head.py`).
"""

from __future__ import annotations

from cluster.api.scheme import SCHEME, ResourceInfo

PODS = SCHEME.named("pods")

ACTIVE = b"Active"
TERMINATING = b"Terminating"

NODE_PORTS = b"/sk8/alloc/nodeports/"

MEMBER_REQUESTS = b"/sk8/members/request/"
MEMBER_GRANTS = b"/sk8/members/grant/"
LAST_MEMBER_ID = b"/sk8/members/last-id"

RAY_HEAD = b"/sk8/ray/head"

TURN = b"/sk8/bind-turn"
"""Its revision is the turn within which pods are bound (binding.py)."""


def resource_prefix(info: ResourceInfo) -> bytes:
    return f"/registry/{info.group or 'core'}/{info.plural}/".encode()


def namespace_prefix(info: ResourceInfo, namespace: str) -> bytes:
    """All objects of the resource in the namespace; in every namespace when it is ""."""
    prefix = resource_prefix(info)
    return prefix + namespace.encode() + b"/" if info.namespaced and namespace else prefix


def object_key(info: ResourceInfo, namespace: str, name: str) -> bytes:
    if info.namespaced:
        return f"/registry/{info.group or 'core'}/{info.plural}/{namespace}/{name}".encode()
    return f"/registry/{info.group or 'core'}/{info.plural}/{name}".encode()


def namespace_phase(namespace: str) -> bytes:
    return f"/sk8/nsphase/{namespace}".encode()


def quota_marker(namespace: str) -> bytes:
    """Exists while the namespace has a ResourceQuota; rewritten when one comes or goes (quota.py)."""
    return f"/sk8/quota/{namespace}".encode()


def node_port(port: int) -> bytes:
    return NODE_PORTS + str(port).encode()
