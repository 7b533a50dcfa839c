"""Whether one pod's rules allow one node: node selectors, node affinity, taints.

Pure. Source: k8s.io/component-helpers `scheduling/corev1` (nodeaffinity, taint matching). The scheduler has its own
columnar form of the same rules for all nodes at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]


def tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    key = toleration.get("key") or ""
    if key and key != taint.get("key"):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(taints: Iterable[Object], tolerations: Sequence[Object], effects: Sequence[str]) -> Object | None:
    """The first taint of one of the effects that nothing tolerates."""
    for taint in taints:
        if taint.get("effect") in effects and not any(tolerates(t, taint) for t in tolerations):
            return taint
    return None


def affinity_allows(spec: Object, node: Object) -> bool:
    """spec.nodeSelector and required node affinity."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_term(term, labels, node["metadata"]["name"]) for term in required.get("nodeSelectorTerms") or ())


def _term(term: Object, labels: Mapping[str, str], name: str) -> bool:
    """An empty term matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    if not all(_requirement(e, labels) for e in expressions):
        return False
    return all(f.get("key") == "metadata.name" and _requirement(f, {"metadata.name": name}) for f in fields)


def _requirement(requirement: Object, values: Mapping[str, str]) -> bool:
    have = values.get(requirement["key"])
    operator, wanted = requirement.get("operator"), list(requirement.get("values") or ())
    match operator:
        case "In":
            return have is not None and have in wanted
        case "NotIn":
            return have is None or have not in wanted
        case "Exists":
            return have is not None
        case "DoesNotExist":
            return have is None
    try:
        number, bound = int(have or ""), int(wanted[0])
    except (ValueError, IndexError):
        return False
    return number > bound if operator == "Gt" else number < bound
