"""Why pods of a Job failed and what follows: failure policies, retry delays, restarts.

Pure. Source: kubernetes pkg/controller/job/{pod_failure_policy,backoff_utils}.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.api.meta import parse_time
from cluster.api.pods import is_terminal
from cluster.machinery.client import Obj

BACKOFF_BASE_S = 10.0
BACKOFF_MAX_S = 600.0
_ACTIONS = ("Count", "Ignore", "FailIndex", "FailJob")


@dataclass(frozen=True, slots=True)
class Judgement:
    """`action` is Count, Ignore, FailIndex or FailJob; `message` says why the job failed."""

    action: str
    message: str = ""


def judge(job: Obj, pod: Obj) -> Judgement:
    """The first rule of the pod failure policy that matches a failed pod; Count when none does. A rule of which this
    controller does not know what to do, written by a newer one, matches nothing."""
    for i, rule in enumerate((job["spec"].get("podFailurePolicy") or {}).get("rules") or []):
        if rule["action"] not in _ACTIONS:
            continue
        why = _exit_code(rule, pod) if rule.get("onExitCodes") else _condition(rule, pod)
        if why:
            return Judgement(rule["action"], f"{why} matching {rule['action']} rule at index {i}")
    return Judgement("Count")


def _exit_code(rule: Obj, pod: Obj) -> str:
    wanted = rule["onExitCodes"]
    status = pod.get("status") or {}
    for container in [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]:
        if wanted.get("containerName") and container.get("name") != wanted["containerName"]:
            continue
        ended = (container.get("state") or {}).get("terminated")
        code = int((ended or {}).get("exitCode") or 0)
        if ended is None or code == 0:
            continue
        among = code in (wanted.get("values") or [])
        if wanted.get("operator") == ("In" if among else "NotIn"):
            meta = pod["metadata"]
            where = f"pod {meta['namespace']}/{meta['name']}"
            return f"Container {container.get('name')} for {where} failed with exit code {code}"
    return ""


def _condition(rule: Obj, pod: Obj) -> str:
    patterns = {(p["type"], p.get("status") or "True") for p in rule.get("onPodConditions") or []}
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if (condition.get("type"), condition.get("status")) in patterns:
            meta = pod["metadata"]
            return f"Pod {meta['namespace']}/{meta['name']} has condition {condition['type']}"
    return ""


def restarts(pods: Iterable[Obj]) -> int:
    """Restarts of containers of running and pending pods."""
    total = 0
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase") in ("Running", "Pending"):
            for field in ("initContainerStatuses", "containerStatuses"):
                total += sum(int(s.get("restartCount") or 0) for s in status.get(field) or [])
    return total


def retry_at(failed: Sequence[Obj], succeeded: Sequence[Obj]) -> float:
    """When the next pod may be made: 10 s after the first failure in a row, doubling up to 10 min; 0 without any.

    Only what the pods' objects still tell counts, so a restart of the controller changes nothing.
    """
    last_success = max((finished_at(p) for p in succeeded), default=0.0)
    since = sorted(t for t in (finished_at(p) for p in failed) if t > last_success)
    if not since:
        return 0.0
    return since[-1] + backoff_s(len(since))


def backoff_s(failures: int) -> float:
    """After so many failures in a row, at least one."""
    return min(BACKOFF_BASE_S * 2.0 ** min(failures - 1, 10), BACKOFF_MAX_S)


def finished_at(pod: Obj) -> float:
    """When its last container ended; else when it was deleted; else when it was made."""
    status, meta = pod.get("status") or {}, pod["metadata"]
    ends = [
        parse_time(ended["finishedAt"])
        for s in status.get("containerStatuses") or []
        if (ended := (s.get("state") or {}).get("terminated")) and ended.get("finishedAt")
    ]
    if ends and is_terminal(pod):
        return max(ends)
    if meta.get("deletionTimestamp"):
        return parse_time(meta["deletionTimestamp"]) - float(meta.get("deletionGracePeriodSeconds") or 0)
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Ready" and condition.get("lastTransitionTime"):
            return parse_time(condition["lastTransitionTime"])
    return parse_time(meta["creationTimestamp"]) if meta.get("creationTimestamp") else 0.0
