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
    """Whether a certificate that is valid from `not_before` on was made after that (seconds since the epoch). In whole
    seconds: one of the same second was not."""
    return not_before + BACKDATE_S > forgotten


def made_after(now: float, forgotten: float) -> float:
    """When a certificate is to be said to be made, so that it counts although its machine was forgotten in this very
    second, or by a control plane whose clock is ahead. Raises ValueError when it would not be valid yet."""
    made = max(now, forgotten + 1.0)
    if made - BACKDATE_S > now:
        raise ValueError(f"the machine was forgotten {forgotten - now:.0f} s from now")
    return made


def outlived(config_map: Mapping[str, Any], now: float, longest_s: float) -> list[str]:
    """The machines that were forgotten so long ago that none of their certificates, which are good for `longest_s`, is
    good any more. What is no time stays."""
    names = config_map.get("data") or {}
    return [name for name in names if 0.0 < _when(config_map, name) < now - longest_s]


def _when(config_map: Mapping[str, Any], machine: str) -> float:
    try:
        return forgotten_at(config_map, machine)
    except ValueError:
        return 0.0
