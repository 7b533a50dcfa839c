"""What a Deployment reports: counts, and the conditions Available and Progressing that `kubectl rollout` waits for.

Pure. Source: kubernetes pkg/controller/deployment/progress.go. Progress is any of: more updated, fewer old, more ready,
more available replicas than reported last; without any for progressDeadlineSeconds the Deployment has timed out.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.api.meta import condition, parse_time, rfc3339
from cluster.controllers.deployment_view import replicas, rolling_bounds
from cluster.machinery.client import Obj

NO_DEADLINE = 2**31 - 1


def counts(deployment: Obj, new: Obj | None, old: Sequence[Obj]) -> Obj:
    """The numbers of the status, from what the ReplicaSets report."""
    sets = [*old, *([new] if new is not None else [])]

    def total(field: str) -> int:
        return sum(int((rs.get("status") or {}).get(field) or 0) for rs in sets)

    have = total("availableReplicas")
    status: Obj = {
        "observedGeneration": int(deployment["metadata"].get("generation") or 0),
        "replicas": total("replicas"),
        "updatedReplicas": int((new.get("status") or {}).get("replicas") or 0) if new is not None else 0,
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": have,
        "unavailableReplicas": max(sum(replicas(rs) for rs in sets) - have, 0),
    }
    collisions = (deployment.get("status") or {}).get("collisionCount")
    if collisions is not None:
        status["collisionCount"] = collisions
    return status


def complete(deployment: Obj, status: Obj) -> bool:
    """All replicas are updated and available, and no old one is left."""
    want = replicas(deployment)
    return bool(
        status["updatedReplicas"] == want
        and status["replicas"] == want
        and status["availableReplicas"] == want
        and status["observedGeneration"] >= int(deployment["metadata"].get("generation") or 0)
    )


def status_of(deployment: Obj, new: Obj | None, old: Sequence[Obj], now: float, *, created: str = "") -> Obj:
    """The whole status. `created`: the name of a ReplicaSet this same plan creates."""
    status = counts(deployment, new, old)
    conditions = [dict(c) for c in (deployment.get("status") or {}).get("conditions") or []]
    _put(conditions, _available(deployment, status), now)
    progressing = _progressing(deployment, new, old, status, now, created)
    if progressing is None:
        conditions = [c for c in conditions if c["type"] != "Progressing"]
    else:
        _put(conditions, progressing, now, touch=progressing.pop("touch", False))
    failure = _replica_failure(new, old)
    conditions = [c for c in conditions if c["type"] != "ReplicaFailure"]
    if failure is not None:
        conditions.append(failure)
    status["conditions"] = conditions
    return status


def deadline_in_s(deployment: Obj, status: Obj, now: float) -> float | None:
    """Until the progress deadline passes, for a rollout under way; None when nothing is awaited."""
    seconds = _deadline_s(deployment)
    if seconds is None or deployment["spec"].get("paused") or complete(deployment, status):
        return None
    current = condition({"status": status}, "Progressing")
    if current is None or current.get("reason") in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
        return None
    since = parse_time(current.get("lastUpdateTime") or current["lastTransitionTime"])
    return max(since + seconds - now, 0.0) + 1.0


def _deadline_s(deployment: Obj) -> int | None:
    seconds = deployment["spec"].get("progressDeadlineSeconds", 600)
    return None if seconds is None or int(seconds) >= NO_DEADLINE else int(seconds)


def _available(deployment: Obj, status: Obj) -> Obj:
    _, max_unavailable = rolling_bounds(deployment)
    if status["availableReplicas"] >= replicas(deployment) - max_unavailable:
        return _condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    return _condition(
        "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
    )


def _progressing(
    deployment: Obj, new: Obj | None, old: Sequence[Obj], status: Obj, now: float, created: str
) -> Obj | None:
    """The Progressing condition as it should be; with `touch` when it counts as fresh progress."""
    current = condition(deployment, "Progressing")
    if _deadline_s(deployment) is None:
        return None
    if deployment["spec"].get("paused"):
        return _condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")
    if current is not None and current.get("reason") == "DeploymentPaused":
        return _condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed") | {"touch": True}
    if created:
        message = f'Created new replica set "{created}"'
        return _condition("Progressing", "True", "NewReplicaSetCreated", message) | {"touch": True}
    settled = current is not None and current.get("reason") == "NewReplicaSetAvailable"
    if settled and status["replicas"] == status["updatedReplicas"]:
        return current
    what = (
        f'ReplicaSet "{new["metadata"]["name"]}"'
        if new is not None
        else (f'Deployment "{deployment["metadata"]["name"]}"')
    )
    if complete(deployment, status):
        message = f"{what} has successfully progressed."
        return _condition("Progressing", "True", "NewReplicaSetAvailable", message) | {"touch": True}
    if _advanced(deployment, status):
        return _condition("Progressing", "True", "ReplicaSetUpdated", f"{what} is progressing.") | {"touch": True}
    if current is None:
        message = f"Found new replica set {what.partition(' ')[2]}" if new is not None else f"{what} is progressing."
        return _condition("Progressing", "True", "FoundNewReplicaSet", message)
    if _timed_out(deployment, current, now):
        return _condition("Progressing", "False", "ProgressDeadlineExceeded", f"{what} has timed out progressing.")
    return current


def _advanced(deployment: Obj, status: Obj) -> bool:
    before = deployment.get("status") or {}

    def was(field: str) -> int:
        return int(before.get(field) or 0)

    return bool(
        status["updatedReplicas"] > was("updatedReplicas")
        or status["replicas"] - status["updatedReplicas"] < was("replicas") - was("updatedReplicas")
        or status["readyReplicas"] > was("readyReplicas")
        or status["availableReplicas"] > was("availableReplicas")
    )


def _timed_out(deployment: Obj, current: Obj, now: float) -> bool:
    if current.get("reason") == "ProgressDeadlineExceeded":
        return True
    seconds = _deadline_s(deployment)
    if seconds is None or current.get("reason") == "NewReplicaSetAvailable":
        return False
    since = parse_time(current.get("lastUpdateTime") or current["lastTransitionTime"])
    return now > since + seconds


def _replica_failure(new: Obj | None, old: Sequence[Obj]) -> Obj | None:
    for rs in [*([new] if new is not None else []), *old]:
        found = condition(rs, "ReplicaFailure")
        if found is not None and found.get("status") == "True":
            stamp = found.get("lastTransitionTime", "")
            return {**found, "lastUpdateTime": stamp}
    return None


def _condition(kind: str, status: str, reason: str, message: str) -> Obj:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _put(conditions: list[Obj], new: Obj, now: float, *, touch: bool = False) -> None:
    """lastTransitionTime moves with the status, lastUpdateTime also with the reason or when touched."""
    stamp = rfc3339(now)
    for i, old in enumerate(conditions):
        if old["type"] != new["type"]:
            continue
        same = old.get("status") == new["status"] and old.get("reason") == new["reason"]
        if same and not touch:
            return
        moved = old.get("status") != new["status"]
        conditions[i] = {
            **new,
            "lastUpdateTime": stamp,
            "lastTransitionTime": stamp if moved else old.get("lastTransitionTime", stamp),
        }
        return
    conditions.append({**new, "lastUpdateTime": stamp, "lastTransitionTime": stamp})
