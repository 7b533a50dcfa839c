"""Decoding as Kubernetes' servers do it: input to a clean tree of the right types.

Pure. `decode` returns a new tree (the input is never changed nor shared) in which nulls and unknown fields are gone,
empty optional lists and maps are dropped (Go's omitempty), and quantities and times are canonical. What does not fit
its type raises 400 with the words of Go's JSON decoder; unknown fields are collected, and what becomes of them is the
caller's fieldValidation.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from cluster.api import errors, meta, quantity
from cluster.api.schema import Kind, Node

# A path is a linked list, so that descending allocates one tuple and text is made only for errors.
Path = tuple[Any, Any] | None

_JSON_NAMES = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
_MAX_JUDGED = 100
_INT32 = 2**31
_INT64 = 2**63


class DecodeError(ValueError):
    """Input that cannot be read as its kind; the message is Go's."""


class WrongType(DecodeError):
    """A JSON value of another type than the field's; the innermost enclosing struct adds its name. `what` is the JSON
    type given, `type_name` the Go type wanted."""

    def __init__(self, what: str, where: str, type_name: str) -> None:
        super().__init__(what, where, type_name)
        self.what, self.where, self.type_name, self.struct = what, where, type_name, ""

    def __str__(self) -> str:
        into = f"Go struct field {self.struct}.{self.where} of type" if self.where else "Go value of type"
        return f"json: cannot unmarshal {self.what} into {into} {self.type_name}"


def path_text(path: Path) -> str:
    parts: list[Any] = []
    while path is not None:
        parts.append(path[1])
        path = path[0]
    out = ""
    for p in reversed(parts):
        out += f"[{p}]" if isinstance(p, int) else f".{p}" if out else str(p)
    return out


def _wrong(node: Node, v: Any, path: Path, literal: bool = False) -> DecodeError:
    what = _JSON_NAMES.get(type(v), type(v).__name__)
    if literal:
        what = f"number {v}"
    fields: list[str] = []
    at = path
    while at is not None:
        if isinstance(at[1], str):
            fields.append(at[1])
        at = at[0]
    return WrongType(what, ".".join(reversed(fields)), node.type_name)


def _struct(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not dict:
        raise _wrong(node, v, path)
    out: dict[str, Any] = {}
    fields = node.fields
    for k, x in v.items():
        f = fields.get(k)
        if f is None:
            unknown.append(path_text((path, k)))
            continue
        if x is None:
            continue
        kind = f.kind
        if kind is Kind.STRING and type(x) is str:
            out[k] = x
            continue
        try:
            x = _CHECKS[kind](f, x, (path, k), unknown)
        except WrongType as e:
            e.struct = e.struct or node.type_name.rpartition(".")[2]
            raise
        if (kind is Kind.LIST or kind is Kind.MAP) and not x and k not in node.required:
            continue
        out[k] = x
    return out


def _map(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not dict:
        raise _wrong(node, v, path)
    elem = node.elem
    if elem is None:
        raise RuntimeError(f"map without an element type: {node}")
    if elem.kind is Kind.STRING:
        for x in v.values():
            if type(x) is not str and x is not None:
                raise _wrong(elem, x, path)
        return {k: "" if x is None else x for k, x in v.items()}
    check = _CHECKS[elem.kind]
    return {k: check(elem, x, (path, k), unknown) for k, x in v.items() if x is not None}


def _list(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not list:
        raise _wrong(node, v, path)
    elem = node.elem
    if elem is None:
        raise RuntimeError(f"list without an element type: {node}")
    check = _CHECKS[elem.kind]
    return [check(elem, x, (path, i), unknown) for i, x in enumerate(v) if x is not None]


def _any(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    return v


def _string(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not str:
        raise _wrong(node, v, path)
    return v


def _bool(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not bool:
        raise _wrong(node, v, path)
    return v


def _int32(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not int:
        raise _wrong(node, v, path, type(v) is float)
    if not -_INT32 <= v < _INT32:
        raise _wrong(node, v, path, True)
    return v


def _int64(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not int:
        raise _wrong(node, v, path, type(v) is float)
    if not -_INT64 <= v < _INT64:
        raise _wrong(node, v, path, True)
    return v


def _float(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not int and type(v) is not float:
        raise _wrong(node, v, path)
    return v


def _quantity(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    try:
        if type(v) is str:
            return quantity.canonical(v)
        if type(v) is int or type(v) is float:
            return quantity.canonical(repr(v))
    except ValueError as e:
        raise DecodeError(str(e)) from e
    raise _wrong(node, v, path)


def _int_or_string(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is str:
        return v
    if type(v) is not int:
        raise _wrong(node, v, path)
    return _int32(node, v, path, unknown)


def _time(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not str:
        raise _wrong(node, v, path)
    if len(v) == 20 and v[19] == "Z" and v[10] == "T":
        return v
    try:
        return meta.rfc3339(meta.parse_time(v))
    except ValueError as e:
        raise DecodeError(str(e)) from e


def _micro_time(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not str:
        raise _wrong(node, v, path)
    if len(v) == 27 and v[26] == "Z" and v[10] == "T":
        return v
    try:
        return meta.rfc3339_micro(meta.parse_time(v))
    except ValueError as e:
        raise DecodeError(str(e)) from e


def _bytes(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    if type(v) is not str:
        raise _wrong(node, v, path)
    text = v.replace("\n", "").replace("\r", "")
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise DecodeError(f"illegal base64 data at input byte {_bad_base64(text)}") from e
    return text


def _schema(node: Node, v: Any, path: Path, unknown: list[str]) -> Any:
    elem = node.elem
    if elem is None:
        raise RuntimeError(f"schema without a struct: {node}")
    if type(v) is bool:
        return v
    if type(v) is list:
        return [_struct(elem, x, (path, i), unknown) for i, x in enumerate(v)]
    return _struct(elem, v, path, unknown)


def _bad_base64(text: str) -> int:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    return next((i for i, c in enumerate(body) if c not in alphabet), len(text) - len(text) % 4)


_CHECKS: tuple[Callable[[Node, Any, Path, list[str]], Any], ...] = (
    _struct, _map, _list, _any, _string, _bool, _int32, _int64, _float, _quantity, _int_or_string, _time, _micro_time,
    _bytes, _schema,
)  # fmt: skip


def prune(node: Node, value: Any) -> tuple[Any, list[str]]:
    """The clean tree and the unknown fields; raises DecodeError."""
    unknown: list[str] = []
    return _CHECKS[node.kind](node, value, None, unknown), unknown


def judged(head: str, unknown: Sequence[str], repeated: Sequence[str], validation: str) -> list[str]:
    """Warnings of unknown fields (paths) and of what was said twice (messages), each once and a hundred at most, as
    fieldValidation asks: Strict raises 400, Warn warns, Ignore and "" are silent."""
    if validation in ("", "Ignore") or not (unknown or repeated):
        return []
    every = dict.fromkeys(itertools.chain((f'unknown field "{u}"' for u in unknown), repeated))
    found = list(itertools.islice(every, _MAX_JUDGED))
    if validation == "Strict":
        raise errors.bad_request(head + "strict decoding error: " + ", ".join(found))
    return found


def decode(
    node: Node, obj: Any, version: str, kind: str, validation: str = "", repeated: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The clean object, and warnings about unknown fields and about `repeated` (what its text said twice).

    `validation` is fieldValidation: Strict, Warn or Ignore ("" is Ignore). Raises 400 when the object cannot be read.
    """
    head = f'{kind} in version "{version}" cannot be handled as a {kind}: '
    try:
        clean, unknown = prune(node, obj)
    except DecodeError as e:
        raise errors.bad_request(head + str(e)) from e
    return clean, judged(head, unknown, repeated, validation)
