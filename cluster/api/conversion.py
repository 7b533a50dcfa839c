"""Kinds that show another kind's stored objects: autoscaling/v1 over autoscaling/v2, events.k8s.io/v1 over v1 Event.

Pure; every function makes a new object and shares what it does not change. Nothing is lost on the way there and back:
what autoscaling/v1 has no fields for travels in annotations, as Kubernetes does it (pkg/apis/autoscaling/v1/
conversion.go, pkg/apis/events/v1/conversion.go).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from cluster.api.scheme import ResourceInfo

Object = dict[str, Any]
Convert = Callable[[Object], Object]


def to_view(view: ResourceInfo, obj: Object) -> Object:
    """A stored object as the view shows it."""
    return {**_VIEWS[view.api_version, view.kind][0](obj), "kind": view.kind, "apiVersion": view.api_version}


def to_hub(view: ResourceInfo, obj: Object, hub: ResourceInfo) -> Object:
    """A client's object of the view as it is stored."""
    return {**_VIEWS[view.api_version, view.kind][1](obj), "kind": hub.kind, "apiVersion": hub.api_version}


def raw_view(view: ResourceInfo, raw: bytes) -> bytes:
    """`to_view` for JSON."""
    return orjson.dumps(to_view(view, orjson.loads(raw)))


def hub_field(view: ResourceInfo, path: str) -> str:
    """Where the stored object has a field that the view selects on."""
    if view.kind != "Event":
        return path
    head, dot, rest = path.partition(".")
    return {v: k for k, v in _EVENT_FIELDS.items()}.get(head, head) + dot + rest


# --- events.k8s.io/v1 -------------------------------------------------------------------------------------------------

_EVENT_FIELDS = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_EVENT_BACK = {v: k for k, v in _EVENT_FIELDS.items()}


def _renamed(names: dict[str, str]) -> Convert:
    return lambda obj: {names.get(k, k): v for k, v in obj.items()}


# --- autoscaling/v1 ---------------------------------------------------------------------------------------------------

_ALPHA = "autoscaling.alpha.kubernetes.io/"
_METRICS, _CURRENT, _BEHAVIOR, _CONDITIONS = (
    _ALPHA + n for n in ("metrics", "current-metrics", "behavior", "conditions")
)
_SOURCES = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
}
_BY_RESOURCE = ("Resource", "ContainerResource")


def _is_cpu(metric: Object, amount: str) -> bool:
    """The one metric that v1 has a field for; `amount` is target in a spec, current in a status."""
    source = metric.get("resource") or {}
    value = source.get(amount) or {}
    return (
        metric.get("type") == "Resource" and source.get("name") == "cpu" and value.get("averageUtilization") is not None
    )


def _target_to_v1(kind: str, amount: Object, prefix: str) -> Object:
    """v2's target (or current) struct as v1's flat fields: `prefix` is target or current."""
    out: Object = {}
    if amount.get("averageUtilization") is not None:
        out[prefix + "AverageUtilization"] = amount["averageUtilization"]
    if amount.get("averageValue") is not None:
        out["averageValue" if kind == "Object" else prefix + "AverageValue"] = amount["averageValue"]
    if amount.get("value") is not None:
        out[prefix + "Value"] = amount["value"]
    return out


def _metric_to_v1(metric: Object, amount: str) -> Object:
    kind = metric["type"]
    source = metric.get(_SOURCES[kind]) or {}
    out = _target_to_v1(kind, source.get(amount) or {}, "current" if amount == "current" else "target")
    if kind in _BY_RESOURCE:
        out |= {k: source[k] for k in ("name", "container") if k in source}
    else:
        named = source.get("metric") or {}
        out["metricName"] = named.get("name", "")
        if named.get("selector") is not None:
            out["metricSelector" if kind == "External" else "selector"] = named["selector"]
        if kind == "Object":
            out["target"] = source.get("describedObject") or {}
    return {"type": kind, _SOURCES[kind]: out}


def _metric_from_v1(metric: Object) -> Object:
    kind = metric["type"]
    flat = metric.get(_SOURCES[kind]) or {}
    target: Object = {}
    if flat.get("targetAverageUtilization") is not None:
        target = {"type": "Utilization", "averageUtilization": flat["targetAverageUtilization"]}
    elif (average := flat.get("targetAverageValue", flat.get("averageValue"))) is not None:
        target = {"type": "AverageValue", "averageValue": average}
    elif flat.get("targetValue") is not None:
        target = {"type": "Value", "value": flat["targetValue"]}
    source: Object = {"target": target}
    if kind in _BY_RESOURCE:
        source |= {k: flat[k] for k in ("name", "container") if k in flat}
    else:
        source["metric"] = {"name": flat.get("metricName", "")}
        selector = flat.get("metricSelector", flat.get("selector"))
        if selector is not None:
            source["metric"]["selector"] = selector
        if kind == "Object":
            source["describedObject"] = flat.get("target") or {}
    return {"type": kind, _SOURCES[kind]: source}


def _autoscaler_to_v1(obj: Object) -> Object:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    notes: Object = {}
    new_spec = {k: spec[k] for k in ("scaleTargetRef", "minReplicas", "maxReplicas") if k in spec}
    rest = []
    for metric in spec.get("metrics") or ():
        if "targetCPUUtilizationPercentage" not in new_spec and _is_cpu(metric, "target"):
            new_spec["targetCPUUtilizationPercentage"] = metric["resource"]["target"]["averageUtilization"]
        else:
            rest.append(_metric_to_v1(metric, "target"))
    if rest:
        notes[_METRICS] = orjson.dumps(rest).decode()
    if spec.get("behavior") is not None:
        notes[_BEHAVIOR] = orjson.dumps(spec["behavior"]).decode()
    kept = ("observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas")
    new_status = {k: status[k] for k in kept if k in status}
    new_status.setdefault("currentReplicas", 0)
    new_status.setdefault("desiredReplicas", 0)
    for metric in status.get("currentMetrics") or ():
        if _is_cpu(metric, "current"):
            new_status["currentCPUUtilizationPercentage"] = metric["resource"]["current"]["averageUtilization"]
    if status.get("currentMetrics"):
        notes[_CURRENT] = orjson.dumps([_metric_to_v1(m, "current") for m in status["currentMetrics"]]).decode()
    if status.get("conditions"):
        notes[_CONDITIONS] = orjson.dumps(status["conditions"]).decode()
    metadata = dict(obj.get("metadata") or {})
    if notes:
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **notes}
    return {"metadata": metadata, "spec": new_spec, "status": new_status}


def _note(annotations: Object, key: str, kind: type) -> Any:
    """An annotation's JSON; what is not of the right shape counts as not there, as in Kubernetes."""
    try:
        found = orjson.loads(annotations.pop(key, "null"))
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, kind) else None


def _autoscaler_from_v1(obj: Object) -> Object:
    metadata, spec = dict(obj.get("metadata") or {}), dict(obj.get("spec") or {})
    annotations = dict(metadata.get("annotations") or {})
    rest = _note(annotations, _METRICS, list) or []
    behavior = _note(annotations, _BEHAVIOR, dict)
    conditions = _note(annotations, _CONDITIONS, list)
    annotations.pop(_CURRENT, None)
    metrics = [_metric_from_v1(m) for m in rest if isinstance(m, dict) and m.get("type") in _SOURCES]
    cpu = spec.pop("targetCPUUtilizationPercentage", None)
    if cpu is not None:
        target = {"type": "Utilization", "averageUtilization": cpu}
        metrics.insert(0, {"type": "Resource", "resource": {"name": "cpu", "target": target}})
    if metrics:
        spec["metrics"] = metrics
    if behavior is not None:
        spec["behavior"] = behavior
    status = dict(obj.get("status") or {})
    now = status.pop("currentCPUUtilizationPercentage", None)
    if now is not None:
        status["currentMetrics"] = [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": now}}}
        ]
    if conditions:
        status["conditions"] = conditions
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec, "status": status}


_VIEWS: dict[tuple[str, str], tuple[Convert, Convert]] = {
    ("events.k8s.io/v1", "Event"): (_renamed(_EVENT_FIELDS), _renamed(_EVENT_BACK)),
    ("autoscaling/v1", "HorizontalPodAutoscaler"): (_autoscaler_to_v1, _autoscaler_from_v1),
}
