"""Reads Kubernetes' protobuf bodies: from wire bytes to the object as JSON would have it. Pure, but for its table.

kubectl and client-go send protobuf where they know the type (`create configmap`, `auth can-i`, evictions) and do not
fall back, so it must be read; answers are JSON, which they accept. `protobuf_fields.json` holds field numbers, names
and types as Kubernetes' Go structs state them (made by tests/support/make_protobuf_fields.py). A type is written as

    s string  b bool  i integer  f double  y bytes  t Time  u MicroTime  d Duration  q Quantity  o IntOrString
    r raw JSON  x list in a message  a schema or list of them  p schema or boolean  e schema or strings
    @name message  [T list  {T string map  *T pointer  ^T embedded  !T always shown

Invariant: what Go leaves out of JSON is left out: a zero scalar counts as absent unless it is a pointer or marked !.

Source: k8s.io/apimachinery pkg/runtime/serializer/protobuf (envelope), protobuf encoding specification.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson

from cluster.api.meta import rfc3339_micro

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_MAX_DEPTH = 64
_ABSENT = object()

Object = dict[str, Any]
Value = int | bytes
Parse = Callable[[Value, int], Any]


class BadProtobuf(ValueError):
    """The bytes are not what they claim to be."""


def decode_object(raw: bytes) -> Object:
    """An enveloped object. Raises BadProtobuf."""
    if not raw.startswith(_MAGIC):
        raise BadProtobuf("the body does not start with Kubernetes' protobuf prefix")
    api_version, kind, body = "", "", b""
    for number, value in _fields(raw[len(_MAGIC) :]):
        if number == 1:
            for inner, text in _fields(_bytes(value)):
                if inner == 1:
                    api_version = _string(text, 0)
                elif inner == 2:
                    kind = _string(text, 0)
        elif number == 2:
            body = _bytes(value)
    message = _message_name(api_version, kind)
    if message not in _table():
        raise BadProtobuf(f'no kind "{kind}" is known for version "{api_version}"')
    return {"kind": kind, "apiVersion": api_version, **_message(message, body, 0)}


def _message_name(api_version: str, kind: str) -> str:
    if kind == "DeleteOptions":
        return "meta.v1.DeleteOptions"
    group, _, version = api_version.rpartition("/")
    return f"{group.partition('.')[0] or 'core'}.{version}.{kind}"


# --- wire format ----------------------------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise BadProtobuf("truncated or overlong varint")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """(field number, integer or bytes) in wire order; fixed-width values come as their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        value: Value
        if wire == 0:
            value, at = _varint(data, at)
        else:
            if wire == 2:
                size, at = _varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise BadProtobuf(f"wire type {wire} is not used by Kubernetes")
            if at + size > len(data):
                raise BadProtobuf("truncated field")
            value = data[at : at + size]
            at += size
        yield number, value


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise BadProtobuf("a number where bytes belong")
    return value


def _int(value: Value, depth: int) -> int:
    if not isinstance(value, int):
        raise BadProtobuf("bytes where a number belongs")
    return value - (1 << 64) if value >= 1 << 63 else value


def _string(value: Value, depth: int) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError as e:
        raise BadProtobuf("a string is not UTF-8") from e


# --- values ---------------------------------------------------------------------------------------------------------


def _double(value: Value, depth: int) -> float:
    data = _bytes(value)
    if len(data) != 8:
        raise BadProtobuf("a double has 8 bytes")
    number = float(struct.unpack("<d", data)[0])
    return int(number) if number.is_integer() else number  # as Go writes it in JSON


def _seconds_nanos(value: Value) -> tuple[int, int]:
    found = {number: _int(v, 0) for number, v in _fields(_bytes(value))}
    return found.get(1, 0), found.get(2, 0)


def _time(value: Value, depth: int) -> Any:
    if not value:
        return _ABSENT
    seconds, _ = _seconds_nanos(value)
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError) as e:
        raise BadProtobuf("a time is out of range") from e


def _micro_time(value: Value, depth: int) -> Any:
    if not value:
        return _ABSENT
    seconds, nanos = _seconds_nanos(value)
    try:
        return rfc3339_micro(seconds + nanos / 1e9)
    except (OverflowError, ValueError, OSError) as e:
        raise BadProtobuf("a time is out of range") from e


def _duration(value: Value, depth: int) -> str:
    nanos = next((_int(v, 0) for number, v in _fields(_bytes(value)) if number == 1), 0)
    return f"{nanos / 1e9:g}s"


def _quantity(value: Value, depth: int) -> str:
    return next((_string(v, 0) for number, v in _fields(_bytes(value)) if number == 1), "0") or "0"


def _int_or_string(value: Value, depth: int) -> int | str:
    found = dict(_fields(_bytes(value)))
    if _int(found.get(1, 0), 0) == 1:
        return _string(found.get(3, b""), 0)
    return _int(found.get(2, 0), 0)


def _raw(value: Value, depth: int) -> Any:
    body = next((_bytes(v) for number, v in _fields(_bytes(value)) if number == 1), b"")
    if not body:
        return _ABSENT
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadProtobuf("embedded JSON cannot be read") from e


def _items(value: Value, depth: int) -> list[str]:
    return [_string(v, 0) for number, v in _fields(_bytes(value)) if number == 1]


# A JSON schema says `items`, `additionalProperties` and `dependencies` in either of two forms.
_SCHEMA = "apiextensions.v1.JSONSchemaProps"


def _schema(value: Value, depth: int) -> Any:
    return _message(_SCHEMA, _bytes(value), depth + 1)


def _schema_or_list(value: Value, depth: int) -> Any:
    fields = list(_fields(_bytes(value)))
    many = [_schema(v, depth) for number, v in fields if number == 2]
    one = [_schema(v, depth) for number, v in fields if number == 1]
    return many or (one[0] if one else None)


def _schema_or_bool(value: Value, depth: int) -> Any:
    found = dict(_fields(_bytes(value)))
    return _schema(found[2], depth) if 2 in found else _bool(found.get(1, 0), depth)


def _schema_or_strings(value: Value, depth: int) -> Any:
    fields = list(_fields(_bytes(value)))
    many = [_string(v, depth) for number, v in fields if number == 2]
    one = [_schema(v, depth) for number, v in fields if number == 1]
    return many or (one[0] if one else None)


def _base64(value: Value, depth: int) -> str:
    return base64.b64encode(_bytes(value)).decode()


def _bool(value: Value, depth: int) -> bool:
    return bool(_int(value, depth))


_SCALARS: dict[str, Parse] = {
    "s": _string,
    "b": _bool,
    "i": _int,
    "f": _double,
    "y": _base64,
    "t": _time,
    "u": _micro_time,
    "d": _duration,
    "q": _quantity,
    "o": _int_or_string,
    "r": _raw,
    "x": _items,
    "a": _schema_or_list,
    "p": _schema_or_bool,
    "e": _schema_or_strings,
}


# --- messages -------------------------------------------------------------------------------------------------------


class _Field:
    """One field of a message, ready to read."""

    __slots__ = ("embedded", "keep_zero", "mapped", "name", "parse", "repeated")

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.embedded = kind.startswith("^")
        self.keep_zero = kind.startswith("!")
        kind = kind.lstrip("^!")
        if kind.startswith("*"):
            self.keep_zero, kind = True, kind[1:]
        self.repeated, self.mapped = kind.startswith("["), kind.startswith("{")
        if self.repeated or self.mapped:
            kind = kind[1:].removeprefix("*")
        self.parse = _parser("x" if kind.startswith("[") else kind)


def _parser(kind: str) -> Parse:
    if kind.startswith("@"):
        name = kind[1:]
        return lambda value, depth: _message(name, _bytes(value), depth + 1)
    return _SCALARS[kind]


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, list[str]]]:
    table: dict[str, dict[str, list[str]]] = orjson.loads(
        files("cluster.apiserver").joinpath("protobuf_fields.json").read_bytes()
    )
    return table


@lru_cache(maxsize=1024)
def _compiled(name: str) -> dict[int, _Field]:
    return {int(number): _Field(*field) for number, field in _table()[name].items()}


def _message(name: str, data: bytes, depth: int) -> Object:
    if depth > _MAX_DEPTH:
        raise BadProtobuf("messages are nested too deeply")
    known = _compiled(name)
    out: Object = {}
    for number, raw in _fields(data):
        field = known.get(number)
        if field is None:
            continue
        if field.mapped:
            key, value = _entry(field, raw, depth)
            out.setdefault(field.name, {})[key] = value
            continue
        value = field.parse(raw, depth)
        if value is _ABSENT:
            continue
        if field.repeated:
            out.setdefault(field.name, []).append(value)
        elif field.embedded:
            out.update(value)
        elif field.keep_zero or value not in ("", 0, False):
            out[field.name] = value
    return out


def _entry(field: _Field, raw: Value, depth: int) -> tuple[str, Any]:
    """A map's entry; a value that is not on the wire is the type's zero."""
    found = dict(_fields(_bytes(raw)))
    key = _string(found.get(1, b""), depth)
    try:
        value = field.parse(found.get(2, b""), depth)
    except BadProtobuf:
        value = field.parse(found.get(2, 0), depth)
    return key, None if value is _ABSENT else value
