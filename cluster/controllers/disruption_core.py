"""How many pods a PodDisruptionBudget can do without.

Pure: (budget, pods, sizes of their controllers, now) -> Verdict. Source: kubernetes pkg/controller/disruption.

    healthy   = ready pods that are not being deleted and were not evicted a moment ago
    desired   = minAvailable, or expected - maxUnavailable (percentages of expected, rounded up)
    expected  = pods there are (minAvailable as a number), else what the pods' controllers want
    allowed   = healthy - desired, never below 0

Invariant: an eviction noted in disruptedPods counts as a lost pod until its deletion is seen, or for two minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.api.meta import parse_time, rfc3339
from cluster.api.pods import is_ready
from cluster.controllers.percent import scaled
from cluster.machinery.client import Obj, clone

DELETION_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`late` names pods whose eviction was noted but which were never deleted."""

    status: Obj
    late: tuple[str, ...] = ()
    recheck_after_s: float | None = None


def needs_scale(budget: Obj) -> bool:
    """Whether `expected` is what the controllers want, rather than the pods there are."""
    spec = budget["spec"]
    return "maxUnavailable" in spec or isinstance(spec.get("minAvailable"), str)


def decide(budget: Obj, pods: Sequence[Obj], expected: int, now: float) -> Verdict:
    """`pods`: all that the budget selects; `expected`: as `needs_scale` says."""
    disrupted, late, recheck_after_s = _disrupted(budget, pods, now)
    healthy = sum(
        1
        for p in pods
        if is_ready(p) and "deletionTimestamp" not in p["metadata"] and p["metadata"]["name"] not in disrupted
    )
    desired = _desired(budget["spec"], expected)
    allowed = max(healthy - desired, 0) if expected > 0 else 0
    status = _status(budget, allowed, now)
    status.update(currentHealthy=healthy, desiredHealthy=desired, expectedPods=expected, disruptionsAllowed=allowed)
    status["observedGeneration"] = int(budget["metadata"].get("generation") or 0)
    if disrupted:
        status["disruptedPods"] = disrupted
    else:
        status.pop("disruptedPods", None)
    return Verdict(status, tuple(late), recheck_after_s)


def failed(budget: Obj, why: str, now: float) -> Obj:
    """The status when the pods cannot be judged: nothing may be disrupted."""
    status = clone(budget.get("status") or {})
    status["disruptionsAllowed"] = 0
    status["observedGeneration"] = int(budget["metadata"].get("generation") or 0)
    return _with_condition(status, "False", "SyncFailed", why, budget, now)


def _desired(spec: Obj, expected: int) -> int:
    if "maxUnavailable" in spec:
        return max(expected - scaled(spec["maxUnavailable"], expected), 0)
    return scaled(spec.get("minAvailable", 1), expected)


def _disrupted(budget: Obj, pods: Sequence[Obj], now: float) -> tuple[dict[str, str], list[str], float | None]:
    """(evictions still to be seen, pods that were never deleted, when the next of the former runs out)."""
    noted: dict[str, str] = (budget.get("status") or {}).get("disruptedPods") or {}
    present = {p["metadata"]["name"]: p for p in pods}
    kept: dict[str, str] = {}
    late: list[str] = []
    recheck: float | None = None
    for name, stamp in sorted(noted.items()):
        pod = present.get(name)
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            continue
        left = parse_time(stamp) + DELETION_TIMEOUT_S - now
        if left <= 0:
            late.append(name)
            continue
        kept[name] = stamp
        recheck = left if recheck is None else min(recheck, left)
    return kept, late, recheck


def _status(budget: Obj, allowed: int, now: float) -> Obj:
    status = clone(budget.get("status") or {})
    verdict, reason = ("True", "SufficientPods") if allowed > 0 else ("False", "InsufficientPods")
    return _with_condition(status, verdict, reason, "", budget, now)


def _with_condition(status: Obj, verdict: str, reason: str, message: str, budget: Obj, now: float) -> Obj:
    """lastTransitionTime moves only with the condition's status."""
    conditions = [c for c in status.get("conditions") or [] if c.get("type") != "DisruptionAllowed"]
    old = next((c for c in status.get("conditions") or [] if c.get("type") == "DisruptionAllowed"), None)
    same = old is not None and old.get("status") == verdict
    conditions.append(
        {
            "type": "DisruptionAllowed",
            "status": verdict,
            "observedGeneration": int(budget["metadata"].get("generation") or 0),
            "lastTransitionTime": old["lastTransitionTime"] if same and old is not None else rfc3339(now),
            "reason": reason,
            "message": message,
        }
    )
    status["conditions"] = conditions
    return status
