"""What Kubernetes refuses about a CustomResourceDefinition: names, versions, columns, conversion, and their changes.

Pure. Kubernetes judges the internal form, where what all versions share (schema, subresources, columns, selectable
fields; so everything of a single version) stands in the spec itself, and its faults name the fields of that form
(spec.validation, spec.subresources). Source: k8s.io/apiextensions-apiserver `pkg/apis/apiextensions/validation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cluster.api import meta
from cluster.api.crd import jsonpath, schemas
from cluster.api.crd.structural import compile_schema
from cluster.api.validation.fields import Faults, dns_1035_label, dns_subdomain
from cluster.api.validation.webhook_clients import ca_bundle_fault, validate_client

Object = dict[str, Any]

APPROVED = "api-approved.kubernetes.io"
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_MAX_SELECTABLE = 8
_MAX_WARNING = 256
_REVIEWS = ("v1", "v1beta1")


def storage_version(crd: Object) -> str:
    return next((v["name"] for v in crd["spec"].get("versions") or () if v.get("storage")), "")


def protected(group: str) -> bool:
    """Groups that belong to Kubernetes."""
    return group.endswith((".k8s.io", ".kubernetes.io")) or group in ("k8s.io", "kubernetes.io")


def validate(faults: Faults, crd: Object) -> None:
    _definition(faults, crd, None)


def validate_update(faults: Faults, new: Object, old: Object) -> None:
    _definition(faults, new, old)
    spec, before = new["spec"], old["spec"]
    if meta.is_true(old, "Established"):
        faults.immutable("spec.scope", spec.get("scope"), before.get("scope"))
        faults.immutable("spec.names.kind", spec["names"].get("kind"), before["names"].get("kind"))
    faults.immutable("spec.group", spec.get("group"), before.get("group"))
    faults.immutable("spec.names.plural", spec["names"].get("plural"), before["names"].get("plural"))


def validate_status(faults: Faults, crd: Object) -> None:
    _names(faults, "status.acceptedNames", (crd.get("status") or {}).get("acceptedNames") or {})


def _definition(faults: Faults, crd: Object, old: Object | None) -> None:
    metadata, spec = crd["metadata"], crd["spec"]
    names, group = spec.get("names") or {}, spec.get("group") or ""
    if old is None and metadata.get("name") != f"{names.get('plural', '')}.{group}":
        faults.invalid("metadata.name", metadata.get("name", ""), 'must be spec.names.plural+"."+spec.group')
    _group(faults, group)
    if not spec.get("scope"):
        faults.required("spec.scope")
    else:
        faults.enum("spec.scope", spec["scope"], ("Cluster", "Namespaced"))
    _versions(faults, spec, old)
    for field in ("plural", "singular", "kind", "listKind"):
        if not names.get(field):
            faults.required(f"spec.names.{field}")
    _names(faults, "spec.names", names)
    _shared(faults, spec, old)
    _conversion(faults, spec.get("conversion") or {}, _judges_bundle(old))
    validate_status(faults, crd)
    _stored(faults, crd)
    if protected(group):
        _approval(faults, metadata, old)
    if spec.get("preserveUnknownFields"):
        why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        faults.invalid("spec.preserveUnknownFields", True, why)


def _group(faults: Faults, group: str) -> None:
    if not group:
        faults.required("spec.group")
    elif why := dns_subdomain(group):
        faults.invalid("spec.group", group, why)
    elif "." not in group:
        faults.invalid("spec.group", group, "should be a domain with at least one dot")


def approval(annotation: str) -> tuple[str, str]:
    """What the annotation of a protected group says: missing, unapproved, approved or invalid; and that in words."""
    see = "see https://github.com/kubernetes/enhancements/pull/1111"
    if not annotation:
        return "missing", f'protected groups must have approval annotation "{APPROVED}", {see}'
    if annotation.startswith("unapproved"):
        return "unapproved", f'not approved: "{annotation}"'
    try:
        parts = urlsplit(annotation)
    except ValueError:
        parts = None
    if parts is not None and parts.scheme and parts.netloc:
        return "approved", f"approved in {annotation}"
    how = 'with either a URL or a reason starting with "unapproved"'
    return "invalid", f'protected groups must have approval annotation "{APPROVED}" {how}, {see}'


def _approval(faults: Faults, metadata: Object, old: Object | None) -> None:
    said = (metadata.get("annotations") or {}).get(APPROVED, "")
    state, why = approval(said)
    before = approval(((old or {}).get("metadata") or {}).get("annotations", {}).get(APPROVED, ""))[0] if old else ""
    if state == before:
        return
    if state == "missing":
        faults.required(f"metadata.annotations[{APPROVED}]", why)
    elif state == "invalid":
        faults.invalid(f"metadata.annotations[{APPROVED}]", said, why)


def _names(faults: Faults, path: str, names: Object) -> None:
    for field in ("plural", "singular"):
        if names.get(field):
            faults.check(f"{path}.{field}", names[field], dns_1035_label(names[field]))
    for field in ("kind", "listKind"):
        why = dns_1035_label(names[field].lower()) if names.get(field) else ""
        if why:
            faults.invalid(f"{path}.{field}", names[field], f"may have mixed case, but should otherwise match: {why}")
    for i, name in enumerate(names.get("shortNames") or ()):
        faults.check(f"{path}.shortNames[{i}]", name, dns_1035_label(name))
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        faults.invalid(f"{path}.listKind", names["listKind"], "kind and listKind may not be the same")
    for i, name in enumerate(names.get("categories") or ()):
        faults.check(f"{path}.categories[{i}]", name, dns_1035_label(name))


# --- versions -------------------------------------------------------------------------------------------------------


def _schema_of(version: Object) -> Object | None:
    return (version.get("schema") or {}).get("openAPIV3Schema")


_SHARED = ("schema", "subresources", "additionalPrinterColumns", "selectableFields")


@dataclass(frozen=True, slots=True)
class _All:
    """All versions of a definition: what each says the same, and those that were there before, by name."""

    versions: list[Object]
    common: frozenset[str]
    before: dict[str, Object]

    @classmethod
    def of(cls, spec: Object, old: Object | None) -> _All:
        versions = spec.get("versions") or []
        first = versions[0] if versions else {}
        common = [f for f in _SHARED if all((v.get(f) or None) == (first.get(f) or None) for v in versions)]
        before = (old["spec"].get("versions") or ()) if old is not None else ()
        return cls(versions, frozenset(common), {v.get("name") or "": v for v in reversed(before)})


def _versions(faults: Faults, spec: Object, old: Object | None) -> None:
    versions, everything = spec.get("versions") or [], _All.of(spec, old)
    names = [v.get("name") or "" for v in versions]
    for i, version in enumerate(versions):
        if _schema_of(version) is None:
            faults.required(f"spec.versions[{i}].schema.openAPIV3Schema")
    for i, version in enumerate(versions):
        path = f"spec.versions[{i}]"
        faults.check(f"{path}.name", names[i], dns_1035_label(names[i]))
        _deprecation(faults, f"{path}.deprecationWarning", version)
        _parts(faults, path, f"{path}.schema.openAPIV3Schema", version, everything, shared=False)
    if len(set(names)) != len(names):
        faults.invalid("spec.versions", names, "must contain unique version names")
    if sum(bool(v.get("storage")) for v in versions) != 1:
        faults.invalid("spec.versions", names or None, "must have exactly one version marked as storage version")


def _shared(faults: Faults, spec: Object, old: Object | None) -> None:
    """What all versions have in common, once."""
    versions = spec.get("versions") or []
    if versions:
        _parts(faults, "spec", "spec.validation.openAPIV3Schema", versions[0], _All.of(spec, old), shared=True)


def _parts(faults: Faults, path: str, schema_path: str, version: Object, everything: _All, *, shared: bool) -> None:
    """Those parts of a version that are shared by all, or those that are not."""
    raw, common, before = _schema_of(version), everything.common, everything.before.get(version.get("name") or "")
    own = [version] if not shared or "subresources" in common else everything.versions
    status = any("status" in (v.get("subresources") or {}) for v in own)
    if raw is not None and ("schema" in common) is shared and not _unchanged(version, before):
        schemas.validate(faults, schema_path, raw, status=status)
    if ("subresources" in common) is shared:
        _scale(faults, f"{path}.subresources.scale", (version.get("subresources") or {}).get("scale"))
    if ("additionalPrinterColumns" in common) is shared:
        for i, column in enumerate(version.get("additionalPrinterColumns") or ()):
            _column(faults, f"{path}.additionalPrinterColumns[{i}]", column)
    if ("selectableFields" in common) is shared and version.get("selectableFields"):
        _selectable(faults, f"{path}.selectableFields", version, before)


def _unchanged(version: Object, before: Object | None) -> bool:
    """Whether the schema, and whether there is a status, are as they were: then they were judged before."""
    status = "status" in (version.get("subresources") or {})
    same = before is not None and status == ("status" in (before.get("subresources") or {}))
    return same and before is not None and _schema_of(before) == _schema_of(version)


def _deprecation(faults: Faults, path: str, version: Object) -> None:
    text = version.get("deprecationWarning")
    if text is None:
        return
    if not version.get("deprecated"):
        faults.invalid(path, text, "can only be set for deprecated versions")
        return
    if len(text.encode()) > _MAX_WARNING:
        faults.invalid(path, text, f"must be <= {_MAX_WARNING} characters long")
    if not text:
        faults.invalid(path, text, "must not be an empty string")
    odd = next((i for i, c in enumerate(text) if not c.isprintable()), -1)
    if odd >= 0:
        at = len(text[:odd].encode())
        why = f"must only contain printable UTF-8 characters; non-printable character found at index {at}"
        faults.invalid(path, text, why)


def _column(faults: Faults, path: str, column: Object) -> None:
    kind, shown = column.get("type"), column.get("format")
    if not column.get("name"):
        faults.required(f"{path}.name")
    types = f"must be one of {','.join(_COLUMN_TYPES)}"
    if not kind:
        faults.required(f"{path}.type", types)
    elif kind not in _COLUMN_TYPES:
        faults.invalid(f"{path}.type", kind, types)
    if shown and shown not in _COLUMN_FORMATS:
        faults.invalid(f"{path}.format", shown, f"must be one of {','.join(_COLUMN_FORMATS)}")
    if not column.get("jsonPath"):
        faults.required(f"{path}.JSONPath")
    elif not column["jsonPath"].startswith("."):
        faults.invalid(f"{path}.JSONPath", column["jsonPath"], "must be a simple json path starting with .")


def _scale(faults: Faults, path: str, scale: Object | None) -> None:
    if scale is None:
        return
    for field, roots, needed in (
        ("specReplicasPath", (".spec.",), True),
        ("statusReplicasPath", (".status.",), True),
        ("labelSelectorPath", (".spec.", ".status."), False),
    ):
        value, at = scale.get(field) or "", f"{path}.{field}"
        if not value:
            if needed:
                faults.required(at)
        elif not value.startswith("."):
            faults.invalid(at, value, "must be a simple json path starting with .")
        elif not value.startswith(roots):
            where = " or ".join(r.removesuffix(".") for r in roots)
            where = f"either {where}" if len(roots) > 1 else where
            faults.invalid(at, value, f"should be a json path under {where}")


def _selectable(faults: Faults, path: str, version: Object, before: Object | None) -> None:
    listed, schema = version["selectableFields"], compile_schema(_schema_of(version))
    seen: set[tuple[str, ...]] = set()
    for i, field in enumerate(listed):
        at, text = f"{path}[{i}].jsonPath", field.get("jsonPath") or ""
        if not text:
            faults.required(at)
            continue
        try:
            keys, place = jsonpath.place_of(text, schema, brackets=False)
        except jsonpath.BadPath as e:
            faults.invalid(at, text, f"is an invalid path: {e}")
            continue
        if keys[0] == "metadata":
            faults.invalid(at, text, "must not point to fields in metadata")
        if place.type not in ("string", "boolean", "integer"):
            why = "must point to a field of type string, boolean or integer. "
            faults.invalid(at, text, why + "Enum string fields and strings with formats are allowed.")
        if keys in seen:
            faults.duplicate(at, text)
        seen.add(keys)
    kept = (before or {}).get("selectableFields") == listed
    if len(seen) > _MAX_SELECTABLE and not kept:
        faults.too_many(path, len(seen), _MAX_SELECTABLE)


def _stored(faults: Faults, crd: Object) -> None:
    path, stored = "status.storedVersions", (crd.get("status") or {}).get("storedVersions") or []
    if not stored:
        faults.invalid(path, None, "must have at least one stored version")
        return
    storage = storage_version(crd)
    if storage and storage not in stored:
        faults.invalid(path, stored, f"must have the storage version {storage}")
    names = {v.get("name") for v in crd["spec"].get("versions") or ()}
    for i, name in enumerate(stored):
        if name not in names:
            why = (
                f"missing from spec.versions; {name} was previously a storage version, and must remain in "
                f"spec.versions until a storage migration ensures no data remains persisted in {name} and removes "
                f"{name} from status.storedVersions"
            )
            faults.invalid(f"{path}[{i}]", name, why)


# --- conversion -----------------------------------------------------------------------------------------------------


def _judges_bundle(old: Object | None) -> bool:
    """A definition that is not served yet may have a bundle that cannot be read; it is not served then."""
    return old is not None and meta.is_true(old, "Established") and not bad_bundle(old)


def bad_bundle(crd: Object) -> str:
    """What is wrong with the CA of the conversion webhook, "" when nothing is."""
    client = ((crd["spec"].get("conversion") or {}).get("webhook") or {}).get("clientConfig") or {}
    return ca_bundle_fault(client.get("caBundle") or "")


def _conversion(faults: Faults, conversion: Object, judge_bundle: bool) -> None:
    path, strategy = "spec.conversion", conversion.get("strategy")
    if not strategy:
        faults.required(f"{path}.strategy")
    else:
        faults.enum(f"{path}.strategy", strategy, ("None", "Webhook"))
    webhook = conversion.get("webhook") or {}
    client, at = webhook.get("clientConfig"), f"{path}.webhookClientConfig"
    if strategy != "Webhook":
        why = "should not be set when strategy is not set to Webhook"
        if client is not None:
            faults.forbidden(at, why)
        if webhook.get("conversionReviewVersions"):
            faults.forbidden(f"{path}.conversionReviewVersions", why)
        return
    if client is None:
        faults.required(at, "required when strategy is set to Webhook")
    else:
        validate_client(faults, at, client)
        why = ca_bundle_fault(client.get("caBundle") or "") if judge_bundle else ""
        faults.check(f"{at}.caBundle", client.get("caBundle"), why)
    _reviews(faults, f"{path}.conversionReviewVersions", webhook.get("conversionReviewVersions") or [])


def _reviews(faults: Faults, path: str, versions: list[str]) -> None:
    if not versions:
        faults.required(path)
        return
    for i, version in enumerate(versions):
        if version in versions[:i]:
            faults.invalid(f"{path}[{i}]", version, "duplicate version")
        else:
            faults.check(f"{path}[{i}]", version, dns_1035_label(version))
    if not set(versions) & set(_REVIEWS):
        faults.invalid(path, versions, f"must include at least one of {', '.join(_REVIEWS)}")
