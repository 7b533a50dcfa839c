"""Retry budgets of single indexes of an Indexed Job (backoffLimitPerIndex), and policies of success.

Pure. Sources: KEP-3850 and KEP-3998, kubernetes pkg/controller/job/{backoff_utils,indexed_job_utils,success_policy}.go.

How often an index has failed is written on its pods, each new one counting on from the last. So the last failed pod of
an index keeps its finalizer, and is not counted, until its replacement is there to carry the number on:

    p (failures 0) fails ──> held back ──> q (failures 1) is made ──> p is counted and released
    q fails; 1 >= backoffLimitPerIndex ──> the index is among status.failedIndexes, q is counted
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cluster.controllers import job_failures, job_indexes
from cluster.machinery.client import Obj

FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"


def budget(job: Obj) -> int | None:
    """spec.backoffLimitPerIndex; None: failures of all indexes are counted together."""
    value = job["spec"].get("backoffLimitPerIndex")
    return None if value is None else int(value)


def uses_up_index(job: Obj, failed_pod: Obj) -> bool:
    """Whether this failure is the index's last one."""
    limit = budget(job)
    action = job_failures.judge(job, failed_pod).action
    if action in ("FailIndex", "Ignore"):
        return action == "FailIndex"
    return limit is not None and _number(failed_pod, FAILURES) >= limit


def held_back(
    pods: Sequence[Obj], failed: Sequence[Obj], ended: Collection[int], counted: Collection[str]
) -> dict[int, Obj]:
    """By index the failed pod that waits for its replacement. `ended`: indexes that get none; `counted`: uids."""
    held: dict[int, Obj] = {}
    for pod in failed:
        index = job_indexes.index_of(pod)
        if index is None or index in ended or pod["metadata"]["uid"] in counted:
            continue
        if index not in held or _age(held[index]) < _age(pod):
            held[index] = pod
    for pod in pods:
        index = job_indexes.index_of(pod)
        if index is not None and index in held and _tries(pod) > _tries(held[index]):
            del held[index]
    return held


def carried_on(job: Obj, last: Obj | None) -> dict[str, str]:
    """Annotations of the next pod of an index whose last one failed; None: of its first."""
    if last is None:
        return {FAILURES: "0"}
    failures, ignored = _number(last, FAILURES), _number(last, IGNORED)
    if job_failures.judge(job, last).action == "Ignore":
        ignored += 1
    else:
        failures += 1
    return {FAILURES: str(failures)} | ({IGNORED: str(ignored)} if ignored else {})


def retry_at(last: Obj) -> float:
    """When the index may be tried again: 10 s after its first failure, doubling up to 10 min."""
    return job_failures.finished_at(last) + job_failures.backoff_s(_tries(last) + 1)


def success(job: Obj, done: Collection[int]) -> str:
    """Which rule of the success policy holds, in words; "" for none."""
    completions = int(job["spec"].get("completions") or 0)
    for i, rule in enumerate((job["spec"].get("successPolicy") or {}).get("rules") or ()):
        if _holds(rule, done, completions):
            return f"Matched rules at index {i}"
    return ""


def _holds(rule: Mapping[str, object], done: Collection[int], completions: int) -> bool:
    text, count = rule.get("succeededIndexes"), rule.get("succeededCount")
    wanted = job_indexes.parse(str(text), completions) if text is not None else set(range(completions))
    reached = len(wanted.intersection(done))
    return reached > 0 and reached >= (int(str(count)) if count is not None else len(wanted))


def _tries(pod: Obj) -> int:
    return _number(pod, FAILURES) + _number(pod, IGNORED)


def _age(pod: Obj) -> tuple[int, float]:
    return _tries(pod), job_failures.finished_at(pod)


def _number(pod: Obj, key: str) -> int:
    text = (pod["metadata"].get("annotations") or {}).get(key, "")
    return int(text) if text.isascii() and text.isdigit() else 0
