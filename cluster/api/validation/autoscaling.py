"""Validation of HorizontalPodAutoscaler (pkg/apis/autoscaling/validation).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import quantity
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_SOURCES = {
    "Resource": "resource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
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
    ref = spec.get("scaleTargetRef") or {}
    for field in ("kind", "name"):
        if not ref.get(field):
            faults.required(f"spec.scaleTargetRef.{field}")
    for i, metric in enumerate(spec.get("metrics") or ()):
        _metric(faults, f"spec.metrics[{i}]", metric)
    for direction in ("scaleUp", "scaleDown"):
        rules = (spec.get("behavior") or {}).get(direction)
        if rules is not None:
            _rules(faults, f"spec.behavior.{direction}", rules)


def _metric(faults: Faults, at: str, metric: Object) -> None:
    kind = metric.get("type") or ""
    if kind not in _SOURCES:
        faults.unsupported(f"{at}.type", kind, _SOURCES)
        return
    field = _SOURCES[kind]
    source = metric.get(field)
    if source is None:
        faults.required(f"{at}.{field}", f"must populate information for the given metric source type {kind}")
        return
    target = source.get("target") or {}
    where = f"{at}.{field}.target"
    faults.enum(f"{where}.type", target.get("type"), ("AverageValue", "Utilization", "Value"))
    if target.get("averageUtilization") is not None and target["averageUtilization"] < 1:
        faults.invalid(f"{where}.averageUtilization", target["averageUtilization"], "must be greater than 0")
    for name in ("value", "averageValue"):
        if target.get(name) is not None and quantity.parse_quantity(target[name]) <= 0:
            faults.invalid(f"{where}.{name}", target[name], "must be positive")
    if kind in ("Resource", "ContainerResource"):
        if not source.get("name"):
            faults.required(f"{at}.{field}.name", "must specify a resource name")
        if target.get("averageUtilization") is None and target.get("averageValue") is None:
            why = "must set either a target raw value or a target utilization"
            faults.required(f"{where}.averageUtilization", why)
        elif target.get("averageUtilization") is not None and target.get("averageValue") is not None:
            why = "may not set both a target raw value and a target utilization"
            faults.forbidden(f"{where}.averageValue", why)


def _rules(faults: Faults, at: str, rules: Object) -> None:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and not 0 <= window <= _MAX_WINDOW_S:
        why = f"must be greater than or equal to zero and less than or equal to {_MAX_WINDOW_S}"
        faults.invalid(f"{at}.stabilizationWindowSeconds", window, why)
    if rules.get("selectPolicy") is not None:
        faults.enum(f"{at}.selectPolicy", rules["selectPolicy"], ("Disabled", "Max", "Min"))
    for i, policy in enumerate(rules.get("policies") or ()):
        where = f"{at}.policies[{i}]"
        faults.enum(f"{where}.type", policy.get("type"), ("Percent", "Pods"))
        if policy.get("value", 0) <= 0:
            faults.invalid(f"{where}.value", policy.get("value", 0), "must be greater than zero")
        if not 0 < policy.get("periodSeconds", 0) <= _MAX_PERIOD_S:
            why = f"must be greater than zero and less than or equal to {_MAX_PERIOD_S}"
            faults.invalid(f"{where}.periodSeconds", policy.get("periodSeconds", 0), why)
