"""The syntax tree of a compiled expression, read from the engine's serialized form.

Pure. The engine's binding shows no tree, but serializes cel.expr.CheckedExpr inside a protobuf Any; this reads just
the fields that cost and field checks need (cel-spec `proto/cel/expr/syntax.proto`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Const:
    value: Any


@dataclass(frozen=True, slots=True)
class Ident:
    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """`test` marks `has(operand.field)`."""

    operand: Expr
    field: str
    test: bool


@dataclass(frozen=True, slots=True)
class Call:
    """`args` begins with the target of a member call."""

    function: str
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class ListOf:
    elements: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Struct:
    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Comprehension:
    """`second`: with two variables `variable` is the index or the key, and this the item or the value; else ""."""

    variable: str
    second: str
    range: Expr
    accumulator: str
    init: Expr
    condition: Expr
    step: Expr
    result: Expr


Expr = Const | Ident | Select | Call | ListOf | Struct | Comprehension


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message; values are ints or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            size, at = _varint(data, at)
        yield number, data[at : at + size]
        at += size


def _one(data: bytes, number: int) -> bytes:
    return next((v for n, v in _fields(data) if n == number), b"")


def parse(serialized: bytes) -> Expr:
    """The tree of `Program.checked`."""
    checked = _one(serialized, 2)
    return _expr(_one(checked, 4))


def _expr(data: bytes) -> Expr:
    for number, value in _fields(data):
        make = _KINDS.get(number)
        if make is not None:
            return make(value)
    return Const(None)


def _const(data: bytes) -> Expr:
    for number, value in _fields(data):
        return Const(value.decode() if number == 6 else value)
    return Const(None)


def _ident(data: bytes) -> Expr:
    return Ident(_one(data, 1).decode())


def _select(data: bytes) -> Expr:
    found = dict(_fields(data))
    return Select(_expr(found.get(1, b"")), found.get(2, b"").decode(), bool(found.get(3)))


def _call(data: bytes) -> Expr:
    target = [_expr(v) for n, v in _fields(data) if n == 1]
    args = [_expr(v) for n, v in _fields(data) if n == 3]
    return Call(_one(data, 2).decode(), (*target, *args))


def _list(data: bytes) -> Expr:
    return ListOf(tuple(_expr(v) for n, v in _fields(data) if n == 1))


def _struct(data: bytes) -> Expr:
    entries = [v for n, v in _fields(data) if n == 2]
    return Struct(tuple(_expr(v) for e in entries for n, v in _fields(e) if n in (3, 4)))


def _comprehension(data: bytes) -> Expr:
    f = dict(_fields(data))
    parts = [_expr(f.get(n, b"")) for n in (2, 4, 5, 6, 7)]
    accumulated = f.get(3, b"").decode()
    variable, second = f.get(1, b"").decode(), f.get(8, b"").decode()
    return Comprehension(variable, second, parts[0], accumulated, parts[1], parts[2], parts[3], parts[4])


_KINDS = {3: _const, 4: _ident, 5: _select, 6: _call, 7: _list, 8: _struct, 9: _comprehension}


def names(expr: Expr) -> set[str]:
    """Every identifier that the expression mentions (comprehension variables too)."""
    if isinstance(expr, Ident):
        return {expr.name}
    return {name for child in children(expr) for name in names(child)}


def children(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Select(operand=operand):
            return (operand,)
        case Call(args=args):
            return args
        case ListOf(elements=elements):
            return elements
        case Struct(values=values):
            return values
        case Comprehension():
            return (expr.range, expr.init, expr.condition, expr.step, expr.result)
    return ()


def count(expr: Expr) -> int:
    """Nodes of the tree."""
    return 1 + sum(count(c) for c in children(expr))
