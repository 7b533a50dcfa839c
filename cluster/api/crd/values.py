"""Custom objects as CEL sees them: names escaped, formats turned into types.

Pure. A property is accessible when its name is an identifier after escaping (`a-b` is `a__dash__b`, `namespace` is
`__namespace__`); numbers of type number are doubles, strings of format date-time, date and duration are timestamps and
durations, those of format byte are bytes. Source: KEP-2876, k8s.io/apiserver `pkg/cel/common`.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from typing import Any

from cluster.api import meta
from cluster.api.cel.cost import UNKNOWN, Shape
from cluster.api.crd.formats import duration_s
from cluster.api.crd.structural import Schema

_RESERVED = frozenset(
    ("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
     "let", "loop", "package", "namespace", "return", "var", "void", "while")
)  # fmt: skip
_NAME = re.compile(r"[a-zA-Z_.\-/][a-zA-Z0-9_.\-/]*", re.ASCII)
_SYMBOLS = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_SYMBOL = re.compile(r"__|[.\-/]")
_TYPES = {
    "object": "map",
    "array": "list",
    "string": "string",
    "integer": "int",
    "number": "double",
    "boolean": "bool",
}
_FORMATS = {"date-time": "timestamp", "date": "timestamp", "duration": "duration", "byte": "bytes"}
# What a request of Kubernetes' maximal size could hold, where a schema sets no bound.
_MAX_REQUEST_BYTES = 3 * 1024 * 1024


@lru_cache(maxsize=8192)
def escape(name: str) -> str:
    """The property's name in CEL, "" when it cannot be reached."""
    if name in _RESERVED:
        return f"__{name}__"
    if _NAME.fullmatch(name) is None:
        return ""
    return _SYMBOL.sub(lambda m: _SYMBOLS[m.group()], name)


def cel_type(schema: Schema) -> str:
    """The type of `self`, as `cel.environment` takes it."""
    if schema.nullable or schema.int_or_string:
        return "dyn"
    if schema.type == "string" and schema.format in _FORMATS:
        return _FORMATS[schema.format]
    return _TYPES.get(schema.type, "dyn")


def to_cel(schema: Schema | None, value: Any) -> Any:
    """`value` for the engine; unchanged parts are shared."""
    if schema is None or value is None:
        return value
    if isinstance(value, dict):
        return _object(schema, value)
    if isinstance(value, list):
        return [to_cel(schema.items, v) for v in value]
    if schema.type == "number" and type(value) is int:
        return float(value)
    if schema.type == "integer" and type(value) is float:
        return int(value)
    if schema.type == "string" and schema.format in _FORMATS and isinstance(value, str):
        return _formatted(schema.format, value)
    return value


def _object(schema: Schema, value: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for key, item in value.items():
        sub = schema.properties.get(key)
        if sub is None:
            out[key] = to_cel(schema.additional, item)
            continue
        name = escape(key)
        if name:
            out[name] = to_cel(sub, item)
    return out


def _formatted(kind: str, text: str) -> Any:
    """Engine types travel inside data as protobuf's well-known messages."""
    from google.protobuf import duration_pb2, timestamp_pb2

    try:
        if kind == "byte":
            return base64.b64decode(text)
        if kind == "duration":
            nanos = round(duration_s(text) * 1e9)
            span = duration_pb2.Duration()
            span.FromNanoseconds(nanos)
            return span
        moment = timestamp_pb2.Timestamp()
        seconds = meta.parse_time(text if kind == "date-time" else text + "T00:00:00Z")
        moment.FromNanoseconds(round(seconds * 1e9))
        return moment
    except (ValueError, binascii.Error):
        return text  # the format's own check has refused it already


def shape(schema: Schema | None) -> Shape:
    """What the schema allows, for the estimate of costs and the check of field names."""
    if schema is None:
        return UNKNOWN
    checks = schema.checks
    if schema.type == "object":
        fields = {e: shape(s) for n, s in schema.properties.items() if (e := escape(n))}
        elem = shape(schema.additional) if schema.additional is not None else None
        return Shape(
            capacity(schema), elem, fields, closed=not schema.preserve and schema.additional is None, what="map"
        )
    if schema.type == "array":
        return Shape(capacity(schema), shape(schema.items), what="list")
    if schema.type == "string" or schema.int_or_string:
        return Shape(float(checks.get("maxLength", _longest_string(schema))), what="string")
    return UNKNOWN


def capacity(schema: Schema) -> float:
    """The most items or keys that an array or object of this schema may have."""
    if schema.type == "array":
        return float(schema.checks.get("maxItems", _fit(schema.items)))
    unbounded = _fit(schema.additional) if schema.additional is not None else len(schema.properties)
    return float(schema.checks.get("maxProperties", unbounded))


def _longest_string(schema: Schema) -> int:
    if schema.checks.get("enum"):
        return max((len(str(v)) for v in schema.checks["enum"]), default=1)
    return {"date-time": 24, "date": 10, "duration": 32}.get(schema.format, _MAX_REQUEST_BYTES)


def _fit(item: Schema | None) -> int:
    """How many items of their least size fit into a request."""
    return _MAX_REQUEST_BYTES // (least_bytes(item) + 1)


def least_bytes(schema: Schema | None) -> int:
    """The length of the shortest JSON that the schema accepts, as Kubernetes reckons it."""
    if schema is None:
        return 1
    if schema.type == "object":
        needed = [n for n in schema.required if n in schema.properties]
        return 2 + sum(len(n) + 4 + least_bytes(schema.properties[n]) for n in needed)
    if schema.type in ("array", "string"):
        return 2 + int(schema.checks.get("minLength", 0) if schema.type == "string" else 0)
    return 4 if schema.type == "boolean" else 1
