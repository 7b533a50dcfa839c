"""Validation of APIServices (k8s.io/kube-aggregator `pkg/apis/apiregistration/validation`).

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api.validation.fields import Faults, dns_1035_label, dns_label, dns_subdomain

Object = dict[str, Any]

_MAX_GROUP, _MAX_VERSION = 20_000, 1_000


def validate_api_service(faults: Faults, obj: Object) -> None:
    spec, name = obj.get("spec") or {}, obj["metadata"].get("name", "")
    group, version = spec.get("group") or "", spec.get("version") or ""
    if name != f"{version}.{group}":
        faults.invalid("metadata.name", name, f'must be `spec.version+"."+spec.group`: "{version}.{group}"')
    if group:
        faults.check("spec.group", group, dns_subdomain(group))
    elif version != "v1":
        faults.required("spec.group", "only v1 may have an empty group and it better be legacy kube")
    faults.check("spec.version", version, dns_1035_label(version))
    for field, most in (("groupPriorityMinimum", _MAX_GROUP), ("versionPriority", _MAX_VERSION)):
        value = spec.get(field, 0)
        if not 1 <= value <= most:
            faults.invalid(f"spec.{field}", value, f"must be positive and less than {most}")
    service = spec.get("service")
    if service is None:
        if spec.get("caBundle"):
            size = f"{len(spec['caBundle'])} bytes"
            faults.invalid("spec.caBundle", size, "local APIServices may not have a caBundle")
        if spec.get("insecureSkipTLSVerify"):
            why = "local APIServices may not have insecureSkipTLSVerify"
            faults.invalid("spec.insecureSkipTLSVerify", True, why)
        return
    if spec.get("insecureSkipTLSVerify") and spec.get("caBundle"):
        why = "may not be true if caBundle is present"
        faults.invalid("spec.insecureSkipTLSVerify", True, why)
    for field in ("namespace", "name"):
        if not service.get(field):
            faults.required(f"spec.service.{field}")
        else:
            faults.check(f"spec.service.{field}", service[field], dns_label(service[field]))
    if not 1 <= service.get("port", 443) <= 65535:
        faults.invalid("spec.service.port", service["port"], "must be between 1 and 65535, inclusive")


def validate_api_service_update(faults: Faults, new: Object, old: Object) -> None:
    for field in ("group", "version"):
        faults.immutable(f"spec.{field}", new["spec"].get(field), old["spec"].get(field))


def default_api_service(obj: Object) -> None:
    service = (obj.get("spec") or {}).get("service")
    if service is not None:
        service.setdefault("port", 443)
