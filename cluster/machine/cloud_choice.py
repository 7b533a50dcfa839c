"""Which cloud provider a cluster may have. Pure.

A provider that is not built is refused with what is missing, before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = ("local", "aws")
_MISSING = {
    "gcp": "instances and zones of Compute Engine, forwarding rules for load balancers, routes, persistent disks",
    "azure": "virtual machines and their zones, Azure load balancers, route tables, managed disks",
}


def problem(name: str, aws: Mapping[str, Any]) -> str:
    """Why a cluster cannot have this provider, "" when it can. `aws`: its settings."""
    if name in _MISSING:
        return f"cloud_provider: {name} is not built: it lacks {_MISSING[name]}; use local or aws"
    if name not in NAMES:
        return f"cloud_provider: {name!r} is not known; use one of {', '.join(NAMES)}"
    if name == "aws" and not aws:
        return "cloud_provider: aws needs the setting aws with a region, such as {region: us-east-1}"
    return ""
