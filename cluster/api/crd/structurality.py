"""Whether a schema is structural: each place's shape is said once, outside of allOf, anyOf, oneOf and not.

Pure. Value validations may stand in those four; what describes structure (types, defaults, extensions) may not, and a
field that one of the root's four speaks of must be described outside of them, too. Source: KEP-1002 (pruning),
k8s.io/apiextensions-apiserver `pkg/apiserver/schema/validation.go` and `complete.go`.
"""

from __future__ import annotations

from typing import Any

from cluster.api.cel.library.regex import pattern
from cluster.api.validation.fields import Faults

Json = dict[str, Any]

ROOT, ITEM, FIELD = "at the root", "for specified array items", "for specified object fields"
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]
_JUNCTORS = ("allOf", "anyOf", "oneOf")
# What a junctor's schema must not say, and the words for it.
_FORBIDDEN = {
    "type": "empty",
    "additionalProperties": "undefined",
    "default": "undefined",
    "title": "empty",
    "description": "empty",
    "nullable": "false",
    "x-kubernetes-preserve-unknown-fields": "false",
    "x-kubernetes-embedded-resource": "false",
    "x-kubernetes-int-or-string": "false",
    "x-kubernetes-list-map-keys": "empty",
    "x-kubernetes-list-type": "undefined",
    "x-kubernetes-map-type": "undefined",
    "x-kubernetes-validations": "empty",
}


def validate(faults: Faults, path: str, raw: Json) -> None:
    """Add what is not structural about an openAPIV3Schema at `path`, sorted by its words."""
    found = Faults()
    _invariants(found, path, raw, ROOT)
    _junctors_complete(found, path, path, raw, raw)
    faults.causes += sorted(found.causes, key=str)


def _invariants(faults: Faults, path: str, raw: Json, level: str) -> None:
    items, additional = raw.get("items"), raw.get("additionalProperties")
    if raw.get("type") == "array" and items is None:
        faults.required(f"{path}.items", "must be specified")
    if isinstance(items, dict):
        _invariants(faults, f"{path}.items", items, ITEM)
    for name, sub in (raw.get("properties") or {}).items():
        _invariants(faults, f"{path}.properties[{name}]", sub, FIELD)
    if additional is not None and level == ROOT:
        faults.forbidden(f"{path}.additionalProperties", "must not be used at the root")
    if isinstance(additional, dict):
        _invariants(faults, f"{path}.additionalProperties", additional, FIELD)
    _extensions(faults, path, raw)
    all_of = raw.get("allOf") or [{}]
    _values(
        faults,
        path,
        raw,
        skip_any_of=raw.get("anyOf") == _INT_OR_STRING,
        skip_first=all_of[0].get("anyOf") == _INT_OR_STRING,
    )
    _type(faults, path, raw, level)
    if level == ROOT or raw.get("x-kubernetes-embedded-resource"):
        _identity(faults, path, raw)
    if level == ROOT:
        _root_metadata(faults, path, raw)


def _extensions(faults: Faults, path: str, raw: Json) -> None:
    embedded = raw.get("x-kubernetes-embedded-resource")
    if raw.get("x-kubernetes-int-or-string"):
        for key in ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"):
            if raw.get(key):
                faults.invalid(f"{path}.{key}", True, "must be false if x-kubernetes-int-or-string is true")
    if embedded and raw.get("additionalProperties") is not None:
        why = "must not be used if x-kubernetes-embedded-resource is set"
        faults.forbidden(f"{path}.additionalProperties", why)
    if embedded and not raw.get("x-kubernetes-preserve-unknown-fields") and not raw.get("properties"):
        why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"
        faults.required(f"{path}.properties", why)


def _type(faults: Faults, path: str, raw: Json, level: str) -> None:
    kind = raw.get("type") or ""
    if raw.get("x-kubernetes-embedded-resource") and kind != "object":
        why = "must be object if x-kubernetes-embedded-resource is true"
        if kind:
            faults.invalid(f"{path}.type", kind, why)
        else:
            faults.required(f"{path}.type", why)
    elif not kind and not raw.get("x-kubernetes-int-or-string") and not raw.get("x-kubernetes-preserve-unknown-fields"):
        faults.required(f"{path}.type", f"must not be empty {level}")
    if level == ROOT and kind not in ("", "object"):
        faults.invalid(f"{path}.type", kind, "must be object at the root")


def _identity(faults: Faults, path: str, raw: Json) -> None:
    """A resource's apiVersion, kind and metadata are known; a schema may repeat their types."""
    for name, wanted in (("kind", "string"), ("apiVersion", "string"), ("metadata", "object")):
        sub = (raw.get("properties") or {}).get(name)
        if sub is not None and sub.get("type") != wanted:
            faults.invalid(f"{path}.properties[{name}].type", sub.get("type") or "", f"must be {wanted}")


def _root_metadata(faults: Faults, path: str, raw: Json) -> None:
    metadata = (raw.get("properties") or {}).get("metadata")
    if metadata is None:
        return
    said = {k for k, v in metadata.items() if v not in (None, "", {}, [], False)} - {"type", "properties", "default"}
    if said or set(metadata.get("properties") or ()) - {"name", "generateName"}:
        why = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        faults.forbidden(f"{path}.properties[metadata]", why)


def _values(faults: Faults, path: str, raw: Json, *, skip_any_of: bool = False, skip_first: bool = False) -> None:
    for key in _JUNCTORS:
        if key == "anyOf" and skip_any_of:
            continue
        for i, sub in enumerate(raw.get(key) or ()):
            _nested(faults, f"{path}.{key}[{i}]", sub, skip_any_of=skip_first and key == "allOf" and i == 0)
    if raw.get("not") is not None:
        _nested(faults, f"{path}.not", raw["not"])
    if raw.get("pattern"):
        try:
            pattern(raw["pattern"])
        except ValueError as e:
            why = f"must be a valid regular expression, but isn't: error parsing regexp: {e}"
            faults.invalid(f"{path}.pattern", raw["pattern"], why)


def _nested(faults: Faults, path: str, raw: Json, *, skip_any_of: bool = False) -> None:
    _values(faults, path, raw, skip_any_of=skip_any_of)
    if isinstance(raw.get("items"), dict):
        _nested(faults, f"{path}.items", raw["items"])
    for name, sub in (raw.get("properties") or {}).items():
        _nested(faults, f"{path}.properties[{name}]", sub)
    for key, wanted in _FORBIDDEN.items():
        said = raw.get(key)
        if said or (said is not None and wanted == "undefined"):
            faults.forbidden(f"{path}.{key}", f"must be {wanted} to be structural")
    if "metadata" in (raw.get("properties") or {}):
        faults.forbidden(f"{path}.properties[metadata]", "must not be specified in a nested context")


def _junctors_complete(faults: Faults, path: str, said_at: str, raw: Json, place: Json) -> None:
    """`raw` is a schema with junctors, `place` the structure it speaks of, at `path`."""
    inner = [(f"{said_at}.{key}[{i}]", sub) for key in _JUNCTORS for i, sub in enumerate(raw.get(key) or ())]
    if raw.get("not") is not None:
        inner.append((f"{said_at}.not", raw["not"]))
    for at, sub in inner:
        _complete(faults, path, at, sub, place)


def _complete(faults: Faults, path: str, said_at: str, raw: Json, place: Json | None) -> None:
    if place is None:
        faults.required(path, f"because it is defined in {said_at}")
        return
    _junctors_complete(faults, path, said_at, raw, place)
    if isinstance(raw.get("items"), dict):
        items = place.get("items")
        inner = items if isinstance(items, dict) else None
        _complete(faults, f"{path}.items", f"{said_at}.items", raw["items"], inner)
    known = place.get("properties") or {}
    for name, sub in (raw.get("properties") or {}).items():
        _complete(faults, f"{path}.properties[{name}]", f"{said_at}.properties[{name}]", sub, known.get(name))
