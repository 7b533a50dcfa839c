"""Validation of ObjectMeta (k8s.io/apimachinery `api/validation/objectmeta.go`).

Pure.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from cluster.api.scheme import ResourceInfo
from cluster.api.validation.addresses import ip_name
from cluster.api.validation.fields import (
    Faults,
    check_annotations,
    check_labels,
    dns_1035_label,
    dns_label,
    dns_subdomain,
    qualified_name,
)

Object = dict[str, Any]

_DNS_1035 = {"services"}
_LABEL = {"namespaces"}
_PATH_SEGMENT = {
    "apiservices.apiregistration.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
}


def path_segment(name: str) -> str:
    if name in (".", ".."):
        return f"may not be '{name}'"
    for bad in "/%":
        if bad in name:
            return f"may not contain '{bad}'"
    return "" if unquote(name) == name else "may not contain '%'"


def name_fault(info: ResourceInfo, name: str) -> str:
    if info.name in _DNS_1035:
        return dns_1035_label(name)
    if info.name in _LABEL:
        return dns_label(name)
    if info.name == "ipaddresses.networking.k8s.io":
        return ip_name(name)
    return path_segment(name) if info.name in _PATH_SEGMENT else dns_subdomain(name)


def validate(faults: Faults, info: ResourceInfo, metadata: Object) -> None:
    name = metadata.get("name", "")
    prefix = metadata.get("generateName", "")
    if prefix and not name:
        faults.check("metadata.generateName", prefix, name_fault(info, prefix.rstrip("-") + "a" * prefix.endswith("-")))
    if not name:
        faults.required("metadata.name", "name or generateName is required")
    else:
        faults.check("metadata.name", name, name_fault(info, name))
    if info.namespaced:
        faults.check("metadata.namespace", metadata.get("namespace", ""), dns_label(metadata.get("namespace", "")))
    _validate_rest(faults, metadata, core=info.custom is None)


def validate_embedded(faults: Faults, at: str, metadata: Object) -> None:
    """Metadata of a resource that is inside of another."""
    if metadata.get("name"):
        faults.check(f"{at}.name", metadata["name"], path_segment(metadata["name"]))
    if metadata.get("namespace"):
        faults.check(f"{at}.namespace", metadata["namespace"], dns_label(metadata["namespace"]))
    _validate_rest(faults, metadata, at)


def _validate_rest(faults: Faults, metadata: Object, at: str = "metadata", *, core: bool = False) -> None:
    """`core`: of a built-in kind, whose finalizers are Kubernetes' own or name a domain."""
    check_labels(faults, f"{at}.labels", metadata.get("labels"))
    check_annotations(faults, f"{at}.annotations", metadata.get("annotations"))
    _owners(faults, f"{at}.ownerReferences", metadata.get("ownerReferences") or [])
    for i, f in enumerate(metadata.get("finalizers") or ()):
        why = qualified_name(f)
        faults.check(f"{at}.finalizers[{i}]", f, why)
        if core and not why and "/" not in f and f not in ("foregroundDeletion", "orphan", "kubernetes"):
            faults.invalid(
                f"{at}.finalizers[{i}]", f, "name is neither a standard finalizer name nor is it fully qualified"
            )


def _owners(faults: Faults, path: str, owners: list[Object]) -> None:
    controller = ""
    for i, o in enumerate(owners):
        at = f"{path}[{i}]"
        if not o.get("apiVersion"):
            faults.invalid(at + ".apiVersion", "", "version must not be empty")
        for field in ("kind", "name", "uid"):
            if not o.get(field):
                faults.invalid(at + "." + field, "", "must not be empty")
        if o.get("controller"):
            if controller:
                why = "Only one reference can have Controller set to true. "
                why += f'Found "true" in references for {controller} and {o.get("kind")}/{o.get("name")}'
                faults.invalid(path, owners, why)
            controller = f"{o.get('kind')}/{o.get('name')}"


def validate_update(faults: Faults, info: ResourceInfo, new: Object, old: Object) -> None:
    """Identity is immutable; a finalizer cannot be added to what is being deleted."""
    faults.immutable("metadata.name", new.get("name"), old.get("name"))
    if info.namespaced:
        faults.immutable("metadata.namespace", new.get("namespace"), old.get("namespace"))
    if "deletionTimestamp" in old:
        added = [f for f in new.get("finalizers") or () if f not in (old.get("finalizers") or ())]
        if added:
            faults.forbidden(
                "metadata.finalizers",
                f"no new finalizers can be added if the object is being deleted, found new finalizers {added!r}",
            )
    if any(new.get(f) != old.get(f) for f in ("labels", "annotations", "ownerReferences", "finalizers")):
        _validate_rest(faults, new, core=info.custom is None)
