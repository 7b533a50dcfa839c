"""A structural schema: the tree of places in a custom resource, compiled from openAPIV3Schema.

Pure. A `Schema` says of one place which type it has, what may be below it, and which checks apply (KEP-1002 structural
schemas, k8s.io/apiextensions-apiserver `pkg/apiserver/schema`). The tree is a tree: $ref is not allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

MISSING: Any = object()
_EMBEDDED = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of x-kubernetes-validations."""

    expression: str
    message: str = ""
    message_expression: str = ""
    reason: str = "FieldValueInvalid"
    field_path: str = ""
    optional_old_self: bool = False


@dataclass(slots=True, eq=False)
class Schema:
    """`type` "" is any type (or int-or-string). `checks` holds the value validations as written (minimum, pattern, enum
    and so on), with the schemas in allOf, anyOf, oneOf and not compiled. `has_defaults`, `has_rules` and `has_embedded`
    speak of this place and all below."""

    type: str = ""
    nullable: bool = False
    int_or_string: bool = False
    preserve: bool = False
    embedded: bool = False
    properties: dict[str, Schema] = field(default_factory=dict)
    items: Schema | None = None
    additional: Schema | None = None
    default: Any = MISSING
    list_type: str = "atomic"
    list_keys: tuple[str, ...] = ()
    atomic_map: bool = False
    format: str = ""
    required: tuple[str, ...] = ()
    checks: Json = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    has_defaults: bool = False
    has_rules: bool = False
    has_embedded: bool = False

    def child(self, key: str) -> Schema | None:
        return self.properties.get(key) or self.additional

    def children(self) -> list[Schema]:
        return [*self.properties.values(), *(c for c in (self.items, self.additional) if c is not None)]


ANYTHING = Schema(preserve=True)
_CHECKS = frozenset(
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
     "minItems", "maxItems", "minProperties", "maxProperties", "enum", "allOf", "anyOf", "oneOf", "not", "uniqueItems")
)  # fmt: skip


def compile_schema(raw: Any) -> Schema:
    """Tolerates what `schemas.validate` refuses, so that both can be asked of any definition."""
    if not isinstance(raw, dict):
        return ANYTHING
    out = Schema(
        type=str(raw.get("type") or ""),
        nullable=bool(raw.get("nullable")),
        int_or_string=bool(raw.get("x-kubernetes-int-or-string")),
        preserve=bool(raw.get("x-kubernetes-preserve-unknown-fields")),
        embedded=bool(raw.get("x-kubernetes-embedded-resource")),
        list_type=raw.get("x-kubernetes-list-type") or "atomic",
        list_keys=tuple(raw.get("x-kubernetes-list-map-keys") or ()),
        atomic_map=raw.get("x-kubernetes-map-type") == "atomic",
        format=str(raw.get("format") or ""),
        required=tuple(raw.get("required") or ()),
        checks=_checks(raw),
        rules=tuple(_rule(r) for r in raw.get("x-kubernetes-validations") or () if isinstance(r, dict)),
    )
    if raw.get("default") is not None:
        out.default = raw["default"]
    out.properties = {k: compile_schema(v) for k, v in (raw.get("properties") or {}).items()}
    if isinstance(raw.get("items"), dict):
        out.items = compile_schema(raw["items"])
    additional = raw.get("additionalProperties")
    if additional is True:
        out.additional = ANYTHING
    elif isinstance(additional, dict):
        out.additional = compile_schema(additional)
    if out.embedded:
        for name, sub in _EMBEDDED.items():
            out.properties.setdefault(name, compile_schema(sub))
    below = out.children()
    out.has_defaults = out.default is not MISSING or any(c.has_defaults for c in below)
    out.has_rules = bool(out.rules) or any(c.has_rules for c in below)
    out.has_embedded = out.embedded or any(c.has_embedded for c in below)
    return out


def _checks(raw: Json) -> Json:
    out = {k: v for k, v in raw.items() if k in _CHECKS}
    for key in ("allOf", "anyOf", "oneOf"):
        if key in out:
            out[key] = [compile_schema(s) for s in out[key] or ()]
    if out.get("not") is not None:
        out["not"] = compile_schema(out["not"])
    return out


def _rule(raw: Json) -> Rule:
    return Rule(
        expression=str(raw.get("rule") or ""),
        message=str(raw.get("message") or "").strip(),
        message_expression=str(raw.get("messageExpression") or ""),
        reason=str(raw.get("reason") or "FieldValueInvalid"),
        field_path=str(raw.get("fieldPath") or ""),
        optional_old_self=bool(raw.get("optionalOldSelf")),
    )
