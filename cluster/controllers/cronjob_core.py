"""What a CronJob should do: whether a run is due, which jobs it knows, which it may forget.

Pure: (cron job, its jobs, now) -> Plan. Source: kubernetes pkg/controller/cronjob (v2).

Invariants:
- a due time is run at most once: the job's name is made of its minute, and status.lastScheduleTime moves with it;
- of several missed times only the latest is run, and none that is older than startingDeadlineSeconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from cluster.api import cron
from cluster.api.meta import owner_reference, parse_time
from cluster.controllers.job_core import has_condition
from cluster.machinery.client import Obj, clone

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_SLACK_S = 0.1
_TOO_MANY = 100


@dataclass(frozen=True, slots=True)
class Note:
    type: str
    reason: str
    message: str


@dataclass(slots=True)
class Plan:
    """`forget` are finished jobs beyond the history, `replace` running ones that make way for `create`, which is due at
    `due`. `status` is as it is before the creation."""

    status: Obj
    notes: list[Note] = field(default_factory=list)
    forget: list[Obj] = field(default_factory=list)
    replace: list[Obj] = field(default_factory=list)
    create: Obj | None = None
    due: float = 0.0
    recheck_after_s: float | None = None


def decide(cj: Obj, jobs: Sequence[Obj], now: float) -> Plan:
    """`jobs`: all that the cron job owns."""
    plan = Plan(clone(cj.get("status") or {}))
    _take_stock(cj, jobs, plan)
    _history(cj, jobs, plan)
    if "deletionTimestamp" in cj["metadata"]:
        return plan
    try:
        zone = cron.zone(cj["spec"]["timeZone"]) if cj["spec"].get("timeZone") else UTC
    except ValueError as err:
        plan.notes.append(Note("Warning", "UnknownTimeZone", f'invalid timeZone: "{cj["spec"]["timeZone"]}": {err}'))
        return plan
    if cj["spec"].get("suspend"):
        return plan
    try:
        schedule = cron.parse(cj["spec"]["schedule"])
    except ValueError as err:
        text = f'unparseable schedule: "{cj["spec"]["schedule"]}" : {err}'
        plan.notes.append(Note("Warning", "UnparseableSchedule", text))
        return plan
    following = schedule.after(now, zone)
    if following is None:  # a day like February 31, which parses and never comes
        why = "time difference between two schedules is less than 1 second"
        plan.notes.append(Note("Warning", "InvalidSchedule", f"invalid schedule: {cj['spec']['schedule']} : {why}"))
        return plan
    plan.recheck_after_s = following - now + _SLACK_S
    due = latest_due(cj, schedule, zone, now, plan.notes)
    if due is not None:
        _start(cj, jobs, due, zone, now, plan)
    return plan


def latest_due(cj: Obj, schedule: cron.Schedule, zone: tzinfo, now: float, notes: list[Note]) -> float | None:
    """The last due time up to now that has not been run; None when there is none."""
    last = (cj.get("status") or {}).get("lastScheduleTime")
    earliest = parse_time(last or cj["metadata"]["creationTimestamp"])
    deadline = cj["spec"].get("startingDeadlineSeconds")
    if deadline is not None:
        earliest = max(earliest, now - float(deadline))
    found: float | None = None
    missed = 0
    at = schedule.after(earliest, zone)
    while at is not None and at <= now:
        found, missed = at, missed + 1
        if missed == _TOO_MANY + 1:
            text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            notes.append(Note("Warning", "TooManyMissedTimes", text))
            # What lies far back does not matter: go on close to now.
            at = _near(schedule, zone, at, now)
            continue
        at = schedule.after(at, zone)
    return found


def _near(schedule: cron.Schedule, zone: tzinfo, at: float, now: float) -> float | None:
    """A due time at or after `at` from which few steps lead to now."""
    if schedule.every_s:
        return at + (now - at) // schedule.every_s * schedule.every_s
    step_s = 60.0
    while now - step_s > at:
        near = schedule.after(now - step_s, zone)
        if near is not None and near <= now:
            return near
        step_s *= 2
    return schedule.after(at, zone)


def name_of(cj: Obj, due: float) -> str:
    return f"{cj['metadata']['name']}-{int(due) // 60}"


def _take_stock(cj: Obj, jobs: Sequence[Obj], plan: Plan) -> None:
    """Compare status.active with the jobs there are."""
    active = {ref["uid"]: ref for ref in plan.status.get("active") or []}
    present = {j["metadata"]["uid"]: j for j in jobs}
    for uid, job in present.items():
        name = job["metadata"]["name"]
        done = has_condition(job, "Complete", "Failed")
        if uid not in active:
            if not done:
                text = f"Saw a job that the controller did not create or forgot: {name}"
                plan.notes.append(Note("Warning", "UnexpectedJob", text))
        elif done:
            del active[uid]
            kind = "Complete" if has_condition(job, "Complete") else "Failed"
            text = f"Saw completed job: {name}, condition: {kind}"
            plan.notes.append(Note("Normal", "SawCompletedJob", text))
        if has_condition(job, "Complete"):
            ended = (job.get("status") or {}).get("completionTime")
            last = plan.status.get("lastSuccessfulTime")
            if ended and (not last or parse_time(ended) > parse_time(last)):
                plan.status["lastSuccessfulTime"] = ended
    for uid in [u for u in active if u not in present]:
        plan.notes.append(Note("Normal", "MissingJob", f"Active job went missing: {active[uid].get('name')}"))
        del active[uid]
    if active:
        plan.status["active"] = list(active.values())
    else:
        plan.status.pop("active", None)


def _history(cj: Obj, jobs: Sequence[Obj], plan: Plan) -> None:
    for kind, limit_field in (("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")):
        limit = cj["spec"].get(limit_field)
        if limit is None:
            continue
        done = [j for j in jobs if has_condition(j, kind) and "deletionTimestamp" not in j["metadata"]]
        done.sort(key=_by_start)
        plan.forget.extend(done[: max(len(done) - int(limit), 0)])


def _by_start(job: Obj) -> tuple[bool, str, str]:
    """Those that never started are the youngest."""
    started = (job.get("status") or {}).get("startTime") or ""
    return (not started, started, job["metadata"]["name"])


def _start(cj: Obj, jobs: Sequence[Obj], due: float, zone: tzinfo, now: float, plan: Plan) -> None:
    deadline = cj["spec"].get("startingDeadlineSeconds")
    if deadline is not None and due + float(deadline) < now:
        at = datetime.fromtimestamp(int(due), UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
        text = f"Missed scheduled time to start a job: {at}"
        plan.notes.append(Note("Warning", "MissSchedule", text))
        return
    active = plan.status.get("active") or []
    last = plan.status.get("lastScheduleTime")
    if (last and parse_time(last) == int(due)) or any(r.get("name") == name_of(cj, due) for r in active):
        return
    policy = cj["spec"].get("concurrencyPolicy")
    if policy == "Forbid" and active:
        text = "Not starting job because prior execution is running and concurrency policy is Forbid"
        plan.notes.append(Note("Normal", "JobAlreadyActive", text))
        return
    if policy == "Replace":
        uids = {ref["uid"] for ref in active}
        plan.replace = [j for j in jobs if j["metadata"]["uid"] in uids]
    plan.create, plan.due = new_job(cj, due, zone), due


def new_job(cj: Obj, due: float, zone: tzinfo) -> Obj:
    template = cj["spec"]["jobTemplate"]
    meta = template.get("metadata") or {}
    at = datetime.fromtimestamp(int(due), zone)
    stamp = at.isoformat()
    job: Obj = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name_of(cj, due),
            "namespace": cj["metadata"]["namespace"],
            "annotations": {
                **(meta.get("annotations") or {}),
                SCHEDULED_AT: stamp.removesuffix("+00:00") + "Z" if stamp.endswith("+00:00") else stamp,
            },
            "ownerReferences": [owner_reference(cj)],
        },
        "spec": clone(template["spec"]),
    }
    if meta.get("labels"):
        job["metadata"]["labels"] = dict(meta["labels"])
    return job


def reference(job: Obj) -> Obj:
    """The entry of status.active."""
    meta = job["metadata"]
    return {
        "kind": "Job",
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
        "apiVersion": "batch/v1",
        "resourceVersion": meta["resourceVersion"],
    }
