"""Validation of ResourceQuota and LimitRange (pkg/apis/core/validation).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import quantity
from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_OBJECT_COUNTS = frozenset(
    ("pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims",
     "services.nodeports", "services.loadbalancers")
)  # fmt: skip
_COMPUTE = frozenset(
    f"{prefix}{resource}"
    for prefix in ("", "requests.", "limits.")
    for resource in ("cpu", "memory", "ephemeral-storage")
) | {"requests.storage"}
_CONTAINER_RESOURCES = frozenset(("cpu", "memory", "ephemeral-storage"))
_LIMIT_TYPES = frozenset(("Pod", "Container", "PersistentVolumeClaim"))

_POD_SCOPES = ("Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "CrossNamespacePodAffinity")
_SCOPES = frozenset((*_POD_SCOPES, "PriorityClass", "VolumeAttributesClass"))
_CONFLICTING = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))


def _hugepages(name: str) -> bool:
    return name.startswith(("hugepages-", "requests.hugepages-"))


def _quantity(faults: Faults, at: str, resource: str, value: Any) -> None:
    amount = quantity.parse_quantity(value)
    if amount < 0:
        faults.invalid(at, value, "must be greater than or equal to 0")
    elif resource in _OBJECT_COUNTS and amount.denominator != 1:
        faults.invalid(at, value, "must be an integer")


# --- ResourceQuota ----------------------------------------------------------------------------------------------------


def _amounts(faults: Faults, at: str, amounts: Object) -> None:
    for name, value in amounts.items():
        where = f"{at}[{name}]"
        why = fields.qualified_name(name)
        if not why and "/" not in name and name not in _OBJECT_COUNTS | _COMPUTE and not _hugepages(name):
            why = "must be a standard resource for quota"
        faults.check(where, name, why)
        _quantity(faults, where, name, value)


def _scope_fits(scope: str, resource: str) -> bool:
    """BestEffort counts pods alone; the other pod scopes count pods and what pods compute with."""
    if scope == "BestEffort":
        return resource == "pods"
    if scope in ("VolumeAttributesClass",):
        return resource in ("persistentvolumeclaims", "requests.storage")
    return resource == "pods" or resource in _COMPUTE - {"requests.storage"} or _hugepages(resource)


def _scopes(faults: Faults, at: str, scopes: list[str], resources: Object) -> None:
    shown = list(scopes)
    for scope in scopes:
        if scope not in _SCOPES:
            faults.invalid(at, shown, "unsupported scope")
        elif not all(_scope_fits(scope, r) for r in resources):
            faults.invalid(at, shown, "unsupported scope applied to resource")
    for pair in _CONFLICTING:
        if set(pair) <= set(scopes):
            faults.invalid(at, shown, "conflicting scopes")


def _scope_requirement(faults: Faults, at: str, e: Object) -> None:
    scope, op, values = e.get("scopeName", ""), e.get("operator", ""), e.get("values") or []
    if scope in _POD_SCOPES and op != "Exists":
        why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
        why += "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or "
        faults.invalid(at + ".operator", op, why + "ResourceQuotaScopeCrossNamespacePodAffinity")
    if op in ("In", "NotIn"):
        if not values:
            faults.required(
                at + ".values", "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            )
    elif op in ("Exists", "DoesNotExist"):
        if values:
            why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
            faults.invalid(at + ".values", values, why)
    else:
        faults.invalid(at + ".operator", op, "not a valid selector operator")


def validate_quota(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    hard = spec.get("hard") or {}
    _amounts(faults, "spec.hard", hard)
    _scopes(faults, "spec.scopes", spec.get("scopes") or [], hard)
    selector = (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    at = "spec.scopeSelector.matchExpressions"
    _scopes(faults, at, [e.get("scopeName", "") for e in selector], hard)
    for e in selector:
        _scope_requirement(faults, at, e)


def validate_quota_update(faults: Faults, new: Object, old: Object) -> None:
    before, after = (sorted((o.get("spec") or {}).get("scopes") or ()) for o in (old, new))
    faults.immutable("spec.scopes", after, before)


def validate_quota_status(faults: Faults, new: Object, old: Object) -> None:
    for part in ("hard", "used"):
        _amounts(faults, f"status.{part}", (new.get("status") or {}).get(part) or {})


# --- LimitRange -------------------------------------------------------------------------------------------------------


def _limit_resource(faults: Faults, at: str, kind: str, name: str) -> None:
    why = fields.qualified_name(name)
    if not why and "/" not in name:
        if kind in ("Pod", "Container") and name not in _CONTAINER_RESOURCES and not _hugepages(name):
            why = "must be a standard resource for containers"
        elif name not in _CONTAINER_RESOURCES | _OBJECT_COUNTS | _COMPUTE | {"storage"} and not _hugepages(name):
            why = "must be a standard resource type or fully qualified"
    faults.check(at, name, why)


def validate_limit_range(faults: Faults, obj: Object) -> None:
    seen: set[str] = set()
    for i, item in enumerate((obj.get("spec") or {}).get("limits") or ()):
        at, kind = f"spec.limits[{i}]", item.get("type", "")
        why = fields.qualified_name(kind)
        if not why and "/" not in kind and kind not in _LIMIT_TYPES:
            why = "must be a standard limit type or fully qualified"
        faults.check(at + ".type", kind, why)
        if kind in seen:
            faults.duplicate(at + ".type", kind)
        seen.add(kind)
        _limit_item(faults, at, kind, item)


def _limit_item(faults: Faults, at: str, kind: str, item: Object) -> None:
    names = list(dict.fromkeys(n for field in ("max", "min") for n in item.get(field) or ()))
    if kind == "Pod":
        for field in ("default", "defaultRequest"):
            if item.get(field):
                faults.forbidden(f"{at}.{field}", "may not be specified when `type` is 'Pod'")
    else:
        names += [n for f in ("default", "defaultRequest") for n in item.get(f) or () if n not in names]
    names += [n for n in item.get("maxLimitRequestRatio") or () if n not in names]
    if kind == "PersistentVolumeClaim" and "storage" not in names:
        why = "either minimum or maximum storage value is required, but neither was provided"
        faults.required(at + ".limits", why)
    for name in names:
        for field in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
            if name in (item.get(field) or {}):
                _limit_resource(faults, f"{at}.{field}[{name}]", kind, name)
        _limit_order(faults, at, kind, name, item)
        _limit_ratio(faults, at, name, item)


def _limit_order(faults: Faults, at: str, kind: str, name: str, item: Object) -> None:
    """min <= default request <= default <= max, each where it is given."""
    given = {f: (item.get(f) or {}).get(name) for f in ("min", "defaultRequest", "default", "max")}
    words = {"min": "min", "defaultRequest": "default request", "default": "default", "max": "max"}
    pairs = [
        ("min", "max", "min"),
        ("min", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "max", "defaultRequest"),
        ("defaultRequest", "default", "defaultRequest"),
        ("min", "default", "default"),
        ("default", "max", "default"),
    ]
    for low, high, blamed in pairs:
        a, b = given[low], given[high]
        if a is None or b is None or quantity.parse_quantity(a) <= quantity.parse_quantity(b):
            continue
        what = "default limit" if (low, high) == ("defaultRequest", "default") else words[high]
        why = f"{words[low]} value {a} is greater than {what} value {b}"
        faults.invalid(f"{at}.{blamed}[{name}]", given[blamed], why)


def _limit_ratio(faults: Faults, at: str, name: str, item: Object) -> None:
    ratio = (item.get("maxLimitRequestRatio") or {}).get(name)
    if ratio is None:
        return
    where = f"{at}.maxLimitRequestRatio[{name}]"
    amount = quantity.parse_quantity(ratio)
    if amount < 1:
        faults.invalid(where, ratio, f"ratio {ratio} is less than 1")
    low, high = (item.get("min") or {}).get(name), (item.get("max") or {}).get(name)
    if low is not None and high is not None and quantity.parse_quantity(low) > 0:
        most = quantity.parse_quantity(high) / quantity.parse_quantity(low)
        if amount > most:
            faults.invalid(where, ratio, f"ratio {ratio} is greater than max/min = {float(most):f}")
