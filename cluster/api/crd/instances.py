"""What a schema refuses about a custom object: causes with paths and Kubernetes' words.

Pure. On an update, faults below a value that did not change are forgiven (ratcheting, KEP-4008): an object that was
stored under an older schema can still be changed elsewhere. Items of list-maps are compared by their keys, those of
other lists by nothing, so only a whole list can be unchanged.
"""

from __future__ import annotations

from typing import Any

import orjson

from cluster.api.cel.library.regex import pattern
from cluster.api.crd import formats
from cluster.api.crd.structural import MISSING, Schema
from cluster.api.errors import Cause
from cluster.api.validation.fields import Faults

Json = dict[str, Any]


def validate(schema: Schema, obj: Json, old: Json | None = None) -> list[Cause]:
    """Causes for an object; of its metadata the schema judges the name alone."""
    faults = Faults()
    for field in ("apiVersion", "kind"):
        if field in schema.properties and field in obj:
            _value(faults, field, schema.properties[field], obj[field], MISSING)
    _identity(faults, schema, obj.get("metadata") or {}, old)
    before = MISSING if old is None else _content(old)
    _value(faults, "", schema, _content(obj), before, root=True)
    return faults.causes


def of_value(schema: Schema, value: Any, old: Any) -> list[Cause]:
    """Causes of one value by itself, whose place is ""."""
    faults = Faults()
    _value(faults, "", schema, value, old)
    return faults.causes


def _identity(faults: Faults, schema: Schema, metadata: Json, old: Json | None) -> None:
    """Of the metadata, a schema may restrict the name and the prefix of generated names."""
    known = schema.properties.get("metadata")
    if known is None or old is not None:
        return
    for field in ("name", "generateName"):
        sub = known.properties.get(field)
        if sub is not None and metadata.get(field):
            _value(faults, f"metadata.{field}", sub, metadata[field], MISSING)


def _content(obj: Json) -> Json:
    return {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")}


def type_of(value: Any) -> str:
    """JSON schema's word for a value; whole numbers are integers however they are written."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _value(faults: Faults, path: str, schema: Schema, value: Any, old: Any, *, root: bool = False) -> None:
    if not root and old is not MISSING and (value == old or _reordered(schema, value, old)):
        return
    if value is None and (schema.nullable or not (schema.type or schema.int_or_string)):
        return
    if not _type(faults, path, schema, value):
        return
    if isinstance(value, dict):
        _object(faults, path, schema, value, old, root=root)
    elif isinstance(value, list):
        _list(faults, path, schema, value, old)
    elif isinstance(value, str):
        _string(faults, path, schema, value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _number(faults, path, schema, value)
    if schema.checks:
        _combined(faults, path, schema, value)


def _reordered(schema: Schema, value: Any, old: Any) -> bool:
    """Whether a list of type map has the items that it had, in another order."""
    if schema.list_type != "map" or not isinstance(value, list) or not isinstance(old, list) or len(value) != len(old):
        return False
    before = old_items(schema, old)
    return len(before) == len(old) and all(before.get(key_of(schema, i) or "", MISSING) == i for i in value)


def _type(faults: Faults, path: str, schema: Schema, value: Any) -> bool:
    kind = type_of(value)
    if schema.int_or_string:
        fits, wanted = kind in ("integer", "string"), "integer,string"
    elif not schema.type:
        return True
    else:
        fits = kind == schema.type or (schema.type == "number" and kind == "integer")
        wanted = schema.type
    if not fits:
        _wrong_type(faults, path, kind, wanted, kind)
    return fits


def _wrong_type(faults: Faults, path: str, value: Any, wanted: str, shown: str) -> None:
    text = orjson.dumps(value).decode()
    why = f'{_in_body(path)} must be of type {wanted}: "{shown}"'
    faults.causes.append(Cause("FieldValueTypeInvalid", f"Invalid value: {text}: {why}", path or "<nil>"))


def _in_body(path: str) -> str:
    return f"{path} in body" if path else " in body"


def _object(faults: Faults, path: str, schema: Schema, value: Json, old: Any, *, root: bool) -> None:
    checks, before = schema.checks, old if isinstance(old, dict) else {}
    for name in schema.required:
        if name not in value and not ((root or schema.embedded) and name in ("apiVersion", "kind", "metadata")):
            faults.required(_join(path, name))
    if "minProperties" in checks and len(value) < checks["minProperties"]:
        n = checks["minProperties"]
        faults.invalid(path, _shown(value), f"{_in_body(path)} should have at least {n} properties")
    if "maxProperties" in checks and len(value) > checks["maxProperties"]:
        faults.too_many(path, len(value), checks["maxProperties"])
    for key, item in value.items():
        sub = schema.child(key)
        if sub is not None and not (schema.embedded and key == "metadata"):
            _value(faults, _join(path, key), sub, item, before.get(key, MISSING))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: Any) -> Any:
    """Objects and arrays are named, not printed."""
    return type_of(value) if isinstance(value, dict | list) else value


def key_of(schema: Schema, item: Any) -> str | None:
    """An item's identity in a list of type map (or set); None when it has none."""
    if schema.list_type == "set":
        return orjson.dumps(item).decode()
    if schema.list_type != "map" or not isinstance(item, dict):
        return None
    return orjson.dumps([item.get(k) for k in schema.list_keys]).decode()


def old_items(schema: Schema, old: Any) -> dict[str, Any]:
    """Items of the old list by identity."""
    if not isinstance(old, list) or schema.list_type != "map":
        return {}
    return {k: i for i in old if (k := key_of(schema, i)) is not None}


def _list(faults: Faults, path: str, schema: Schema, value: list[Any], old: Any) -> None:
    checks = schema.checks
    if "minItems" in checks and len(value) < checks["minItems"]:
        n = checks["minItems"]
        faults.invalid(path, len(value), f"{_in_body(path)} should have at least {n} items")
    if "maxItems" in checks and len(value) > checks["maxItems"]:
        faults.too_many(path, len(value), checks["maxItems"])
    if schema.items is None:
        return
    before = old_items(schema, old)
    for i, item in enumerate(value):
        key = key_of(schema, item) if before else None
        _value(faults, f"{path}[{i}]", schema.items, item, before.get(key, MISSING) if key else MISSING)


def _string(faults: Faults, path: str, schema: Schema, value: str) -> None:
    checks = schema.checks
    if "maxLength" in checks and len(value) > checks["maxLength"]:
        faults.too_long(path, checks["maxLength"])
    if "minLength" in checks and len(value) < checks["minLength"]:
        n = checks["minLength"]
        faults.invalid(path, value, f"{_in_body(path)} should be at least {n} chars long")
    if "pattern" in checks and pattern(checks["pattern"]).search(value) is None:
        faults.invalid(path, value, f"{_in_body(path)} should match '{checks['pattern']}'")
    if schema.format and not formats.matches(schema.format, value):
        _wrong_type(faults, path, value, schema.format, value)


def _number(faults: Faults, path: str, schema: Schema, value: float) -> None:
    checks = schema.checks
    low, high = checks.get("minimum"), checks.get("maximum")
    body = _in_body(path)
    if low is not None and (value < low or (checks.get("exclusiveMinimum") and value == low)):
        than = "should be greater than" if checks.get("exclusiveMinimum") else "should be greater than or equal to"
        faults.invalid(path, value, f"{body} {than} {low:g}")
    if high is not None and (value > high or (checks.get("exclusiveMaximum") and value == high)):
        than = "should be less than" if checks.get("exclusiveMaximum") else "should be less than or equal to"
        faults.invalid(path, value, f"{body} {than} {high:g}")
    multiple = checks.get("multipleOf")
    if multiple and abs(value / multiple - round(value / multiple)) > 1e-9:
        faults.invalid(path, value, f"{body} should be a multiple of {multiple:g}")
    limit = {"int32": 2**31, "int64": 2**63}.get(schema.format)
    if limit and not -limit <= value < limit:
        faults.invalid(path, value, f"{body} must be of type {schema.format}: {value:g}")


def _combined(faults: Faults, path: str, schema: Schema, value: Any) -> None:
    """enum, and schemas that only validate: allOf, anyOf, oneOf, not."""
    checks = schema.checks
    if "enum" in checks and value not in checks["enum"]:
        listed = ", ".join(orjson.dumps(o).decode() for o in checks["enum"])
        message = f"Unsupported value: {orjson.dumps(value).decode()}: supported values: {listed}"
        faults.causes.append(Cause("FieldValueNotSupported", message, path))
    for sub in checks.get("allOf") or ():
        faults.causes.extend(_against(path, sub, value))
    where = f'"{path}"' if path else '""'
    if checks.get("anyOf") and not any(not _against(path, s, value) for s in checks["anyOf"]):
        _none(faults, path, f"{where} must validate at least one schema (anyOf)")
        faults.causes.extend(_closest(path, checks["anyOf"], value))
    if checks.get("oneOf"):
        valid = sum(not _against(path, s, value) for s in checks["oneOf"])
        if valid != 1:
            found = f"Found {valid} valid alternatives" if valid else "Found none valid"
            _none(faults, path, f"{where} must validate one and only one schema (oneOf). {found}")
        if not valid:
            faults.causes.extend(_closest(path, checks["oneOf"], value))
    if checks.get("not") is not None and not _against(path, checks["not"], value):
        _none(faults, path, f"{where} must not validate the schema (not)")


def _none(faults: Faults, path: str, why: str) -> None:
    faults.causes.append(Cause("FieldValueInvalid", f'Invalid value: "": {why}', path or "<nil>"))


def _against(path: str, schema: Schema, value: Any) -> list[Cause]:
    faults = Faults()
    _value(faults, path, schema, value, MISSING)
    return faults.causes


def _closest(path: str, subs: list[Schema], value: Any) -> list[Cause]:
    """Faults of the alternative that has the fewest: most likely the one that was meant."""
    return min((_against(path, s, value) for s in subs), key=len)
