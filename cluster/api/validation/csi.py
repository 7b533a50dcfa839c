"""Validation of CSIDriver, CSINode, CSIStorageCapacity and VolumeAttributesClass (pkg/apis/storage/validation).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import quantity
from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_FROZEN = ("attachRequired", "fsGroupPolicy", "volumeLifecycleModes")
_FS_GROUP = ("File", "None", "ReadWriteOnceWithFSType")
_MAX_DRIVER_NAME, _MAX_NODE_ID = 63, 192


def _driver_name(faults: Faults, at: str, name: str) -> None:
    if not name:
        faults.required(at)
        return
    if len(name) > _MAX_DRIVER_NAME:
        faults.too_long(at, _MAX_DRIVER_NAME)
    faults.check(at, name, fields.dns_subdomain(name.lower()))


def validate_driver(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _driver_name(faults, "metadata.name", obj["metadata"].get("name", ""))
    for i, mode in enumerate(spec.get("volumeLifecycleModes") or ()):
        faults.enum(f"spec.volumeLifecycleModes[{i}]", mode, ("Ephemeral", "Persistent"))
    if spec.get("fsGroupPolicy") is not None:
        faults.enum("spec.fsGroupPolicy", spec["fsGroupPolicy"], _FS_GROUP)
    seen: set[str] = set()
    for i, request in enumerate(spec.get("tokenRequests") or ()):
        audience = request.get("audience", "")
        if audience in seen:
            faults.duplicate(f"spec.tokenRequests[{i}].audience", audience)
        seen.add(audience)
        seconds = request.get("expirationSeconds")
        if seconds is not None and not 600 <= seconds <= 1 << 32:
            why = "may not specify a duration less than 10 minutes" if seconds < 600 else (
                "may not specify a duration larger than 2^32 seconds"
            )  # fmt: skip
            faults.invalid(f"spec.tokenRequests[{i}].expirationSeconds", seconds, why)


def validate_driver_update(faults: Faults, new: Object, old: Object) -> None:
    a, b = new.get("spec") or {}, old.get("spec") or {}
    for field in _FROZEN[:1]:
        faults.immutable(f"spec.{field}", a.get(field), b.get(field))


def validate_node(faults: Faults, obj: Object) -> None:
    names: set[str] = set()
    for i, driver in enumerate((obj.get("spec") or {}).get("drivers") or ()):
        at, name = f"spec.drivers[{i}]", driver.get("name", "")
        _driver_name(faults, at + ".name", name)
        if name in names:
            faults.duplicate(at + ".name", name)
        names.add(name)
        node_id = driver.get("nodeID", "")
        if not node_id:
            faults.required(at + ".nodeID", "must not be empty")
        elif len(node_id) > _MAX_NODE_ID:
            faults.too_long(at + ".nodeID", _MAX_NODE_ID)
        count = (driver.get("allocatable") or {}).get("count")
        faults.non_negative(at + ".allocatable.count", count)
        keys: set[str] = set()
        for key in driver.get("topologyKeys") or ():
            faults.check(at, key, fields.qualified_name(key))
            if key in keys:
                faults.duplicate(at + ".topologyKeys", key)
            keys.add(key)


def validate_node_update(faults: Faults, new: Object, old: Object) -> None:
    """A driver may come and go, not change (but for how much it can attach)."""
    before = {d.get("name"): d for d in (old.get("spec") or {}).get("drivers") or ()}
    for driver in (new.get("spec") or {}).get("drivers") or ():
        was = before.get(driver.get("name"))
        if was is None:
            continue
        a, b = ({k: v for k, v in d.items() if k != "allocatable"} for d in (driver, was))
        if a != b:
            faults.invalid("CSINode.Spec.Drivers", driver, "field is immutable")


def validate_capacity(faults: Faults, obj: Object) -> None:
    name = obj.get("storageClassName", "")
    if not name:
        faults.required("storageClassName")
    else:
        faults.check("storageClassName", name, fields.dns_subdomain(name))
    fields.label_selector(faults, "nodeTopology", obj.get("nodeTopology"))
    for field in ("capacity", "maximumVolumeSize"):
        value = obj.get(field)
        if value is not None and quantity.parse_quantity(value) < 0:
            faults.invalid(field, value, "must be greater than or equal to 0")


def validate_capacity_update(faults: Faults, new: Object, old: Object) -> None:
    for field in ("nodeTopology", "storageClassName"):
        faults.immutable(field, new.get(field), old.get(field))


def validate_attributes_class(faults: Faults, obj: Object) -> None:
    _driver_name(faults, "driverName", obj.get("driverName", ""))
    if not obj.get("parameters"):
        faults.required("parameters", "must contain at least one key/value pair")


def validate_attributes_class_update(faults: Faults, new: Object, old: Object) -> None:
    for field in ("driverName", "parameters"):
        if new.get(field) != old.get(field):
            faults.forbidden(field, "updates to " + field + " are forbidden.")
