"""Validation of Job and CronJob (pkg/apis/batch/validation).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import cron, selectors
from cluster.api.errors import Cause
from cluster.api.validation import fields, pods
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_MAX_PARALLEL_INDEXED = 100_000
_MAX_RULES = 20
_MAX_EXIT_CODES = 255
_MAX_CRON_NAME = 52
_COUNTS = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")
_PER_INDEX = ("backoffLimitPerIndex", "maxFailedIndexes")
_MAX_FAILED_INDEXES = 100_000
_MANY_COMPLETIONS = 100_000
_FROZEN = ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy")
_MUTABLE_WHEN_SUSPENDED = ("nodeSelector", "affinity", "tolerations", "schedulingGates")


def validate_job(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _job_spec(faults, "spec", spec)
    selector = spec.get("selector")
    if selector is None:
        faults.required("spec.selector")
    else:
        fields.label_selector(faults, "spec.selector", selector)
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
        if not selectors.from_label_selector(selector).matches(labels):
            faults.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    completions = spec.get("completions")
    if spec.get("completionMode") == "Indexed" and completions:
        hostname = f"{obj['metadata'].get('name', '')}-{completions - 1}"
        if fields.dns_label(hostname):
            why = f"will not able to create pod with invalid DNS label: {hostname}"
            faults.invalid("metadata.name", obj["metadata"].get("name", ""), why)


def _job_spec(faults: Faults, at: str, spec: Object) -> None:
    for name in (*_COUNTS, *_PER_INDEX):
        faults.non_negative(f"{at}.{name}", spec.get(name))
    mode = spec.get("completionMode") or "NonIndexed"
    faults.enum(f"{at}.completionMode", mode, ("Indexed", "NonIndexed"))
    if mode == "Indexed":
        if spec.get("completions") is None:
            faults.required(f"{at}.completions", "when completion mode is Indexed")
        if (spec.get("parallelism") or 0) > _MAX_PARALLEL_INDEXED:
            why = f"must be less than or equal to {_MAX_PARALLEL_INDEXED} when completion mode is Indexed"
            faults.invalid(f"{at}.parallelism", spec["parallelism"], why)
    _index_budget(faults, at, spec, indexed=mode == "Indexed")
    if spec.get("successPolicy") is not None:
        _success_policy(faults, at, spec, indexed=mode == "Indexed")
    template = spec.get("template") or {}
    pods.validate_template(faults, f"{at}.template", template)
    policy = (template.get("spec") or {}).get("restartPolicy")
    where = f"{at}.template.spec.restartPolicy"
    if policy not in ("OnFailure", "Never"):
        faults.required(where, 'valid values: "OnFailure", "Never"')
    if spec.get("backoffLimitPerIndex") is not None and policy == "OnFailure":
        faults.invalid(where, policy, 'only "Never" is supported when backoffLimitPerIndex is specified')
    failure = spec.get("podFailurePolicy")
    if failure is not None:
        if policy == "OnFailure":
            faults.invalid(where, policy, 'only "Never" is supported when podFailurePolicy is specified')
        per_index = spec.get("backoffLimitPerIndex") is not None
        _failure_policy(faults, f"{at}.podFailurePolicy.rules", failure.get("rules") or [], template, per_index)
        if spec.get("podReplacementPolicy") not in (None, "Failed"):
            faults.unsupported(f"{at}.podReplacementPolicy", spec["podReplacementPolicy"], ("Failed",))
    elif spec.get("podReplacementPolicy") is not None:
        options = ("Failed", "TerminatingOrFailed")
        faults.enum(f"{at}.podReplacementPolicy", spec["podReplacementPolicy"], options)


def _index_budget(faults: Faults, at: str, spec: Object, *, indexed: bool) -> None:
    """backoffLimitPerIndex and maxFailedIndexes."""
    limit, most, completions = spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes"), spec.get("completions")
    if not indexed:
        for name in _PER_INDEX:
            if spec.get(name) is not None:
                faults.invalid(f"{at}.{name}", spec[name], "requires indexed completion mode")
        return
    if most is not None:
        if limit is None:
            faults.required(f"{at}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
        if completions is not None and most > completions:
            faults.invalid(f"{at}.maxFailedIndexes", most, "must be less than or equal to completions")
        if most > _MAX_FAILED_INDEXES:
            faults.invalid(f"{at}.maxFailedIndexes", most, f"must be less than or equal to {_MAX_FAILED_INDEXES}")
    elif limit is not None and (completions or 0) > _MANY_COMPLETIONS:
        faults.required(f"{at}.maxFailedIndexes", f"must be specified when completions is above {_MANY_COMPLETIONS}")


def _success_policy(faults: Faults, at: str, spec: Object, *, indexed: bool) -> None:
    if not indexed:
        faults.invalid(f"{at}.successPolicy", spec["successPolicy"], "requires indexed completion mode")
        return
    at, rules = f"{at}.successPolicy.rules", spec["successPolicy"].get("rules") or []
    if not rules:
        faults.required(at, "at least one rules must be specified when the successPolicy is specified")
    if len(rules) > _MAX_RULES:
        faults.too_many(at, len(rules), 20)
    for i, rule in enumerate(rules):
        _success_rule(faults, f"{at}[{i}]", rule, int(spec.get("completions") or 0))


def _success_rule(faults: Faults, at: str, rule: Object, completions: int) -> None:
    text, count = rule.get("succeededIndexes"), rule.get("succeededCount")
    total, what = completions, "the number of specified completions"
    if text is None and count is None:
        faults.required(at, "at least one of succeededCount or succeededIndexes must be specified")
    if text is not None:
        try:
            total, what = _indexes(text, completions), "the number of indexes in the specified succeededIndexes field"
        except ValueError as err:
            faults.invalid(f"{at}.succeededIndexes", text, f"error parsing succeededIndexes: {err}")
    if count is not None:
        faults.non_negative(f"{at}.succeededCount", count)
        if count > total:
            faults.invalid(f"{at}.succeededCount", count, f"must be less than or equal to {total} ({what})")


def _indexes(text: str, completions: int) -> int:
    """How many indexes `1,3-5` names; raises ValueError unless they are numbers below `completions`, in order."""
    total, last = 0, -1
    for part in text.split(",") if text else ():
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise ValueError(f'cannot convert string to integer for index: "{part}"')
        first, end = int(low), int(high or low)
        if first <= last:
            raise ValueError(f"non-increasing order, previous: {last}, current: {first}")
        if dash and end <= first:
            raise ValueError(f"non-increasing order, previous: {first}, current: {end}")
        if end >= completions:
            raise ValueError(f'too large index: "{end}"')
        total, last = total + end - first + 1, end
    return total


def _failure_policy(faults: Faults, at: str, rules: list[Object], template: Object, per_index: bool) -> None:
    if len(rules) > _MAX_RULES:
        faults.too_many(at, len(rules), 20)
    spec = template.get("spec") or {}
    names = {c.get("name") for c in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]}
    for i, rule in enumerate(rules):
        where = f"{at}[{i}]"
        action = rule.get("action")
        faults.enum(f"{where}.action", action, ("Count", "FailIndex", "FailJob", "Ignore"))
        if action == "FailIndex" and not per_index:
            faults.invalid(f"{where}.action", action, "requires the backoffLimitPerIndex to be set")
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or []
        if codes is not None and conditions:
            faults.invalid(where, rule, "specifying both OnExitCodes and OnPodConditions is not supported")
        elif codes is None and not conditions:
            faults.invalid(where, rule, "specifying one of OnExitCodes and OnPodConditions is required")
        if codes is not None:
            _exit_codes(faults, f"{where}.onExitCodes", codes, names)
        for j, pattern in enumerate(conditions):
            faults.check(
                f"{where}.onPodConditions[{j}].type", pattern.get("type"), fields.qualified_name(pattern["type"])
            )
            faults.enum(f"{where}.onPodConditions[{j}].status", pattern.get("status"), ("False", "True", "Unknown"))


def _exit_codes(faults: Faults, at: str, codes: Object, names: set[Any]) -> None:
    faults.enum(f"{at}.operator", codes.get("operator"), ("In", "NotIn"))
    if codes.get("containerName") and codes["containerName"] not in names:
        why = "must be one of the container or initContainer names in the pod template"
        faults.invalid(f"{at}.containerName", codes["containerName"], why)
    values = codes.get("values") or []
    if not values:
        faults.invalid(f"{at}.values", values, "at least one value is required")
    elif len(values) > _MAX_EXIT_CODES:
        why = f"Too many: {len(values)}: must have at most {_MAX_EXIT_CODES} items"
        faults.causes.append(Cause("FieldValueTooMany", why, f"{at}.values"))
    for j, value in enumerate(values):
        if codes.get("operator") == "In" and value == 0:
            faults.invalid(f"{at}.values[{j}]", value, "must not be 0 for the In operator")
        if value in values[:j]:
            faults.duplicate(f"{at}.values[{j}]", value)
    if values != sorted(values):
        faults.invalid(f"{at}.values", values, "must be ordered")


def validate_job_update(faults: Faults, new: Object, old: Object) -> None:
    a, b = new["spec"], old["spec"]
    wanted, before = a.get("completions"), b.get("completions")
    if a.get("completionMode") != "Indexed":
        faults.immutable("spec.completions", wanted, before)
    elif wanted is not None and wanted not in (before, a.get("parallelism")):
        faults.invalid("spec.completions", wanted, "can only be modified in tandem with spec.parallelism")
    faults.immutable("spec.selector", a.get("selector"), b.get("selector"))
    faults.immutable("spec.template", _fixed_template(a, old), _fixed_template(b, old))
    for field in _FROZEN:
        faults.immutable(f"spec.{field}", a.get(field), b.get(field))


def _fixed_template(spec: Object, old: Object) -> Object:
    """What of the template may not change: less while the job is suspended and has not started."""
    template = spec.get("template") or {}
    if not old["spec"].get("suspend") or (old.get("status") or {}).get("startTime"):
        return dict(template)
    pod = {k: v for k, v in (template.get("spec") or {}).items() if k not in _MUTABLE_WHEN_SUSPENDED}
    return {"spec": pod}


def validate_cron_job(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    name = obj["metadata"].get("name", "")
    if len(name) > _MAX_CRON_NAME:
        faults.invalid("metadata.name", name, f"must be no more than {_MAX_CRON_NAME} characters")
    _schedule(faults, spec)
    faults.non_negative("spec.startingDeadlineSeconds", spec.get("startingDeadlineSeconds"))
    faults.enum("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), ("Allow", "Forbid", "Replace"))
    for field in ("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        faults.non_negative(f"spec.{field}", spec.get(field))
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    _job_spec(faults, "spec.jobTemplate.spec", job)
    if job.get("manualSelector"):
        faults.unsupported("spec.jobTemplate.spec.manualSelector", True, ("nil", "false"))


def _schedule(faults: Faults, spec: Object) -> None:
    text, zone = spec.get("schedule") or "", spec.get("timeZone")
    if not text:
        faults.required("spec.schedule")
    elif "TZ" in text:
        why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        faults.invalid("spec.schedule", text, why)
    else:
        try:
            cron.parse(text)
        except ValueError as err:
            faults.invalid("spec.schedule", text, str(err))
    if zone is None:
        return
    if not zone or zone.lower() == "local":
        why = "timeZone must be nil or non-empty string" if not zone else (
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        )  # fmt: skip
        faults.invalid("spec.timeZone", zone, why)
        return
    try:
        cron.zone(zone)
    except ValueError as err:
        faults.invalid("spec.timeZone", zone, str(err))
