"""Sums of quantities that keep their units: `256Mi` and `256Mi` are `512Mi`, as the API shows them.

Pure. `cluster.api.pods` counts in integers for scheduling; this is for what users read: limit ranges, quotas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.api.quantity import add, parse_quantity

Quantities = Mapping[str, Any]


def plus(*terms: Quantities | None) -> dict[str, str]:
    """Per resource; a term that lacks one adds nothing to it."""
    out: dict[str, str] = {}
    for term in terms:
        for k, v in (term or {}).items():
            out[k] = add(out.get(k, "0"), str(v))
    return out


def minus(a: Quantities, b: Quantities) -> dict[str, str]:
    """`a - b`, for the resources of either; may be negative."""
    return {k: add(str(a.get(k, "0")), str(b.get(k, "0")), -1) for k in {**a, **b}}


def largest(terms: Iterable[Quantities]) -> dict[str, str]:
    out: dict[str, str] = {}
    for term in terms:
        for k, v in term.items():
            if k not in out or parse_quantity(v) > parse_quantity(out[k]):
                out[k] = str(v)
    return out


def pod_total(spec: Mapping[str, Any], field: str) -> dict[str, str]:
    """What a pod's containers need together: `field` is requests or limits; overhead is not in it.

    Sidecars (init containers that go on) count with the containers; another init container needs itself and the
    sidecars before it; the pod needs the larger of both. Pod-level resources stand for the sum.
    """
    running = plus(*((c.get("resources") or {}).get(field) for c in spec.get("containers") or ()))
    sidecars: dict[str, str] = {}
    initial: list[dict[str, str]] = []
    for c in spec.get("initContainers") or ():
        need = (c.get("resources") or {}).get(field)
        if c.get("restartPolicy") == "Always":
            running, sidecars = plus(running, need), plus(sidecars, need)
            initial.append(sidecars)
        else:
            initial.append(plus(sidecars, need))
    total = largest([running, *initial])
    total.update({k: str(v) for k, v in ((spec.get("resources") or {}).get(field) or {}).items()})
    return total
