"""Validation of dynamic resource allocation's kinds (pkg/apis/resource/validation, KEP-4381). Pure.

Nothing here allocates devices; selectors are stored as they came, their CEL is not compiled.
"""

from __future__ import annotations

from typing import Any

from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_MODES = ("All", "ExactCount")
_MAX_REQUESTS = 32
_NODES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")


def validate_claim(faults: Faults, obj: Object) -> None:
    _devices(faults, "spec.devices", (obj.get("spec") or {}).get("devices") or {})


def validate_claim_template(faults: Faults, obj: Object) -> None:
    _devices(faults, "spec.spec.devices", ((obj.get("spec") or {}).get("spec") or {}).get("devices") or {})


def validate_fixed_spec(faults: Faults, new: Object, old: Object) -> None:
    faults.immutable("spec", new.get("spec"), old.get("spec"))


def _devices(faults: Faults, at: str, devices: Object) -> None:
    requests = devices.get("requests") or []
    if len(requests) > _MAX_REQUESTS:
        faults.invalid(f"{at}.requests", len(requests), f"must have at most {_MAX_REQUESTS} items")
    names: set[str] = set()
    for i, request in enumerate(requests):
        _request(faults, f"{at}.requests[{i}]", request, names)
    for i, constraint in enumerate(devices.get("constraints") or ()):
        for j, name in enumerate(constraint.get("requests") or ()):
            if name not in names:
                why = "must be the name of a request in the claim or the name of a request and a subrequest separated "
                why += "by '/'"
                faults.invalid(f"{at}.constraints[{i}].requests[{j}]", name, why)


def _request(faults: Faults, at: str, request: Object, names: set[str]) -> None:
    """Adds the request's name, and those of its alternatives, to `names`."""
    _named(faults, at, request, names, "")
    exactly, alternatives = request.get("exactly"), request.get("firstAvailable") or []
    if (exactly is None) == (not alternatives):
        faults.required(at, "exactly one of `exactly` or `firstAvailable` is required")
        return
    if exactly is not None:
        _wanted(faults, f"{at}.exactly", exactly)
    for i, alternative in enumerate(alternatives):
        where = f"{at}.firstAvailable[{i}]"
        _named(faults, where, alternative, names, f"{request.get('name', '')}/")
        _wanted(faults, where, alternative)


def _named(faults: Faults, at: str, request: Object, names: set[str], prefix: str) -> None:
    name = request.get("name", "")
    if not name:
        faults.required(f"{at}.name")
    elif prefix + name in names:
        faults.duplicate(f"{at}.name", name)
    else:
        faults.check(f"{at}.name", name, fields.dns_label(name))
    names.add(prefix + name)


def _wanted(faults: Faults, at: str, wanted: Object) -> None:
    device_class = wanted.get("deviceClassName", "")
    if not device_class:
        faults.required(f"{at}.deviceClassName")
    else:
        faults.check(f"{at}.deviceClassName", device_class, fields.dns_subdomain(device_class))
    _selectors(faults, at, wanted)
    mode, count = wanted.get("allocationMode"), wanted.get("count")
    if mode not in _MODES:
        faults.unsupported(f"{at}.allocationMode", mode, _MODES)
    elif mode == "ExactCount" and (count or 0) <= 0:
        faults.invalid(f"{at}.count", count or 0, "must be greater than zero")
    elif mode == "All" and count:
        faults.invalid(f"{at}.count", count, "must not be specified when allocationMode is 'All'")


def _selectors(faults: Faults, at: str, owner: Object) -> None:
    for i, selector in enumerate(owner.get("selectors") or ()):
        if not (selector.get("cel") or {}).get("expression"):
            faults.required(f"{at}.selectors[{i}].cel.expression")


def validate_class(faults: Faults, obj: Object) -> None:
    _selectors(faults, "spec", obj.get("spec") or {})


def validate_slice(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    for field, value in (("driver", spec.get("driver", "")), ("pool.name", (spec.get("pool") or {}).get("name", ""))):
        if not value:
            faults.required(f"spec.{field}")
    if (spec.get("pool") or {}).get("resourceSliceCount", 0) <= 0:
        faults.invalid("spec.pool.resourceSliceCount", 0, "must be greater than zero")
    given = [f"`{n}`" for n in _NODES if spec.get(n)]
    if len(given) != 1:
        wanted = ", ".join(f"`{n}`" for n in _NODES)
        faults.invalid("spec", f"{{{', '.join(given)}}}", f"exactly one of {wanted} is required")
    names: set[str] = set()
    for i, device in enumerate(spec.get("devices") or ()):
        _named(faults, f"spec.devices[{i}]", device, names, "")


def validate_slice_update(faults: Faults, new: Object, old: Object) -> None:
    now, before = new.get("spec") or {}, old.get("spec") or {}
    for field in ("driver", "nodeName"):
        faults.immutable(f"spec.{field}", now.get(field), before.get(field))
    faults.immutable("spec.pool.name", (now.get("pool") or {}).get("name"), (before.get("pool") or {}).get("name"))
