"""Validation of volumes, claims, storage classes, attachments, config maps and secrets
(pkg/apis/{core,storage}/validation).

Pure.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from cluster.api import quantity
from cluster.api.validation import fields, podplacement
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_ACCESS = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_RECLAIM = ("Delete", "Recycle", "Retain")
_BINDING = ("Immediate", "WaitForFirstConsumer")
_MODES = ("Block", "Filesystem")
_NOT_SOURCES = {
    "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
    "storageClassName", "volumeMode", "volumeAttributesClassName",
}  # fmt: skip
_MAX_SECRET = 1024 * 1024

_SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


def _access_modes(faults: Faults, modes: list[str]) -> None:
    if not modes:
        faults.required("spec.accessModes", "at least 1 access mode is required")
    for m in modes:
        faults.enum("spec.accessModes", m, _ACCESS)
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        faults.forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes")


def _storage_amount(faults: Faults, at: str, amounts: Object) -> None:
    if "storage" not in amounts:
        faults.required(f"{at}[storage]")
    elif quantity.parse_quantity(amounts["storage"]) <= 0:
        faults.invalid(f"{at}[storage]", amounts["storage"], "must be greater than zero")


def validate_volume(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _access_modes(faults, spec.get("accessModes") or [])
    if not spec.get("capacity"):
        faults.required("spec.capacity")
    else:
        _storage_amount(faults, "spec.capacity", spec["capacity"])
    faults.enum("spec.persistentVolumeReclaimPolicy", spec.get("persistentVolumeReclaimPolicy"), _RECLAIM)
    faults.enum("spec.volumeMode", spec.get("volumeMode"), _MODES)
    sources = [k for k in spec if k not in _NOT_SOURCES]
    if not sources:
        faults.required("spec", "must specify a volume type")
    for extra in sources[1:]:
        faults.forbidden("spec." + extra, "may not specify more than 1 volume type")
    if spec.get("storageClassName"):
        faults.check("spec.storageClassName", spec["storageClassName"], fields.dns_subdomain(spec["storageClassName"]))
    if spec.get("nodeAffinity") is not None:
        _node_affinity(faults, "spec.nodeAffinity.required", spec["nodeAffinity"].get("required"))
    elif spec.get("local") is not None:
        faults.required("metadata.annotations", "Local volume requires node affinity")
    for field in ("driver", "volumeHandle") if spec.get("csi") is not None else ():
        if not spec["csi"].get(field):
            faults.required(f"spec.csi.{field}")
    if (spec.get("hostPath") or {}).get("path") == "/" and spec.get("persistentVolumeReclaimPolicy") == "Recycle":
        faults.forbidden("spec.persistentVolumeReclaimPolicy", "may not be 'recycle' for a hostPath mount of '/'")


def _node_affinity(faults: Faults, at: str, required: Object | None) -> None:
    if required is None:
        faults.required(at, "must specify required node constraints")
    else:
        podplacement.node_selector(faults, at, required)


def validate_volume_update(faults: Faults, new: Object, old: Object) -> None:
    a = {k: v for k, v in new["spec"].items() if k not in _NOT_SOURCES}
    b = {k: v for k, v in old["spec"].items() if k not in _NOT_SOURCES}
    if a != b:
        faults.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")
    faults.immutable("spec.volumeMode", new["spec"].get("volumeMode"), old["spec"].get("volumeMode"))
    if old["spec"].get("nodeAffinity") is not None:
        faults.immutable("spec.nodeAffinity", new["spec"].get("nodeAffinity"), old["spec"]["nodeAffinity"])


def validate_claim(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    _access_modes(faults, spec.get("accessModes") or [])
    _storage_amount(faults, "spec.resources", (spec.get("resources") or {}).get("requests") or {})
    fields.label_selector(faults, "spec.selector", spec.get("selector"))
    faults.enum("spec.volumeMode", spec.get("volumeMode"), _MODES)
    if spec.get("storageClassName"):
        faults.check("spec.storageClassName", spec["storageClassName"], fields.dns_subdomain(spec["storageClassName"]))


def validate_claim_update(faults: Faults, new: Object, old: Object) -> None:
    """Immutable but for a first volumeName, a late default class, and growth of the request once bound."""
    a, b = dict(new["spec"]), dict(old["spec"])
    if not b.get("volumeName"):
        b.pop("volumeName", None)
        a.pop("volumeName", None)
    if b.get("storageClassName") is None:
        a.pop("storageClassName", None)
    want = ((a.get("resources") or {}).get("requests") or {}).get("storage")
    have = ((b.get("resources") or {}).get("requests") or {}).get("storage")
    bound = (old.get("status") or {}).get("phase") == "Bound"
    if want and have and want != have and bound:
        if quantity.parse_quantity(want) < quantity.parse_quantity(have):
            faults.forbidden("spec.resources.requests.storage", "field can not be less than previous value")
        a["resources"] = b["resources"] = None
    a.pop("volumeAttributesClassName", None)
    b.pop("volumeAttributesClassName", None)
    if a != b:
        faults.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        )


def validate_storage_class(faults: Faults, obj: Object) -> None:
    if not obj.get("provisioner"):
        faults.required("provisioner")
    else:
        faults.check("provisioner", obj["provisioner"], fields.qualified_name(obj["provisioner"].lower()))
    faults.enum("reclaimPolicy", obj.get("reclaimPolicy"), ("Delete", "Retain"))
    faults.enum("volumeBindingMode", obj.get("volumeBindingMode"), _BINDING)


def validate_storage_class_update(faults: Faults, new: Object, old: Object) -> None:
    if new.get("parameters") != old.get("parameters"):
        faults.forbidden("parameters", "updates to parameters are forbidden.")
    if new.get("provisioner") != old.get("provisioner"):
        faults.forbidden("provisioner", "updates to provisioner are forbidden.")
    if new.get("reclaimPolicy") != old.get("reclaimPolicy"):
        faults.forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden.")
    faults.immutable("volumeBindingMode", new.get("volumeBindingMode"), old.get("volumeBindingMode"))


def validate_attachment(faults: Faults, obj: Object) -> None:
    spec = obj.get("spec") or {}
    if not spec.get("attacher"):
        faults.required("spec.attacher")
    if not spec.get("nodeName"):
        faults.required("spec.nodeName")
    source = spec.get("source") or {}
    if not source.get("persistentVolumeName") and "inlineVolumeSpec" not in source:
        faults.required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName")


def validate_attachment_update(faults: Faults, new: Object, old: Object) -> None:
    faults.immutable("spec", new.get("spec"), old.get("spec"))


def validate_config_map(faults: Faults, obj: Object) -> None:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    for field, values in (("data", data), ("binaryData", binary)):
        for k in values:
            faults.check(f"{field}[{k}]", k, fields.config_key(k))
    for k in binary:
        if k in data:
            faults.invalid(f"binaryData[{k}]", k, "duplicate of key present in data")
    if sum(len(v.encode()) for v in data.values()) + _decoded_bytes(binary) > _MAX_SECRET:
        faults.too_long("", _MAX_SECRET)


def _decoded_bytes(data: dict[str, str]) -> int:
    """Of base64, whose padding is no data."""
    return sum(len(v) * 3 // 4 - v[-2:].count("=") for v in data.values())


def validate_secret(faults: Faults, obj: Object) -> None:
    data = obj.get("data") or {}
    for k in data:
        faults.check(f"data[{k}]", k, fields.config_key(k))
    if _decoded_bytes(data) > _MAX_SECRET:
        faults.too_long("data", _MAX_SECRET)
    kind = obj.get("type", "Opaque")
    for k in _SECRET_KEYS.get(kind, ()):
        if k not in data:
            faults.required(f"data[{k}]")
        elif k.startswith(".docker") and not _is_json(data[k]):
            faults.invalid(f"data[{k}]", "<secret contents redacted>", "invalid character")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        for k in ("username", "password"):
            faults.required(f"data[{k}]")
    if kind == "kubernetes.io/service-account-token":
        annotations = obj["metadata"].get("annotations") or {}
        if not annotations.get("kubernetes.io/service-account.name"):
            faults.required("metadata.annotations[kubernetes.io/service-account.name]")


def _is_json(text: str) -> bool:
    try:
        orjson.loads(base64.b64decode(text))
    except (binascii.Error, ValueError):
        return False
    return True


def validate_frozen_data(faults: Faults, new: Object, old: Object) -> None:
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        faults.forbidden("immutable", "field is immutable when `immutable` is set")
    for field in ("data", "binaryData"):
        if new.get(field) != old.get(field):
            faults.forbidden(field, "field is immutable when `immutable` is set")


def validate_secret_update(faults: Faults, new: Object, old: Object) -> None:
    faults.immutable("type", new.get("type"), old.get("type"))
    validate_frozen_data(faults, new, old)
