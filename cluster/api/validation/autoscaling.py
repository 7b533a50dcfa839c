"""Validation of HorizontalPodAutoscaler (pkg/apis/autoscaling/validation).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import quantity
from cluster.api.validation.fields import Faults, dns_label
from cluster.api.validation.metadata import path_segment

Object = dict[str, Any]

_SOURCES = {
    "Object": "object",
    "External": "external",
    "Pods": "pods",
    "Resource": "resource",
    "ContainerResource": "containerResource",
}
_MAX_PERIOD_S = 1800
_MAX_WINDOW_S = 3600


def validate_autoscaler(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    low, high = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if low is not None and low < 1:
        faults.invalid("spec.minReplicas", low, "must be greater than or equal to 1")
    if high < 1:
        faults.invalid("spec.maxReplicas", high, "must be greater than 0")
    if low is not None and high < low:
        faults.invalid("spec.maxReplicas", high, "must be greater than or equal to `minReplicas`")
    _reference(faults, "spec.scaleTargetRef", spec.get("scaleTargetRef") or {})
    for i, metric in enumerate(spec.get("metrics") or ()):
        _metric(faults, f"spec.metrics[{i}]", metric)
    for direction in ("scaleUp", "scaleDown"):
        rules = (spec.get("behavior") or {}).get(direction)
        if rules is not None:
            _rules(faults, f"spec.behavior.{direction}", rules)


def _segment(faults: Faults, at: str, value: str, missing: str = "") -> None:
    """What becomes a part of a path."""
    if not value:
        faults.required(at, missing)
    else:
        faults.check(at, value, path_segment(value))


def _reference(faults: Faults, at: str, ref: Object) -> None:
    for field in ("kind", "name"):
        _segment(faults, f"{at}.{field}", ref.get(field) or "")


def _metric(faults: Faults, at: str, metric: Object) -> None:
    kind = metric.get("type") or ""
    if not kind:
        faults.required(f"{at}.type", "must specify a metric source type")
    faults.enum(f"{at}.type", kind, _SOURCES)
    given = [field for field in _SOURCES.values() if metric.get(field) is not None]
    for field in given[:1]:
        _source(faults, f"{at}.{field}", field, metric[field])
    wanted = _SOURCES.get(kind, "")
    if wanted and wanted not in given:
        faults.required(f"{at}.{wanted}", "must populate information for the given metric source")
    for field in given if len(given) > 1 else ():
        if field != wanted:
            faults.forbidden(f"{at}.{field}", "must populate the given metric source only")


def _source(faults: Faults, at: str, field: str, source: Object) -> None:
    if field == "object":
        _reference(faults, f"{at}.describedObject", source.get("describedObject") or {})
    if field in ("object", "external", "pods"):
        _segment(
            faults, f"{at}.metric.name", (source.get("metric") or {}).get("name") or "", "must specify a metric name"
        )
    elif not source.get("name"):
        faults.required(f"{at}.name", "must specify a resource name")
    if field == "containerResource":
        if not source.get("container"):
            faults.required(f"{at}.container", "must specify a container")
        else:
            faults.check(f"{at}.container", source["container"], dns_label(source["container"]))
    target = source.get("target") or {}
    _target(faults, f"{at}.target", target)
    _combination(faults, f"{at}.target", field, target)


def _target(faults: Faults, at: str, target: Object) -> None:
    kind = target.get("type") or ""
    if not kind:
        faults.required(f"{at}.type", "must specify a metric target type")
    if kind not in ("Utilization", "Value", "AverageValue"):
        faults.invalid(f"{at}.type", kind, "must be either Utilization, Value, or AverageValue")
    for name in ("value", "averageValue"):
        if target.get(name) is not None and quantity.parse_quantity(target[name]) <= 0:
            faults.invalid(f"{at}.{name}", target[name], "must be positive")
    if target.get("averageUtilization") is not None and target["averageUtilization"] < 1:
        faults.invalid(f"{at}.averageUtilization", target["averageUtilization"], "must be greater than 0")


def _combination(faults: Faults, at: str, field: str, target: Object) -> None:
    """Which of its values a source needs, and which exclude each other."""
    value, average, percent = (target.get(f) for f in ("value", "averageValue", "averageUtilization"))
    if field == "object" and value is None and average is None:
        faults.required(f"{at}.averageValue", "must set either a target value or averageValue")
    elif field == "pods" and average is None:
        faults.required(f"{at}.averageValue", "must specify a positive target averageValue")
    elif field == "external":
        if value is None and average is None:
            faults.required(f"{at}.averageValue", "must set either a target value for metric or a per-pod target")
        elif value is not None and average is not None:
            faults.forbidden(f"{at}.value", "may not set both a target value for metric and a per-pod target")
    elif field in ("resource", "containerResource"):
        if percent is None and average is None:
            why = "must set either a target raw value or a target utilization"
            faults.required(f"{at}.averageUtilization", why)
        elif percent is not None and average is not None:
            faults.forbidden(f"{at}.averageValue", "may not set both a target raw value and a target utilization")


def _within(faults: Faults, at: str, seconds: int, least: int, most: int) -> None:
    if seconds < least:
        faults.invalid(at, seconds, "must be greater than " + ("zero" if least else "or equal to zero"))
    elif seconds > most:
        faults.invalid(at, seconds, f"must be less than or equal to {most}")


def _rules(faults: Faults, at: str, rules: Object) -> None:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None:
        _within(faults, f"{at}.stabilizationWindowSeconds", window, 0, _MAX_WINDOW_S)
    if rules.get("selectPolicy") is not None:
        faults.enum(f"{at}.selectPolicy", rules["selectPolicy"], ("Disabled", "Max", "Min"))
    if not rules.get("policies"):
        faults.required(f"{at}.policies", "must specify at least one Policy")
    for i, policy in enumerate(rules.get("policies") or ()):
        where = f"{at}.policies[{i}]"
        faults.enum(f"{where}.type", policy.get("type"), ("Percent", "Pods"))
        if policy.get("value", 0) <= 0:
            faults.invalid(f"{where}.value", policy.get("value", 0), "must be greater than zero")
        _within(faults, f"{where}.periodSeconds", policy.get("periodSeconds", 0), 1, _MAX_PERIOD_S)
