"""Numbers that may be percentages: maxSurge, maxUnavailable, minAvailable.

Pure. Source: k8s.io/apimachinery `pkg/util/intstr`, GetScaledValueFromIntOrPercent.
"""

from __future__ import annotations


def scaled(value: int | str, total: int, *, up: bool = True) -> int:
    """`value` itself, or with "30%" that part of `total`, rounded `up` or down."""
    if isinstance(value, int):
        return value
    share = int(value.rstrip("%") or 0) * total
    return -(-share // 100) if up else share // 100
