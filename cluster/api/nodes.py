"""What several rooms ask of a Node: its addresses, and the pod ranges it has been given. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Node = Mapping[str, Any]


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
