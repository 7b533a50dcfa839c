"""What a ReplicaSet should do about its pods: how many to make, which to delete, what to report.

Pure: (replica set, pods, now) -> Plan. Source: kubernetes pkg/controller/replicaset and controller_utils.go
(ActivePodsWithRanks; slow start is in pod_control).

Invariant: pods that are finished or being deleted are not counted, so a pod that failed or is terminating is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cluster.api.meta import condition, parse_time, rfc3339
from cluster.api.pods import is_ready, is_terminal
from cluster.controllers.status import present
from cluster.machinery.client import Obj

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_CROWD = 100
_REST_PER_POD_S = 20e-6
_REST_S = 0.05
_PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


@dataclass(frozen=True, slots=True)
class Plan:
    """`create` pods to make; `delete` in order; `recheck_after_s` until a ready pod becomes available."""

    create: int
    delete: tuple[Obj, ...]
    recheck_after_s: float | None = None


def rest_s(plan: Plan, pods: int, burst: int) -> float:
    """How long what happens to `pods` (those that end, too: each look goes through them) gathers before it is looked
    at: some ten times as long as a look takes, so that a crowd that starts or ends costs a share of a core and not all
    of it; and so long that many pods have changed by then, for each look ends in a status to write, and that in one of
    the Deployment. Not while there is more to make or to delete."""
    if pods < _CROWD or max(plan.create, len(plan.delete)) == burst:
        return 0.0
    return max(pods * _REST_PER_POD_S, _REST_S)


def active_pods(pods: Sequence[Obj], deleted_uids: Collection[str] = ()) -> list[Obj]:
    """Those that count. `deleted_uids`: already deleted by us, though the cache may not show it yet."""
    return [
        p
        for p in pods
        if not is_terminal(p) and "deletionTimestamp" not in p["metadata"] and p["metadata"]["uid"] not in deleted_uids
    ]


def plan(rs: Obj, active: Sequence[Obj], related: Callable[[], Sequence[Obj]], now: float, burst: int = 500) -> Plan:
    """`related`: active pods of all ReplicaSets of the same Deployment (spread decides who goes first); asked only when
    some have to go."""
    wanted = int(rs["spec"].get("replicas", 1))
    surplus = len(active) - wanted
    recheck = availability_due_s(active, int(rs["spec"].get("minReadySeconds") or 0), now)
    if "deletionTimestamp" in rs["metadata"]:
        return Plan(0, (), recheck)
    if surplus < 0:
        return Plan(min(-surplus, burst), (), recheck)
    if surplus > 0:
        return Plan(0, tuple(rank_victims(active, related(), now)[: min(surplus, burst)]), recheck)
    return Plan(0, (), recheck)


def rank_victims(pods: Sequence[Obj], related: Sequence[Obj], now: float) -> list[Obj]:
    """Kubernetes' order of who is deleted first."""
    on_node: dict[str, int] = {}
    for pod in related:
        node = pod["spec"].get("nodeName", "")
        if node:
            on_node[node] = on_node.get(node, 0) + 1

    def rank(pod: Obj) -> tuple[bool, int, bool, int, int, int, int, int, str]:
        status = pod.get("status") or {}
        node = pod["spec"].get("nodeName", "")
        ready = is_ready(pod)
        return (
            bool(node),
            _PHASE_RANK.get(status.get("phase", "Pending"), 0),
            ready,
            _deletion_cost(pod),
            -on_node.get(node, 0),
            # Ages as powers of two; the younger (the smaller bucket) goes first.
            _age_bucket(_ready_since(pod), now) if ready else 0,
            -_restarts(pod),
            _age_bucket(_created(pod), now),
            pod["metadata"].get("uid", ""),
        )

    return sorted(pods, key=rank)


def _deletion_cost(pod: Obj) -> int:
    try:
        return int((pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _age_bucket(since: float | None, now: float) -> int:
    """Kubernetes compares ages by their logarithm, so that seconds do not decide among old pods."""
    if since is None:
        return 0
    return int(math.log2(max(now - since, 0.0) + 1.0))


def _created(pod: Obj) -> float | None:
    stamp = pod["metadata"].get("creationTimestamp")
    return parse_time(stamp) if stamp else None


def _ready_since(pod: Obj) -> float | None:
    ready = condition(pod, "Ready")
    stamp = ready.get("lastTransitionTime") if ready else None
    return parse_time(stamp) if stamp else None


def _restarts(pod: Obj) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return max((int(s.get("restartCount") or 0) for s in statuses), default=0)


# ---- status


def is_available(pod: Obj, min_ready_seconds: int, now: float) -> bool:
    """Ready for at least `min_ready_seconds`."""
    if not is_ready(pod):
        return False
    since = _ready_since(pod)
    return min_ready_seconds == 0 or (since is not None and since + min_ready_seconds <= now)


def availability_due_s(pods: Sequence[Obj], min_ready_seconds: int, now: float) -> float | None:
    """Until the next ready pod becomes available; None when none is on its way."""
    if min_ready_seconds == 0:
        return None
    due = [
        since + min_ready_seconds - now
        for pod in pods
        if is_ready(pod) and (since := _ready_since(pod)) is not None and since + min_ready_seconds > now
    ]
    return min(due) if due else None


def status_of(rs: Obj, active: Sequence[Obj], now: float, failure: str = "", failure_reason: str = "") -> Obj:
    """The status to report. `failure`: why pods could not be made or deleted, "" when they could."""
    spec = rs["spec"]
    wanted_labels: Mapping[str, str] = (spec.get("template") or {}).get("metadata", {}).get("labels") or {}
    min_ready = int(spec.get("minReadySeconds") or 0)
    ready = [p for p in active if is_ready(p)]
    wanted = wanted_labels.items()
    status: Obj = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(wanted <= (p["metadata"].get("labels") or {}).items() for p in active),
        "readyReplicas": len(ready),
        "availableReplicas": sum(is_available(p, min_ready, now) for p in ready) if min_ready else len(ready),
        "observedGeneration": int(rs["metadata"].get("generation") or 0),
    }
    conditions = [c for c in (rs.get("status") or {}).get("conditions") or [] if c.get("type") != "ReplicaFailure"]
    if failure:
        old = condition(rs, "ReplicaFailure")
        if old is not None and old.get("reason") == failure_reason:
            conditions.append(old)
        else:
            conditions.append(
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": failure_reason,
                    "message": failure,
                    "lastTransitionTime": rfc3339(now),
                }
            )
    if conditions:
        status["conditions"] = conditions
    return present(status, "replicas")
