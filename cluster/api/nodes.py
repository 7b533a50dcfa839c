"""What several rooms ask of a Node: its addresses, the pod ranges it has been given, and what its kubelet's pages do.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from posixpath import normpath
from typing import Any, Final
from urllib.parse import unquote

Node = Mapping[str, Any]
_CHANGES_PODS: Final = frozenset(("exec", "attach", "portForward", "run"))


def internal_ips(node: Node) -> list[str]:
    """Its InternalIPs in their order, the primary family's first."""
    addresses = (node.get("status") or {}).get("addresses") or ()
    return [str(a.get("address", "")) for a in addresses if a.get("type") == "InternalIP"]


def internal_ip(node: Node) -> str:
    """The first of them, or ""."""
    return next(iter(internal_ips(node)), "")


def pod_cidrs(node: Node) -> list[str]:
    """spec.podCIDRs, or where only that is set, spec.podCIDR; empty before it has been given any."""
    spec = node.get("spec") or {}
    return list(spec.get("podCIDRs") or filter(None, (spec.get("podCIDR"),)))


def changes_pods(path: str) -> bool:
    """Whether this path of a kubelet is one by which a command is run or a pod reached: `create`, though clients ask by
    GET. In doubt (escapes, empty and dotted segments) it is."""
    plain = "/" + unquote(path).lstrip("/")
    return bool(_CHANGES_PODS & {plain.split("/")[1], normpath(plain).split("/")[1]})
