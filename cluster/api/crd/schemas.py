"""What Kubernetes refuses about a definition's schema: what is not structural, defaults that do not fit, wrong rules.

Pure. Source: k8s.io/apiextensions-apiserver `pkg/apiserver/schema/validation.go`, `.../apis/apiextensions/validation`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from cluster.api import cel
from cluster.api.cel.cost import estimate
from cluster.api.cel.library.regex import pattern
from cluster.api.crd import instances, pruning, rules
from cluster.api.crd.structural import Schema, compile_schema
from cluster.api.crd.values import capacity, shape
from cluster.api.validation.fields import Faults

Json = dict[str, Any]

_TYPES = ("object", "array", "string", "integer", "number", "boolean")
_UNSUPPORTED = ("$ref", "definitions", "dependencies", "deprecated", "discriminator", "id", "patternProperties")
_STRUCTURE = (
    "type", "additionalProperties", "nullable", "default", "title", "description", "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
)  # fmt: skip
_REASONS = ("FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate")
# Kubernetes' limits on the estimated cost of one rule and of all rules of a version.
_RULE_LIMIT, _TOTAL_LIMIT = 10_000_000, 100_000_000


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk is: how many there may be of this place in one object, and the list that made items of an old
    object impossible to find again ("" when none did)."""

    path: str
    count: float = 1
    uncorrelatable: str = ""
    level: int = 0

    def child(self, suffix: str) -> _Place:
        return replace(self, path=self.path + suffix, level=self.level + 1)


class _Walk:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.total = 0.0


def validate(faults: Faults, path: str, raw: Json) -> None:
    """Add what is wrong with an openAPIV3Schema at `path`."""
    _root(faults, path, raw)
    walk = _Walk(faults)
    schema = compile_schema(raw)
    _schema(walk, _Place(path), raw, schema)
    if walk.total > _TOTAL_LIMIT:
        factor = _factor(walk.total / _TOTAL_LIMIT)
        faults.forbidden(path, f"x-kubernetes-validations estimated rule cost total exceeds budget by {factor}")
    if not faults.causes:
        _defaults(faults, path, raw, schema, root=True)


def _root(faults: Faults, path: str, raw: Json) -> None:
    if not raw.get("type"):
        faults.required(f"{path}.type", "must not be empty at the root")
    elif raw["type"] != "object":
        faults.invalid(f"{path}.type", raw["type"], "must be object at the root")
    if raw.get("nullable"):
        faults.forbidden(f"{path}.nullable", "nullable cannot be true at the root")
    metadata = (raw.get("properties") or {}).get("metadata")
    if isinstance(metadata, dict):
        extra = {k for k in metadata if k not in ("type", "properties", "description")}
        extra |= {k for k in metadata.get("properties") or {} if k not in ("name", "generateName")}
        if extra:
            why = "must not specify anything other than name and generateName, but metadata is implicitly specified"
            faults.forbidden(f"{path}.properties[metadata]", why)


def _schema(walk: _Walk, at: _Place, raw: Any, schema: Schema) -> None:
    faults, path = walk.faults, at.path
    if not isinstance(raw, dict):
        faults.invalid(path, str(raw), "must be a schema")
        return
    for key in _UNSUPPORTED:
        if raw.get(key):
            faults.forbidden(f"{path}.{key}", f"{key} is not supported")
    if raw.get("uniqueItems"):
        why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        faults.forbidden(f"{path}.uniqueItems", why)
    _type(faults, at, raw)
    _extensions(faults, path, raw)
    _check_values(faults, path, raw)
    for key in ("allOf", "anyOf", "oneOf"):
        for i, sub in enumerate(raw.get(key) or ()):
            _nested(faults, f"{path}.{key}[{i}]", sub, raw)
    if raw.get("not") is not None:
        _nested(faults, f"{path}.not", raw["not"], raw)
    if raw.get("x-kubernetes-validations"):
        _rules(walk, at, raw, schema)
    _below(walk, at, raw, schema)


def _type(faults: Faults, at: _Place, raw: Json) -> None:
    kind, path = raw.get("type"), at.path
    if raw.get("x-kubernetes-int-or-string"):
        if kind:
            faults.forbidden(f"{path}.type", "must be empty if x-kubernetes-int-or-string is true")
    elif not kind:
        if at.level and not raw.get("x-kubernetes-preserve-unknown-fields"):
            where = "array items" if path.endswith("items") else "object fields"
            faults.required(f"{path}.type", f"must not be empty for specified {where}")
    elif kind not in _TYPES and at.level:
        faults.unsupported(f"{path}.type", kind, _TYPES)


def _below(walk: _Walk, at: _Place, raw: Json, schema: Schema) -> None:
    faults, path, kind = walk.faults, at.path, raw.get("type")
    properties, additional, items = raw.get("properties"), raw.get("additionalProperties"), raw.get("items")
    if properties and additional is not None and additional is not False:
        faults.forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    if additional is False:
        faults.forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
    for name, sub in (properties or {}).items():
        _schema(walk, at.child(f".properties[{name}]"), sub, schema.properties[name])
    if isinstance(additional, dict) and schema.additional is not None:
        inner = at.child(".additionalProperties")
        _schema(walk, replace(inner, count=at.count * capacity(schema)), additional, schema.additional)
    if kind == "array" and items is None:
        faults.required(f"{path}.items", "must be specified")
    if isinstance(items, list):
        faults.forbidden(f"{path}.items", "items must be a schema object and not an array")
    elif items is not None and schema.items is not None:
        inner = at.child(".items")
        lost = at.uncorrelatable or ("" if raw.get("x-kubernetes-list-type") == "map" else inner.path)
        _schema(walk, replace(inner, count=at.count * capacity(schema), uncorrelatable=lost), items, schema.items)


def _extensions(faults: Faults, path: str, raw: Json) -> None:
    kind = raw.get("type")
    preserve = raw.get("x-kubernetes-preserve-unknown-fields")
    if preserve is False:
        faults.invalid(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined")
    if raw.get("x-kubernetes-embedded-resource"):
        if kind != "object":
            faults.invalid(f"{path}.type", kind or "", "must be object if x-kubernetes-embedded-resource is true")
        if not preserve and not raw.get("properties"):
            why = "must not be empty if x-kubernetes-embedded-resource is true without "
            why += "x-kubernetes-preserve-unknown-fields"
            faults.required(f"{path}.properties", why)
    list_type, keys = raw.get("x-kubernetes-list-type"), raw.get("x-kubernetes-list-map-keys")
    if list_type is not None:
        if kind != "array":
            faults.invalid(f"{path}.type", kind or "", "must be array if x-kubernetes-list-type is specified")
        if list_type not in ("atomic", "set", "map"):
            faults.unsupported(f"{path}.x-kubernetes-list-type", list_type, ("atomic", "set", "map"))
    if keys and list_type != "map":
        why = "must be map if x-kubernetes-list-map-keys is non-empty"
        faults.invalid(f"{path}.x-kubernetes-list-type", list_type, why)
    if list_type == "map":
        _list_map(faults, path, raw, keys or [])
    map_type = raw.get("x-kubernetes-map-type")
    if map_type is not None and map_type not in ("granular", "atomic"):
        faults.unsupported(f"{path}.x-kubernetes-map-type", map_type, ("granular", "atomic"))
    elif map_type is not None and kind != "object":
        faults.invalid(f"{path}.type", kind or "", "must be object if x-kubernetes-map-type is specified")


def _list_map(faults: Faults, path: str, raw: Json, keys: list[str]) -> None:
    if not keys:
        why = "must not be empty if x-kubernetes-list-type is map"
        faults.required(f"{path}.x-kubernetes-list-map-keys", why)
    items = raw.get("items") if isinstance(raw.get("items"), dict) else {}
    properties = (items or {}).get("properties") or {}
    for i, key in enumerate(keys):
        sub = properties.get(key)
        if not isinstance(sub, dict):
            why = "entries must all be names of item properties"
            faults.invalid(f"{path}.x-kubernetes-list-map-keys[{i}]", key, why)
            continue
        if sub.get("type") in ("object", "array"):
            faults.invalid(
                f"{path}.items.properties[{key}].type",
                sub["type"],
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            )
        if key not in ((items or {}).get("required") or ()) and sub.get("default") is None:
            why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            faults.required(f"{path}.items.properties[{key}].default", why)


def _check_values(faults: Faults, path: str, raw: Json) -> None:
    if raw.get("pattern"):
        try:
            pattern(raw["pattern"])
        except ValueError as e:
            why = f"must be a valid regular expression, but isn't: error parsing regexp: {e}"
            faults.invalid(f"{path}.pattern", raw["pattern"], why)
    for low, high in (("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems")):
        if low != "minimum" and (raw.get(low) or 0) < 0:
            faults.invalid(f"{path}.{low}", raw[low], "must be greater than or equal to 0")
        if raw.get(low) is not None and raw.get(high) is not None and raw[low] > raw[high]:
            faults.invalid(f"{path}.{high}", raw[high], f"must be greater than or equal to {low}")


def _nested(faults: Faults, path: str, raw: Any, parent: Json) -> None:
    """A schema inside allOf, anyOf, oneOf or not may check values, not describe structure."""
    if not isinstance(raw, dict):
        return
    for key in _STRUCTURE:
        if key == "type" and parent.get("x-kubernetes-int-or-string") and raw.get(key) in ("integer", "string"):
            continue
        if raw.get(key):
            faults.forbidden(f"{path}.{key}", "must be empty to be structural")
    mine, theirs = raw.get("properties") or {}, (parent.get("properties") or {}) if isinstance(parent, dict) else {}
    for name, sub in mine.items():
        if name not in theirs and not parent.get("x-kubernetes-preserve-unknown-fields"):
            where = path[: path.rindex(".")]
            faults.required(f"{where}.properties[{name}]", f"because it is defined in {path}.properties[{name}]")
        _nested(faults, f"{path}.properties[{name}]", sub, theirs.get(name) or {})
    if isinstance(raw.get("items"), dict):
        _nested(faults, f"{path}.items", raw["items"], parent.get("items") or {})
    _check_values(faults, path, raw)


# --- rules ----------------------------------------------------------------------------------------------------------


def _rules(walk: _Walk, at: _Place, raw: Json, schema: Schema) -> None:
    for i, rule in enumerate(schema.rules):
        path, faults = f"{at.path}.x-kubernetes-validations[{i}]", walk.faults
        written = raw["x-kubernetes-validations"][i]
        if not rule.expression.strip():
            faults.required(f"{path}.rule", "rule is not specified")
            continue
        if rule.reason not in _REASONS:
            faults.unsupported(f"{path}.reason", rule.reason, _REASONS)
        if not rule.message and "\n" in rule.expression and not rule.message_expression:
            faults.required(f"{path}.message", "message must be specified if rule contains line breaks")
        if "\n" in rule.message:
            faults.invalid(f"{path}.message", rule.message, "message must not contain line breaks")
        if rule.field_path and not _reaches(schema, rule.field_path):
            why = "fieldPath must be a valid path"
            faults.invalid(f"{path}.fieldPath", rule.field_path, why)
        try:
            program = rules.compile_rule(rule, schema)
        except cel.CompileError as e:
            faults.invalid(f"{path}.rule", written, f"compilation failed: {e}")
            continue
        if rules.uses_old(program) and at.uncorrelatable:
            why = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {at.uncorrelatable}"
            faults.invalid(f"{path}.rule", rule.expression, why)
        _cost(walk, at, f"{path}.rule", written, schema, program)
        if rule.message_expression:
            try:
                rules.compile_message(rule, schema)
            except cel.CompileError as e:
                faults.invalid(f"{path}.messageExpression", written, f"messageExpression compilation failed: {e}")


def _reaches(schema: Schema, path: str) -> bool:
    at: Schema | None = schema
    for name in path.replace("['", ".").replace("']", "").removeprefix(".").split("."):
        at = at.child(name) if at is not None else None
    return at is not None


def _cost(walk: _Walk, at: _Place, path: str, written: Json, schema: Schema, program: cel.Program) -> None:
    known = shape(schema)
    if not at.level:  # at the root, apiVersion, kind and metadata are there without being written
        for name in ("apiVersion", "kind"):
            known.fields.setdefault(name, shape(Schema(type="string", checks={"maxLength": 253})))
        names = {n: Schema(type="string", checks={"maxLength": 253}) for n in ("name", "generateName")}
        known.fields["metadata"] = shape(Schema(type="object", properties=names))
    found = estimate(program.tree, {"self": known, "oldSelf": known, "oldSelfValue": known})
    if found.undefined:
        why = f"compilation failed: ERROR: undefined field '{found.undefined[0]}'"
        walk.faults.invalid(path, written, why)
    cost = found.cost * at.count
    walk.total += min(cost, 1e18)
    if cost > _RULE_LIMIT:
        hint = (
            "try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings"
        )
        why = f"estimated rule cost exceeds budget by {_factor(cost / _RULE_LIMIT)} ({hint} are declared)"
        walk.faults.forbidden(path, why)


def _factor(ratio: float) -> str:
    return "factor of more than 100x" if ratio > 100 else f"factor of {ratio:.1f}x"


def _defaults(faults: Faults, path: str, raw: Json, schema: Schema, *, root: bool = False) -> None:
    """A default must be whole: pruned, and valid once its own defaults are applied."""
    if raw.get("default") is not None:
        if root:
            faults.forbidden(f"{path}.default", "must not be set at the root")
        _default(faults, f"{path}.default", raw["default"], schema)
    for name, sub in (raw.get("properties") or {}).items():
        _defaults(faults, f"{path}.properties[{name}]", sub, schema.properties[name])
    if isinstance(raw.get("additionalProperties"), dict) and schema.additional is not None:
        _defaults(faults, f"{path}.additionalProperties", raw["additionalProperties"], schema.additional)
    if isinstance(raw.get("items"), dict) and schema.items is not None:
        _defaults(faults, f"{path}.items", raw["items"], schema.items)


def _default(faults: Faults, path: str, value: Any, schema: Schema) -> None:
    holder, wrapped = Schema(type="object", properties={"value": schema}), {"value": copy.deepcopy(value)}
    unknown = pruning.prune(holder, wrapped)
    if unknown:
        faults.invalid(path, value, "must not have unknown fields")
        return
    pruning.apply_defaults(holder, wrapped)
    found = [*instances.validate(holder, wrapped)] or rules.validate(holder, wrapped)
    for cause in found:
        message = cause.message.replace(": value in body", f": {path} in body")
        faults.causes.append(replace(cause, message=message, field=path + cause.field.removeprefix("value")))
