"""Machines that were forgotten (`sk8 machine forget`): certificates made before then count no more. Pure.

Kubernetes has no list of revoked certificates. Here a ConfigMap, which every control plane sees, says when a machine of
that name was last forgotten; a machine that joins again under the name gets younger certificates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.api.meta import parse_time

NAMESPACE = "kube-system"
NAME = "sk8-forgotten-machines"
BACKDATE_S = 300.0
"""Certificates are valid so long before they are made, as clocks of machines differ a little."""


def forgotten_at(config_map: Mapping[str, Any], machine: str) -> float:
    """In seconds since the epoch; 0 for never. Raises ValueError when what is there is no time."""
    when = (config_map.get("data") or {}).get(machine)
    return parse_time(when) if when else 0.0


def counts(not_before: float, forgotten: float) -> bool:
    """Whether a certificate that is valid from `not_before` on was made after that (seconds since the epoch)."""
    return not_before + BACKDATE_S > forgotten
