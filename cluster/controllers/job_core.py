"""What a Job should do next: pods to make and to end, what to count, when it is over.

Pure: (job, pods, now) -> Plan. Source: kubernetes pkg/controller/job/job_controller.go, KEP-2307 (tracking with
finalizers).

Exact counting. A pod of a job keeps the finalizer `batch.kubernetes.io/job-tracking` until it is counted:

    pod ends ──> its uid into status.uncountedTerminatedPods ──status written──> finalizer removed
             ──finalizer seen gone──> uid out, status.succeeded/failed + 1   (one write)

Each arrow is one guarded write, so a crash between any two of them loses nothing and counts nothing twice. Successes of
an Indexed job need no uids: an index that is recorded as complete is complete, however often it is seen.

Ends. SuccessCriteriaMet or FailureTarget say how the job will end; pods that still run are then ended, and Complete or
Failed follow when the last pod has terminated and everything is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.api.meta import parse_time, rfc3339
from cluster.api.pods import is_ready, is_terminal, is_terminating
from cluster.controllers import job_failures, job_indexes, job_per_index
from cluster.machinery.client import Obj, clone

FINALIZER = "batch.kubernetes.io/job-tracking"
MAX_PODS_PER_SYNC = 500
_TOO_MANY = "Too many succeeded pods running after completion count reached"
_TARGETS = {"FailureTarget": "Failed", "SuccessCriteriaMet": "Complete"}


@dataclass(frozen=True, slots=True)
class Note:
    """An Event to write once the status is."""

    type: str
    reason: str
    message: str


@dataclass(slots=True)
class Plan:
    """In this order: `drop` (finalizer off, then delete: not counted), `delete`, `create` (an index or None for each
    pod, and what `annotations` a pod of an index gets), `status`, `notes`, `release` (finalizer off)."""

    status: Obj
    drop: list[Obj] = field(default_factory=list)
    delete: list[Obj] = field(default_factory=list)
    create: list[int | None] = field(default_factory=list)
    annotations: dict[int, dict[str, str]] = field(default_factory=dict)
    release: list[Obj] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    recheck_after_s: float | None = None


def has_condition(job: Obj, *types: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(c.get("type") in types and c.get("status") == "True" for c in conditions)


def is_finished(job: Obj) -> bool:
    return has_condition(job, "Complete", "Failed")


def tracked(pod: Obj) -> bool:
    return FINALIZER in (pod["metadata"].get("finalizers") or ())


def to_confirm(job: Obj, pods: Sequence[Obj]) -> list[Obj]:
    """Pods that `decide` would begin to count: a reader whose pods may be older than its job has to look at the API
    whether their finalizer is still there."""
    known = _uncounted(job)
    return [p for p in pods if tracked(p) and p["metadata"]["uid"] not in known and (_succeeded(p) or _failed(job, p))]


def decide(job: Obj, pods: Sequence[Obj], now: float) -> Plan:
    """`pods`: all that the job owns."""
    if is_finished(job):
        return Plan(clone(job.get("status") or {}), release=[p for p in pods if tracked(p)])
    work = _Work(job, pods, now)
    work.count()
    work.judge()
    work.act()
    work.finish()
    return work.plan


class _Work:
    def __init__(self, job: Obj, pods: Sequence[Obj], now: float) -> None:
        self.job, self.spec, self.pods, self.now = job, job["spec"], pods, now
        self.status: Obj = clone(job.get("status") or {})
        self.plan = Plan(self.status)
        self.dying = "deletionTimestamp" in job["metadata"]
        self.suspended = bool(self.spec.get("suspend"))
        self.indexed = self.spec.get("completionMode") == "Indexed"
        value = self.spec.get("completions")
        self.completions: int | None = None if value is None else int(value)
        self.active = [p for p in pods if not is_terminal(p) and not is_terminating(p)]
        self.terminating = sum(1 for p in pods if is_terminating(p) and not is_terminal(p))
        self.done = job_indexes.parse(self.status.get("completedIndexes") or "", self.completions or 0)
        self.failed_indexes = job_indexes.parse(self.status.get("failedIndexes") or "", self.completions or 0)
        self.held: dict[int, Obj] = {}
        self.failing: Note | None = None
        self.made = 0

    # ---- counting

    def count(self) -> None:
        pending = {p["metadata"]["uid"] for p in self.pods if tracked(p)}
        uncounted = self.status.get("uncountedTerminatedPods") or {}
        kept: Obj = {}
        for field_ in ("succeeded", "failed"):
            uids = uncounted.get(field_) or []
            stay = [u for u in uids if u in pending]
            if len(stay) < len(uids):
                self.status[field_] = int(self.status.get(field_) or 0) + len(uids) - len(stay)
            if stay:
                kept[field_] = stay
        self.status["uncountedTerminatedPods"] = kept
        known = {u for uids in kept.values() for u in uids}
        room = MAX_PODS_PER_SYNC
        self._hold_back(known)
        held = {p["metadata"]["uid"] for p in self.held.values()}
        for pod in self.pods:
            uid = pod["metadata"]["uid"]
            if not tracked(pod) or room == 0 or uid in held:
                continue
            if uid in known:
                self.plan.release.append(pod)
            elif _succeeded(pod):
                room -= 1
                self._count_success(pod, kept)
            elif _failed(self.job, pod):
                room -= 1
                self._count_failure(pod, kept)

    def _hold_back(self, counted: set[str]) -> None:
        """With a retry budget for each index: which indexes have used theirs up, and which failed pods have to wait."""
        if job_per_index.budget(self.job) is None or self._target() is not None:
            return  # pods that the job's end ends fail no index
        waiting = [p for p in self.pods if tracked(p)]
        succeeded = {i for p in waiting if _succeeded(p) and (i := job_indexes.index_of(p)) is not None}
        failed = [p for p in waiting if not _succeeded(p) and _failed(self.job, p)]
        for pod in failed:
            index = job_indexes.index_of(pod)
            if index is not None and index < (self.completions or 0) and job_per_index.uses_up_index(self.job, pod):
                self.failed_indexes.add(index)
        self.failed_indexes -= self.done
        if not self.dying:
            ended = self.done | succeeded | self.failed_indexes
            self.held = job_per_index.held_back(self.pods, failed, ended, counted)

    def _count_success(self, pod: Obj, kept: Obj) -> None:
        self.plan.release.append(pod)
        if not self.indexed:
            kept.setdefault("succeeded", []).append(pod["metadata"]["uid"])
            return
        index = job_indexes.index_of(pod)
        if index is not None and index < (self.completions or 0):
            self.done.add(index)

    def _count_failure(self, pod: Obj, kept: Obj) -> None:
        self.plan.release.append(pod)
        verdict = job_failures.judge(self.job, pod)
        if verdict.action == "FailJob" and self.failing is None:
            self.failing = Note("Warning", "PodFailurePolicy", verdict.message)
        if verdict.action != "Ignore":
            kept.setdefault("failed", []).append(pod["metadata"]["uid"])

    @property
    def succeeded(self) -> int:
        return len(self.done) if self.indexed else self._total("succeeded")

    def _total(self, field_: str) -> int:
        waiting = (self.status.get("uncountedTerminatedPods") or {}).get(field_) or []
        return int(self.status.get(field_) or 0) + len(waiting)

    # ---- how it will end

    def judge(self) -> None:
        """A target that was set stays; else set one when the job has come to its end."""
        if self.status.get("startTime") is None and not self.suspended:
            self.status["startTime"] = rfc3339(self.now)
        if has_condition(self.job, *_TARGETS):
            return
        note = self.failing or self._exhausted() or self._indexes_failed()
        if note is not None:
            self._condition("FailureTarget", "True", note.reason, note.message)
        elif self.indexed and (rule := job_per_index.success(self.job, self.done)):
            self._condition("SuccessCriteriaMet", "True", "SuccessPolicy", rule)
        elif self._complete():
            self._met()

    def _indexes_failed(self) -> Note | None:
        failed, limit = len(self.failed_indexes), self.spec.get("maxFailedIndexes")
        if limit is not None and failed > int(limit):
            text = "Job has exceeded the specified maximal number of failed indexes"
            return Note("Warning", "MaxFailedIndexesExceeded", text)
        if failed and failed + len(self.done) >= (self.completions or 0):
            return Note("Warning", "FailedIndexes", "Job has failed indexes")
        return None

    def _exhausted(self) -> Note | None:
        limit = int(self.spec.get("backoffLimit", 6))
        over = self._total("failed") > limit
        if not over and (self.spec.get("template") or {}).get("spec", {}).get("restartPolicy") == "OnFailure":
            restarts = job_failures.restarts(self.active)
            over = restarts > 0 if limit == 0 else restarts >= limit
        if over:
            return Note("Warning", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        deadline = self.spec.get("activeDeadlineSeconds")
        if deadline is None or self.suspended or not self.status.get("startTime"):
            return None
        left = parse_time(self.status["startTime"]) + int(deadline) - self.now
        if left <= 0:
            return Note("Warning", "DeadlineExceeded", "Job was active longer than specified deadline")
        self._recheck(left)
        return None

    def _complete(self) -> bool:
        if self.completions is None:
            return self.succeeded > 0 and not self.active
        return self.succeeded >= self.completions and not self.active

    def _met(self) -> None:
        self._condition("SuccessCriteriaMet", "True", "CompletionsReached", "Reached expected number of succeeded pods")

    # ---- pods

    def act(self) -> None:
        if self._target() is not None:
            self.plan.delete.extend(self.active)
        elif self.dying:
            return
        elif self.suspended:
            self.plan.drop.extend(self.active)
            self._suspension("True", "Suspended", "JobSuspended", "Job suspended")
        else:
            if any(c.get("type") == "Suspended" for c in self.status.get("conditions") or ()) and self._suspension(
                "False", "Resumed", "JobResumed", "Job resumed"
            ):
                self.status["startTime"] = rfc3339(self.now)
            self._manage()

    def _manage(self) -> None:
        parallelism = int(self.spec.get("parallelism", 1))
        active = list(self.active)
        if self.completions is None:
            want = len(active) if self.succeeded > 0 else parallelism
        else:
            want = max(min(parallelism, self.completions - self.succeeded - len(self.failed_indexes)), 0)
        excess = self._excess(active, want)
        self.plan.drop.extend(excess[:MAX_PODS_PER_SYNC])
        if excess:
            return
        missing = want - len(active)
        if self.spec.get("podReplacementPolicy") == "Failed":
            missing -= self.terminating
        if missing <= 0:
            return
        missing = min(missing, MAX_PODS_PER_SYNC)
        if job_per_index.budget(self.job) is not None:
            self._create_each_in_its_time(active, missing)
        elif (wait_s := self._retry_wait_s()) > 0:
            self._recheck(wait_s)
        else:
            self.plan.create.extend(self._indexes(active, missing) if self.indexed else [None] * missing)
        self.made = len(self.plan.create)

    def _create_each_in_its_time(self, active: list[Obj], missing: int) -> None:
        """An index that failed waits for its own delay; it keeps its place among the lowest meanwhile."""
        for index in self._indexes(active, missing):
            last = self.held.get(index) if index is not None else None
            wait_s = job_per_index.retry_at(last) - self.now if last is not None else 0.0
            if wait_s > 0:
                self._recheck(wait_s)
            elif index is not None:
                self.plan.create.append(index)
                self.plan.annotations[index] = job_per_index.carried_on(self.job, last)

    def _excess(self, active: list[Obj], want: int) -> list[Obj]:
        """Active pods to end: useless ones first, then those that got least far."""
        over = self.done | self.failed_indexes
        useless = job_indexes.superfluous(active, self.completions or 0, over) if self.indexed else []
        gone = {p["metadata"]["uid"] for p in useless}
        rest = [p for p in active if p["metadata"]["uid"] not in gone]
        rest.sort(
            key=lambda p: (
                bool(p["spec"].get("nodeName")),
                (p.get("status") or {}).get("phase") == "Running",
                is_ready(p),
                _newest(p["metadata"].get("creationTimestamp", "")),
            )
        )
        return useless + rest[: max(len(rest) - want, 0)]

    def _indexes(self, active: list[Obj], count: int) -> list[int | None]:
        taken = self.done | self.failed_indexes | {i for p in active if (i := job_indexes.index_of(p)) is not None}
        if self.spec.get("podReplacementPolicy") == "Failed":
            going = [p for p in self.pods if is_terminating(p) and not is_terminal(p)]
            taken |= {i for p in going if (i := job_indexes.index_of(p)) is not None}
        return list(job_indexes.free(self.completions or 0, taken, count))

    def _retry_wait_s(self) -> float:
        failed = [
            p for p in self.pods if _failed(self.job, p) and job_failures.judge(self.job, p).action != "Ignore"
            and not _dropped(p)
        ]  # fmt: skip
        return job_failures.retry_at(failed, [p for p in self.pods if _succeeded(p)]) - self.now

    # ---- status

    def finish(self) -> None:
        ended = len(self.plan.drop) + len(self.plan.delete)
        self.status["active"] = len(self.active) - ended + self.made
        self.status["ready"] = sum(1 for p in self.active if is_ready(p)) if not ended else 0
        self.status["terminating"] = self.terminating + ended
        if self.indexed:
            self.status["succeeded"] = len(self.done)
            if self.done:
                self.status["completedIndexes"] = job_indexes.render(self.done)
            else:
                self.status.pop("completedIndexes", None)
            if job_per_index.budget(self.job) is not None:
                self.status["failedIndexes"] = job_indexes.render(self.failed_indexes)
        target = self._target()
        counted = not self.status.get("uncountedTerminatedPods") and not any(tracked(p) for p in self.pods)
        if target is None or self.active or self.terminating or not counted:
            return
        self._condition(_TARGETS[target["type"]], "True", target["reason"], target["message"])
        if target["type"] == "SuccessCriteriaMet":
            self.status["completionTime"] = rfc3339(self.now)
            if self.completions is not None and int(self.status.get("succeeded") or 0) > self.completions:
                self.plan.notes.append(Note("Warning", "TooManySucceededPods", _TOO_MANY))
            self.plan.notes.append(Note("Normal", "Completed", "Job completed"))
        else:
            self.plan.notes.append(Note("Warning", target["reason"], target["message"]))

    def _target(self) -> Obj | None:
        for condition in self.status.get("conditions") or ():
            if condition.get("type") in _TARGETS and condition.get("status") == "True":
                return dict(condition)
        return None

    def _suspension(self, status: str, event: str, reason: str, message: str) -> bool:
        changed = self._condition("Suspended", status, reason, message)
        if changed:
            self.plan.notes.append(Note("Normal", event, message))
        return changed

    def _condition(self, type_: str, status: str, reason: str, message: str) -> bool:
        """True when its status changed."""
        conditions = self.status.setdefault("conditions", [])
        stamp = rfc3339(self.now)
        new = {"type": type_, "status": status, "reason": reason, "message": message}
        new |= {"lastProbeTime": stamp, "lastTransitionTime": stamp}
        for i, old in enumerate(conditions):
            if old.get("type") == type_:
                if old.get("status") == status:
                    return False
                conditions[i] = new
                return True
        conditions.append(new)
        return True

    def _recheck(self, after_s: float) -> None:
        have = self.plan.recheck_after_s
        self.plan.recheck_after_s = after_s if have is None else min(have, after_s)


def _dropped(pod: Obj) -> bool:
    """Deleted by the controller itself without being counted: not a failure that delays the next pod."""
    return is_terminating(pod) and not tracked(pod)


def _succeeded(pod: Obj) -> bool:
    return bool((pod.get("status") or {}).get("phase") == "Succeeded")


def _failed(job: Obj, pod: Obj) -> bool:
    """Deleted pods count as failed at once, unless only failed ones are to be replaced."""
    if (pod.get("status") or {}).get("phase") == "Failed":
        return True
    if job["spec"].get("podReplacementPolicy") == "Failed":
        return False
    return is_terminating(pod) and not _succeeded(pod)


def _uncounted(job: Obj) -> set[str]:
    uncounted = (job.get("status") or {}).get("uncountedTerminatedPods") or {}
    return {uid for field_ in ("succeeded", "failed") for uid in uncounted.get(field_) or ()}


def _newest(stamp: str) -> float:
    return -parse_time(stamp) if stamp else 0.0
