"""CustomResourceDefinitions themselves: defaults, validation, names and conditions.

Pure; the time is an argument. Source: k8s.io/apiextensions-apiserver `pkg/apis/apiextensions`, `pkg/controller/status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cluster.api import meta
from cluster.api.crd import jsonpath, schemas
from cluster.api.crd.structural import Schema, compile_schema
from cluster.api.validation.fields import Faults, dns_1035_label, dns_subdomain

Object = dict[str, Any]

FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
_APPROVED = "api-approved.kubernetes.io"
_COLUMN_TYPES = ("integer", "number", "string", "boolean", "date")
_MAX_SELECTABLE = 8


def default(crd: Object) -> None:
    spec = crd.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if names.get("kind"):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
    conversion = spec.setdefault("conversion", {})
    conversion.setdefault("strategy", "None")
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
    if service is not None:
        service.setdefault("port", 443)


def storage_version(crd: Object) -> str:
    return next((v["name"] for v in crd["spec"].get("versions") or () if v.get("storage")), "")


def on_create(crd: Object, now: float) -> None:
    stored = storage_version(crd)
    crd["status"] = {
        "acceptedNames": {"kind": "", "plural": ""},
        "conditions": [],
        "storedVersions": [stored] if stored else [],
    }


def on_update(new: Object, old: Object) -> None:
    """A new storage version is one that objects may be stored in from now on."""
    stored = storage_version(new)
    status = new.get("status") or {}
    known = status.get("storedVersions") or []
    if stored and stored not in known:
        new["status"] = {**status, "storedVersions": [*known, stored]}


def on_delete(crd: Object, now: float) -> None:
    """The first deletion only marks: the instances go first."""
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"
    set_condition(crd, "Terminating", True, "InstanceDeletionPending", message, now)


# --- validation -----------------------------------------------------------------------------------------------------


def validate(faults: Faults, crd: Object) -> None:
    metadata, spec = crd["metadata"], crd["spec"]
    names = spec.get("names") or {}
    if metadata.get("name") != f"{names.get('plural', '')}.{spec.get('group', '')}":
        faults.invalid("metadata.name", metadata.get("name", ""), 'must be spec.names.plural+"."+spec.group')
    _group(faults, metadata, spec.get("group") or "")
    if not spec.get("scope"):
        faults.required("spec.scope")
    else:
        faults.enum("spec.scope", spec["scope"], ("Cluster", "Namespaced"))
    _names(faults, "spec.names", names)
    _versions(faults, spec)
    _conversion(faults, spec.get("conversion") or {})
    if spec.get("preserveUnknownFields"):
        why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        faults.invalid("spec.preserveUnknownFields", True, why)


def _group(faults: Faults, metadata: Object, group: str) -> None:
    if not group:
        faults.required("spec.group")
        return
    why = dns_subdomain(group)
    if why:
        faults.invalid("spec.group", group, why)
    elif "." not in group:
        faults.invalid("spec.group", group, "should be a domain with at least one dot")
    if _protected(group) and not (metadata.get("annotations") or {}).get(_APPROVED):
        why = f'protected groups must have approval annotation "{_APPROVED}", see https://github.com/kubernetes/enhancements/pull/1111'
        faults.required(f"metadata.annotations[{_APPROVED}]", why)


def _names(faults: Faults, path: str, names: Object) -> None:
    for field in ("plural", "kind"):
        if not names.get(field):
            faults.required(f"{path}.{field}")
    for field in ("plural", "singular", "kind", "listKind"):
        if names.get(field):
            faults.check(f"{path}.{field}", names[field], dns_1035_label(names[field].lower()))
    for field in ("shortNames", "categories"):
        for i, name in enumerate(names.get(field) or ()):
            faults.check(f"{path}.{field}[{i}]", name, dns_1035_label(name))
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        faults.invalid(f"{path}.listKind", names["listKind"], "kind and listKind may not be the same")


def _versions(faults: Faults, spec: Object) -> None:
    versions = spec.get("versions") or []
    if not versions:
        faults.required("spec.versions", "must have at least one version")
        return
    names = [v.get("name") or "" for v in versions]
    if len(set(names)) != len(names):
        faults.invalid("spec.versions", names, "must contain unique version names")
    if sum(bool(v.get("storage")) for v in versions) != 1:
        faults.invalid("spec.versions", names, "must have exactly one version marked as storage version")
    same = all(v.get("schema") == versions[0].get("schema") for v in versions)
    for i, version in enumerate(versions):
        _version(faults, f"spec.versions[{i}]", version, hoisted=same, first=i == 0)


def _version(faults: Faults, path: str, version: Object, *, hoisted: bool, first: bool) -> None:
    """`hoisted`: all versions share one schema, which Kubernetes names spec.validation."""
    name = version.get("name") or ""
    faults.check(f"{path}.name", name, dns_1035_label(name))
    raw = (version.get("schema") or {}).get("openAPIV3Schema")
    if raw is None:
        faults.required(f"{path}.schema.openAPIV3Schema", "schemas are required")
        return
    if not hoisted:
        schemas.validate(faults, f"{path}.schema.openAPIV3Schema", raw)
    elif first:
        schemas.validate(faults, "spec.validation.openAPIV3Schema", raw)
    if version.get("deprecationWarning") and not version.get("deprecated"):
        faults.invalid(
            f"{path}.deprecationWarning", version["deprecationWarning"], "can only be set for deprecated versions"
        )
    for i, column in enumerate(version.get("additionalPrinterColumns") or ()):
        _column(faults, f"{path}.additionalPrinterColumns[{i}]", column)
    _scale(faults, f"{path}.subresources.scale", (version.get("subresources") or {}).get("scale"))
    fields = version.get("selectableFields") or []
    if len(fields) > _MAX_SELECTABLE:
        message = f"Too many: {len(fields)}: must have at most {_MAX_SELECTABLE} items"
        faults.invalid(f"{path}.selectableFields", len(fields), message)
    for i, field in enumerate(fields):
        _selectable(faults, f"{path}.selectableFields[{i}].jsonPath", field.get("jsonPath") or "", compile_schema(raw))


def _column(faults: Faults, path: str, column: Object) -> None:
    for field in ("name", "type", "jsonPath"):
        if not column.get(field):
            faults.required(f"{path}.{field}")
    if column.get("type"):
        faults.enum(f"{path}.type", column["type"], _COLUMN_TYPES)
    if column.get("jsonPath"):
        try:
            jsonpath.parse(column["jsonPath"])
        except jsonpath.BadPath as e:
            faults.invalid(f"{path}.jsonPath", column["jsonPath"], str(e))


def _scale(faults: Faults, path: str, scale: Object | None) -> None:
    if scale is None:
        return
    for field, roots, needed in (
        ("specReplicasPath", (".spec",), True),
        ("statusReplicasPath", (".status",), True),
        ("labelSelectorPath", (".status", ".spec"), False),
    ):
        value = scale.get(field) or ""
        if not value:
            if needed:
                faults.required(f"{path}.{field}")
            continue
        try:
            jsonpath.simple(value)
        except jsonpath.BadPath:
            faults.invalid(f"{path}.{field}", value, "should be a simple json path without array notation")
        if not value.startswith(tuple(r + "." for r in roots)):
            faults.invalid(f"{path}.{field}", value, f"should be a json path under {' or '.join(roots)}")


def _selectable(faults: Faults, path: str, text: str, schema: Schema) -> None:
    at: Schema | None = schema
    try:
        keys = jsonpath.simple(text)
    except jsonpath.BadPath as e:
        faults.invalid(path, text, str(e))
        return
    if keys[0] == "metadata":
        faults.invalid(path, text, "must not point to fields in metadata")
        return
    for key in keys:
        at = at.properties.get(key) if at is not None else None
    if at is None:
        faults.invalid(path, text, f'is an invalid path: does not refer to a valid field: "{text}"')
    elif at.type not in ("string", "boolean", "integer"):
        faults.invalid(path, text, "must point to a field of type string, boolean or integer")


def _conversion(faults: Faults, conversion: Object) -> None:
    path, strategy = "spec.conversion", conversion.get("strategy")
    faults.enum(f"{path}.strategy", strategy, ("None", "Webhook"))
    webhook = conversion.get("webhook")
    if strategy == "None" and webhook:
        faults.forbidden(f"{path}.webhook", "should not be set when strategy is not set to Webhook")
    if strategy != "Webhook":
        return
    client = (webhook or {}).get("clientConfig")
    if not client:
        faults.required(f"{path}.webhook.clientConfig", "required when strategy is set to Webhook")
    elif bool(client.get("url")) == bool(client.get("service")):
        faults.required(f"{path}.webhook.clientConfig", "exactly one of url or service is required")
    elif client.get("url") and not client["url"].startswith("https://"):
        why = "'https' is the only allowed URL scheme; desired format: https://host[/path]"
        faults.invalid(f"{path}.webhook.clientConfig.url", client["url"], why)
    accepted = (webhook or {}).get("conversionReviewVersions") or []
    if not accepted:
        faults.required(f"{path}.webhook.conversionReviewVersions")
    elif "v1" not in accepted:
        why = "must include at least one of v1"
        faults.invalid(f"{path}.webhook.conversionReviewVersions", accepted, why)


def validate_update(faults: Faults, new: Object, old: Object) -> None:
    spec, before = new["spec"], old["spec"]
    faults.immutable("spec.group", spec.get("group"), before.get("group"))
    if is_established(old):
        faults.immutable("spec.scope", spec.get("scope"), before.get("scope"))
        faults.immutable("spec.names.kind", spec["names"].get("kind"), before["names"].get("kind"))
    faults.immutable("spec.names.plural", spec["names"].get("plural"), before["names"].get("plural"))
    check_stored(faults, new)


def check_stored(faults: Faults, crd: Object) -> None:
    names = [v.get("name") for v in crd["spec"].get("versions") or ()]
    stored = (crd.get("status") or {}).get("storedVersions") or []
    for i, name in enumerate(stored):
        if name not in names:
            faults.invalid(f"status.storedVersions[{i}]", name, "must appear in spec.versions")
    if storage_version(crd) not in stored:
        why = f"must have the storage version {storage_version(crd)}"
        faults.invalid("status.storedVersions", stored, why)


# --- names and conditions -------------------------------------------------------------------------------------------


def is_established(crd: Object) -> bool:
    return (meta.condition(crd, "Established") or {}).get("status") == "True"


def is_terminating(crd: Object) -> bool:
    return "deletionTimestamp" in crd["metadata"]


def set_condition(crd: Object, kind: str, holds: bool, reason: str, message: str, now: float) -> bool:
    """In place; whether anything changed."""
    conditions = crd.setdefault("status", {}).setdefault("conditions", [])
    new = {"type": kind, "status": "True" if holds else "False", "reason": reason, "message": message}
    return meta.set_condition(conditions, new, now)


def accept_names(crd: Object, others: Iterable[Object], now: float) -> bool:
    """Give the definition those of its names that no other of its group has; whether its status changed, in place.

    Of the `others`, names count that were given to them.
    """
    spec, status = crd["spec"], crd.setdefault("status", {})
    taken = _taken(o for o in others if o["spec"]["group"] == spec["group"])
    wanted = spec["names"]
    accepted = dict(status.get("acceptedNames") or {})
    reason, message = "NoConflicts", "no conflicts found"
    for field, label in (("plural", "Plural"), ("singular", "Singular"), ("kind", "Kind"), ("listKind", "ListKind")):
        name = wanted.get(field) or ""
        pool = taken["kinds"] if field in ("kind", "listKind") else taken["resources"]
        if name and name in pool:
            reason, message = f"{label}Conflict", f'"{name}" is already in use'
        elif name:
            accepted[field] = name
    short = list(wanted.get("shortNames") or ())
    clash = [n for n in short if n in taken["resources"]]
    if clash:
        reason = "ShortNamesConflict"
        message = ", ".join(f'"{n}" is already in use' for n in clash)
    for field, value in (("shortNames", [] if clash else short), ("categories", wanted.get("categories") or [])):
        accepted.pop(field, None)
        if value:
            accepted[field] = list(value)
    changed: bool = status.get("acceptedNames") != accepted
    status["acceptedNames"] = accepted
    fine = reason == "NoConflicts"
    changed |= set_condition(crd, "NamesAccepted", fine, reason, message, now)
    if fine and not is_established(crd):
        message = "the initial names have been accepted"
        changed |= set_condition(crd, "Established", True, "InitialNamesAccepted", message, now)
    elif not fine and not is_established(crd):
        message = "not all names are accepted"
        changed |= set_condition(crd, "Established", False, "NotAccepted", message, now)
    return changed


def approve(crd: Object, now: float) -> bool:
    """The condition of groups that belong to Kubernetes; whether it changed, in place."""
    group, annotation = crd["spec"]["group"], (crd["metadata"].get("annotations") or {}).get(_APPROVED, "")
    if not _protected(group):
        return False
    kind = "KubernetesAPIApprovalPolicyConformant"
    if annotation.startswith("unapproved"):
        message = f'not approved: "{annotation}"'
        return set_condition(crd, kind, False, "UnapprovedAnnotation", message, now)
    return set_condition(crd, kind, True, "ApprovedAnnotation", f"approved in {annotation}", now)


def _protected(group: str) -> bool:
    return group.endswith((".k8s.io", ".kubernetes.io")) or group in ("k8s.io", "kubernetes.io")


def _taken(others: Iterable[Object]) -> dict[str, set[str]]:
    resources: set[str] = set()
    kinds: set[str] = set()
    for other in others:
        names = (other.get("status") or {}).get("acceptedNames") or {}
        resources.update(n for n in (names.get("plural"), names.get("singular"), *(names.get("shortNames") or ())) if n)
        kinds.update(n for n in (names.get("kind"), names.get("listKind")) if n)
    return {"resources": resources, "kinds": kinds}
