"""What `kubectl get` prints for workloads: apps, batch, autoscaling, policy. Pure.

Source: Kubernetes pkg/printers/internalversion.
"""

from __future__ import annotations

from cluster.api.meta import parse_time
from cluster.apiserver.tables import (
    AGE,
    NAME,
    Cells,
    Object,
    Printer,
    age,
    at,
    col,
    containers,
    count,
    format_labels,
    format_selector,
    human_duration,
    name_of,
    since,
    text,
    wide,
)

_TEMPLATE = ("spec", "template", "spec")


def _desired(o: Object) -> int:
    replicas = at(o, "spec", "replicas")
    return 1 if replicas is None else int(replicas)


def _deployment(o: Object, now: float) -> Cells:
    names, images = containers(o, *_TEMPLATE)
    return [
        name_of(o),
        f"{count(o, 'status', 'readyReplicas')}/{_desired(o)}",
        count(o, "status", "updatedReplicas"),
        count(o, "status", "availableReplicas"),
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec", "selector")),
    ]


def _replica_set(o: Object, now: float) -> Cells:
    names, images = containers(o, *_TEMPLATE)
    return [
        name_of(o),
        _desired(o),
        count(o, "status", "replicas"),
        count(o, "status", "readyReplicas"),
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec", "selector")),
    ]


def _stateful_set(o: Object, now: float) -> Cells:
    names, images = containers(o, *_TEMPLATE)
    return [name_of(o), f"{count(o, 'status', 'readyReplicas')}/{_desired(o)}", age(o, now), names, images]


def _daemon_set(o: Object, now: float) -> Cells:
    names, images = containers(o, *_TEMPLATE)
    return [
        name_of(o),
        count(o, "status", "desiredNumberScheduled"),
        count(o, "status", "currentNumberScheduled"),
        count(o, "status", "numberReady"),
        count(o, "status", "updatedNumberScheduled"),
        count(o, "status", "numberAvailable"),
        format_labels(at(o, *_TEMPLATE, "nodeSelector")),
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec", "selector")),
    ]


def _controller_revision(o: Object, now: float) -> Cells:
    owner = "<none>"
    for ref in at(o, "metadata", "ownerReferences") or ():
        if ref.get("controller"):
            group = str(ref.get("apiVersion", "")).rpartition("/")[0]
            owner = f"{str(ref.get('kind', '')).lower()}{'.' + group if group else ''}/{ref.get('name')}"
    return [name_of(o), owner, int(o.get("revision") or 0), age(o, now)]


def _job_status(o: Object) -> str:
    """The word that says most: how it ended, else how it is about to."""
    met = {c.get("type") for c in at(o, "status", "conditions") or () if c.get("status") == "True"}
    for ended in ("Complete", "Failed"):
        if ended in met:
            return ended
    if at(o, "metadata", "deletionTimestamp"):
        return "Terminating"
    return next((t for t in ("Suspended", "FailureTarget", "SuccessCriteriaMet") if t in met), "Running")


def _job(o: Object, now: float) -> Cells:
    completions, parallelism = at(o, "spec", "completions"), int(at(o, "spec", "parallelism") or 0)
    succeeded = count(o, "status", "succeeded")
    if completions is not None:
        done = f"{succeeded}/{completions}"
    else:
        done = f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"
    started, ended = at(o, "status", "startTime"), at(o, "status", "completionTime")
    duration = ""
    if started:
        duration = human_duration((parse_time(ended) if ended else now) - parse_time(started))
    names, images = containers(o, *_TEMPLATE)
    return [
        name_of(o),
        _job_status(o),
        done,
        duration,
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec", "selector")),
    ]


def _cron_job(o: Object, now: float) -> Cells:
    last = at(o, "status", "lastScheduleTime")
    names, images = containers(o, "spec", "jobTemplate", *_TEMPLATE)
    return [
        name_of(o),
        text(o, "spec", "schedule"),
        text(o, "spec", "timeZone", default="<none>"),
        str(bool(at(o, "spec", "suspend"))),
        len(at(o, "status", "active") or []),
        since(last, now) if last else "<none>",
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec", "jobTemplate", "spec", "selector")),
    ]


def _hpa(o: Object, now: float) -> Cells:
    ref = at(o, "spec", "scaleTargetRef") or {}
    current = {text(m, "resource", "name"): m for m in at(o, "status", "currentMetrics") or ()}
    targets = []
    for m in at(o, "spec", "metrics") or ():
        name = text(m, "resource", "name")
        want = at(m, "resource", "target", "averageUtilization")
        have = at(current.get(name, {}), "resource", "current", "averageUtilization")
        if want is not None:
            targets.append(f"{name}: {'<unknown>' if have is None else f'{have}%'}/{want}%")
        else:
            value = text(m, "resource", "target", "averageValue", default="<auto>")
            seen = text(current.get(name, {}), "resource", "current", "averageValue", default="<unknown>")
            targets.append(f"{name or m.get('type', '')}: {seen}/{value}")
    shown = ", ".join(targets[:2]) + (f" + {len(targets) - 2} more..." if len(targets) > 2 else "")
    minimum = at(o, "spec", "minReplicas")
    return [
        name_of(o),
        f"{ref.get('kind')}/{ref.get('name')}",
        shown or "<none>",
        "<unset>" if minimum is None else str(minimum),
        count(o, "spec", "maxReplicas"),
        count(o, "status", "currentReplicas"),
        age(o, now),
    ]


def _pdb(o: Object, now: float) -> Cells:
    minimum, maximum = at(o, "spec", "minAvailable"), at(o, "spec", "maxUnavailable")
    return [
        name_of(o),
        "N/A" if minimum is None else str(minimum),
        "N/A" if maximum is None else str(maximum),
        count(o, "status", "disruptionsAllowed"),
        age(o, now),
    ]


_WORKLOAD = (wide("Containers"), wide("Images"), wide("Selector"))


def _scale(o: Object, now: float) -> Cells:
    return [name_of(o), count(o, "spec", "replicas"), count(o, "status", "replicas"), age(o, now)]


PRINTERS = {
    "scales.autoscaling": Printer((NAME, col("Desired", "integer"), col("Available", "integer"), AGE), _scale),
    "deployments.apps": Printer(
        (NAME, col("Ready"), col("Up-to-date"), col("Available"), AGE, *_WORKLOAD), _deployment
    ),
    "replicasets.apps": Printer(
        (NAME, col("Desired", "integer"), col("Current", "integer"), col("Ready", "integer"), AGE, *_WORKLOAD),
        _replica_set,
    ),
    "statefulsets.apps": Printer((NAME, col("Ready"), AGE, wide("Containers"), wide("Images")), _stateful_set),
    "daemonsets.apps": Printer(
        (
            NAME,
            col("Desired", "integer"),
            col("Current", "integer"),
            col("Ready", "integer"),
            col("Up-to-date", "integer"),
            col("Available", "integer"),
            col("Node Selector"),
            AGE,
            *_WORKLOAD,
        ),
        _daemon_set,
    ),
    "controllerrevisions.apps": Printer(
        (NAME, col("Controller"), col("Revision", "integer"), AGE), _controller_revision
    ),
    "jobs.batch": Printer((NAME, col("Status"), col("Completions"), col("Duration"), AGE, *_WORKLOAD), _job),
    "cronjobs.batch": Printer(
        (
            NAME,
            col("Schedule"),
            col("Timezone"),
            col("Suspend"),
            col("Active", "integer"),
            col("Last Schedule"),
            AGE,
            *_WORKLOAD,
        ),
        _cron_job,
    ),
    "horizontalpodautoscalers.autoscaling": Printer(
        (
            NAME,
            col("Reference"),
            col("Targets"),
            col("MinPods"),
            col("MaxPods", "integer"),
            col("Replicas", "integer"),
            AGE,
        ),
        _hpa,
    ),
    "poddisruptionbudgets.policy": Printer(
        (NAME, col("Min Available"), col("Max Unavailable"), col("Allowed Disruptions", "integer"), AGE), _pdb
    ),
}
