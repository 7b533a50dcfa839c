"""What Kubernetes refuses about a definition's schema: what it does not support, defaults that do not fit, wrong rules.

Pure. Three steps, in Kubernetes' order: is it structural (`structurality`), do its defaults fit, is each keyword used
rightly. Rules are compiled only where nothing else is wrong at their place or below. Source:
k8s.io/apiextensions-apiserver `pkg/apis/apiextensions/validation`, `pkg/apiserver/schema/defaulting`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cluster.api.crd import default_rules, rule_checks, structurality
from cluster.api.crd.structural import Schema, compile_schema
from cluster.api.crd.values import capacity
from cluster.api.validation.fields import Faults

Json = dict[str, Any]

_TYPES = ("object", "array", "string", "integer", "number", "boolean")
_UNSUPPORTED = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_JUNCTORS = ("allOf", "oneOf", "anyOf")
_META = ("metadata", "kind", "apiVersion")
# What may stand at the root of a schema whose version has a status of its own.
_ROOT_WITH_STATUS = (
    "Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength",
    "MinLength", "Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties",
    "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations",
)  # fmt: skip
_GO_NAMES = {
    "x-kubernetes-preserve-unknown-fields": "XPreserveUnknownFields",
    "x-kubernetes-validations": "XValidations",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk is: how many there may be of this place in one object, the list or map that made parts of an old
    object impossible to find again ("" when none did), and why there may be no default here ("" if there may)."""

    path: str
    count: float = 1
    uncorrelatable: str = ""
    no_default: str = ""
    root: bool = False
    in_meta: bool = False

    def child(self, suffix: str, *, lost: str = "") -> _Place:
        return replace(self, path=self.path + suffix, root=False, uncorrelatable=self.uncorrelatable or lost)


class _Walk:
    """`costs` is None where rules are not to be compiled."""

    def __init__(self, faults: Faults, costs: rule_checks.Costs | None) -> None:
        self.faults = faults
        self.of_rules = Faults()
        self.costs = costs


def validate(faults: Faults, path: str, raw: Json, *, status: bool = False) -> None:
    """Add what is wrong with an openAPIV3Schema at `path`; `status`: its version has the status subresource."""
    if status:
        _root_with_status(faults, path, raw)
    if raw.get("nullable"):
        faults.forbidden(f"{path}.nullable", "nullable cannot be true at the root")
    schema = compile_schema(raw)
    shape_from = len(faults.causes)
    structurality.validate(faults, path, raw)
    if len(faults.causes) == shape_from:
        default_rules.validate(faults, path, raw, schema)
    sound = len(faults.causes) == shape_from
    walk = _Walk(faults, rule_checks.Costs() if sound else None)
    _schema(walk, _Place(path, root=True), raw, schema)
    faults.causes += walk.of_rules.causes
    if walk.costs is not None:
        walk.costs.judge(faults, path)


def _root_with_status(faults: Faults, path: str, raw: Json) -> None:
    if raw.get("type") and raw["type"] != "object":
        why = 'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
        faults.invalid(f"{path}.type", raw["type"], why)
    for key, value in raw.items():
        name = _GO_NAMES.get(key, key[:1].upper() + key[1:])
        if value not in (None, "", False, [], {}) and name not in _ROOT_WITH_STATUS:
            allowed = " ".join(_ROOT_WITH_STATUS)
            why = f"only [{allowed}] fields are allowed at the root of the schema if the status subresource is enabled"
            faults.invalid(path, raw, why)
            return


def _schema(walk: _Walk, at: _Place, raw: Any, schema: Schema | None) -> None:
    """`schema` None: inside of a junctor, where there are no rules."""
    faults, path = walk.faults, at.path
    before = len(faults.causes)
    _keywords(faults, at, raw)
    _below(walk, at, raw, schema)
    _extensions(faults, path, raw)
    written = raw.get("x-kubernetes-validations") or []
    if not written:
        return
    rule_checks.written(faults, path, raw, schema)
    if len(faults.causes) == before and walk.costs is not None and schema is not None:
        place = rule_checks.RulePlace(path, raw, schema, at.count, at.root, at.uncorrelatable)
        rule_checks.compiled(walk.of_rules, place, walk.costs)


def _keywords(faults: Faults, at: _Place, raw: Json) -> None:
    path, kind = at.path, raw.get("type")
    if kind and kind not in _TYPES:
        faults.unsupported(f"{path}.type", kind, _TYPES)
    if raw.get("default") is not None and at.no_default:
        faults.forbidden(f"{path}.default", f"must not be set {at.no_default}")
    for key in _UNSUPPORTED:
        if raw.get(key) not in (None, "", {}) or (key in ("additionalItems", "dependencies") and raw.get(key) == {}):
            faults.forbidden(f"{path}.{key}", f"{key} is not supported")
    if kind == "null":
        faults.forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
    if isinstance(raw.get("items"), list):
        faults.forbidden(f"{path}.items", "items must be a schema object and not an array")
    if at.in_meta and raw.get("x-kubernetes-embedded-resource"):
        faults.forbidden(f"{path}.x-kubernetes-embedded-resource", "must not be used inside of resource meta")
    if raw.get("uniqueItems"):
        why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        faults.forbidden(f"{path}.uniqueItems", why)
    additional = raw.get("additionalProperties")
    if raw.get("properties") and (additional is False or isinstance(additional, dict)):
        faults.forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")


def _below(walk: _Walk, at: _Place, raw: Json, schema: Schema | None) -> None:
    additional, items = raw.get("additionalProperties"), raw.get("items")
    if isinstance(additional, dict):
        inner = at.child(".additionalProperties")
        if at.in_meta:
            inner = replace(inner, no_default="inside additionalProperties applying to object metadata")
        sub = schema.additional if schema is not None else None
        count = at.count * capacity(schema) if schema is not None else 1
        _schema(walk, replace(inner, count=count), additional, sub)
    for name, property_ in (raw.get("properties") or {}).items():
        inner = _property(at, raw, name)
        _schema(walk, inner, property_, schema.properties.get(name) if schema is not None else None)
    if raw.get("not") is not None:
        _schema(walk, at.child(".not"), raw["not"], None)
    for key in _JUNCTORS:
        for i, sub_raw in enumerate(raw.get(key) or ()):
            _schema(walk, at.child(f".{key}[{i}]"), sub_raw, None)
    if isinstance(items, dict):
        lost = "" if raw.get("x-kubernetes-list-type") == "map" else at.path
        count = at.count * capacity(schema) if schema is not None else 1
        inner = replace(at.child(".items", lost=lost), count=count)
        _schema(walk, inner, items, schema.items if schema is not None else None)


def _property(at: _Place, raw: Json, name: str) -> _Place:
    lost = at.path if raw.get("x-kubernetes-map-type") == "atomic" else ""
    inner = at.child(f".properties[{name}]", lost=lost)
    if name in _META and (at.root or raw.get("x-kubernetes-embedded-resource")):
        reason = f"in top-level {name}" if at.root else inner.no_default
        inner = replace(inner, in_meta=True, no_default=reason)
    return inner


def _of_type(faults: Faults, path: str, kind: str, wanted: str, extension: str) -> None:
    why = f"must be {wanted} if {extension} is specified"
    if not kind:
        faults.required(f"{path}.type", why)
    elif kind != wanted:
        faults.invalid(f"{path}.type", kind, why)


def _extensions(faults: Faults, path: str, raw: Json) -> None:
    kind = raw.get("type") or ""
    if raw.get("x-kubernetes-preserve-unknown-fields") is False:
        faults.invalid(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined")
    map_type, list_type = raw.get("x-kubernetes-map-type"), raw.get("x-kubernetes-list-type")
    if map_type is not None:
        _of_type(faults, path, kind, "object", "x-kubernetes-map-type")
        faults.enum(f"{path}.x-kubernetes-map-type", map_type, ("atomic", "granular"))
    if list_type is not None:
        _of_type(faults, path, kind, "array", "x-kubernetes-list-type")
        if kind == "array" and list_type == "set" and isinstance(raw.get("items"), dict):
            _set_items(faults, path, raw["items"])
        faults.enum(f"{path}.x-kubernetes-list-type", list_type, ("atomic", "set", "map"))
    keys = raw.get("x-kubernetes-list-map-keys") or []
    if keys and list_type != "map":
        field, why = f"{path}.x-kubernetes-list-type", "must be map if x-kubernetes-list-map-keys is non-empty"
        if list_type is None:
            faults.required(field, why)
        else:
            faults.invalid(field, list_type, why)
    if list_type == "map":
        _list_map(faults, path, raw, keys)
    if list_type in ("set", "map") and isinstance(raw.get("items"), dict):
        _identified_items(faults, path, raw["items"], list_type, keys)


def _set_items(faults: Faults, path: str, items: Json) -> None:
    """Members of a set are compared whole, so they must be atomic."""
    why = "must be atomic as item of a list with x-kubernetes-list-type=set"
    inner = items.get("x-kubernetes-list-type")
    if items.get("type") == "array" and inner not in (None, "atomic"):
        faults.invalid(f"{path}.items.x-kubernetes-list-type", inner, why)
    if items.get("type") == "object" and items.get("x-kubernetes-map-type") != "atomic":
        faults.invalid(f"{path}.items.x-kubernetes-map-type", inner, why)


def _list_map(faults: Faults, path: str, raw: Json, keys: list[str]) -> None:
    if not keys:
        why = "must not be empty if x-kubernetes-list-type is map"
        faults.required(f"{path}.x-kubernetes-list-map-keys", why)
    items = raw.get("items")
    if items is None:
        faults.required(f"{path}.items", "must have a schema if x-kubernetes-list-type is map")
        return
    if not isinstance(items, dict):
        faults.invalid(f"{path}.items", items, "must only have a single schema if x-kubernetes-list-type is map")
        return
    if items.get("type") != "object":
        why = "must be object if parent array's x-kubernetes-list-type is map"
        faults.invalid(f"{path}.items.type", items.get("type") or "", why)
        return
    for i, key in enumerate(keys):
        sub = (items.get("properties") or {}).get(key)
        if sub is None:
            why = "entries must all be names of item properties"
            faults.invalid(f"{path}.x-kubernetes-list-map-keys", keys, why)
        elif sub.get("type") in ("array", "object"):
            why = "must be a scalar type if parent array's x-kubernetes-list-type is map"
            faults.invalid(f"{path}.items.properties[{key}].type", items["type"], why)
        if key in keys[:i]:
            faults.invalid(f"{path}.x-kubernetes-list-map-keys", keys, "must not contain duplicate entries")


def _identified_items(faults: Faults, path: str, items: Json, list_type: str, keys: list[str]) -> None:
    """What items are told apart by must be there, and not null."""
    if items.get("nullable"):
        faults.forbidden(f"{path}.items.nullable", f"cannot be nullable when x-kubernetes-list-type is {list_type}")
    if list_type == "set":
        return
    what = "this property is in x-kubernetes-list-map-keys, so it"
    for key in keys:
        sub = (items.get("properties") or {}).get(key)
        if sub is None:
            continue
        if key not in (items.get("required") or ()) and sub.get("default") is None:
            why = f"{what} must have a default or be a required property"
            faults.required(f"{path}.items.properties[{key}].default", why)
        if sub.get("nullable"):
            faults.forbidden(f"{path}.items.properties[{key}].nullable", f"{what} cannot be nullable")
