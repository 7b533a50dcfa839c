"""What an expression may cost, in CEL's units, for data of known shape; and which fields it names that are not there.

Pure. The engine neither counts nor stops, so cost is bounded before it runs, from the tree and from sizes: those that
a schema allows (when a rule is accepted) or those of the data at hand (before each evaluation). The unit prices are
cel-go's `checker/cost.go`: 1 for an access or a call, 0.1 per character looked at, 10 for a list made, 30 for a map.
A bound is what the worst path costs, so it is at least what Kubernetes counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.api.cel.portable import INDEX, LAST_INDEX, MERGED
from cluster.api.cel.syntax import Call, Comprehension, Const, Expr, Ident, ListOf, Select, Struct, children

_LIST, _MAP = 10, 30
_PER_CHAR, _REGEX = 0.1, 0.25


@dataclass(slots=True)
class Shape:
    """`size`: the most characters, items or keys; `elem`: of lists and maps; `fields`: of objects, all of them if
    `closed`."""

    size: float = 1.0
    elem: Shape | None = None
    fields: dict[str, Shape] = field(default_factory=dict)
    closed: bool = False
    what: str = "dyn"


UNKNOWN = Shape()


def shape_of(value: Any) -> Shape:
    """The shape of data: of items and values, the largest of each."""
    if isinstance(value, str | bytes):
        return Shape(float(len(value)), what="string")
    if isinstance(value, list):
        return Shape(float(len(value)), _largest([shape_of(v) for v in value]), what="list")
    if isinstance(value, Mapping):
        fields = {str(k): shape_of(v) for k, v in value.items()}
        return Shape(float(len(value)), _largest(list(fields.values())), fields, what="map")
    return UNKNOWN


def _largest(shapes: list[Shape]) -> Shape | None:
    if not shapes:
        return None
    if len(shapes) == 1:
        return shapes[0]
    names = dict.fromkeys(n for s in shapes for n in s.fields)
    fields = {n: _largest([s.fields[n] for s in shapes if n in s.fields]) or UNKNOWN for n in names}
    elem = _largest([s.elem for s in shapes if s.elem is not None])
    return Shape(max(s.size for s in shapes), elem, fields, all(s.closed for s in shapes), shapes[0].what)


def loops(expr: Expr) -> int:
    """How deep comprehensions nest; 0 costs little whatever the data."""
    below = max((loops(c) for c in children(expr)), default=0)
    return below + 1 if isinstance(expr, Comprehension) else below


@dataclass(slots=True)
class Estimate:
    """`undefined`: fields selected from objects that have no such field, in order."""

    cost: float
    undefined: list[str]


def estimate(expr: Expr, variables: Mapping[str, Shape]) -> Estimate:
    undefined: list[str] = []
    cost, _ = _visit(expr, dict(variables), undefined)
    return Estimate(cost, undefined)


Scope = dict[str, Shape]


def _visit(expr: Expr, scope: Scope, undefined: list[str]) -> tuple[float, Shape]:
    match expr:
        case Const(value=value):
            return 0.0, Shape(float(len(value)), what="string") if isinstance(value, str | bytes) else UNKNOWN
        case Ident(name=name):
            return 1.0, scope.get(name, UNKNOWN)
        case Select():
            return _select(expr, scope, undefined)
        case ListOf(elements=elements):
            parts = [_visit(e, scope, undefined) for e in elements]
            elem = _largest([s for _, s in parts])
            return _LIST + sum(c for c, _ in parts), Shape(float(len(parts)), elem, what="list")
        case Struct(values=values):
            parts = [_visit(v, scope, undefined) for v in values]
            return _MAP + sum(c for c, _ in parts), Shape(len(parts) / 2, what="map")
        case Comprehension():
            return _comprehension(expr, scope, undefined)
        case Call():
            return _call(expr, scope, undefined)


def _select(expr: Select, scope: Scope, undefined: list[str]) -> tuple[float, Shape]:
    cost, shape = _visit(expr.operand, scope, undefined)
    found = shape.fields.get(expr.field)
    if found is None and shape.closed:
        undefined.append(expr.field)
    if expr.test:
        return cost + 1, UNKNOWN
    return cost + 1, found or shape.elem or UNKNOWN


def _comprehension(expr: Comprehension, scope: Scope, undefined: list[str]) -> tuple[float, Shape]:
    range_cost, over = _visit(expr.range, scope, undefined)
    # Iterating an object is iterating its keys.
    key = Shape(_key_size(over), what="string") if over.what == "map" else UNKNOWN
    value = over.elem or UNKNOWN
    items = {expr.variable: key if expr.second or over.what == "map" else value}
    if expr.second:
        items[expr.second] = value
    init_cost, start = _visit(expr.init, scope, undefined)
    inner = {**scope, **items, expr.accumulator: start}
    condition, _ = _visit(expr.condition, inner, undefined)
    step, made = _visit(expr.step, inner, undefined)
    if start.what == "list":  # map and filter collect what the step adds
        inner[expr.accumulator] = Shape(over.size, made.elem, what="list")
    result_cost, result = _visit(expr.result, {**scope, expr.accumulator: inner[expr.accumulator]}, undefined)
    return range_cost + init_cost + over.size * (condition + step + 1) + result_cost, result


def _key_size(shape: Shape) -> float:
    return max((len(k) for k in shape.fields), default=64.0)


_PREFIXES = frozenset(("startsWith", "endsWith"))
_SCANS = frozenset(
    ("contains", "indexOf", "lastIndexOf", "replace", "split", "substring", "trim", "lowerAscii", "upperAscii", "join",
     "format", "url", "isURL", "quantity", "isQuantity", "ip", "isIP", "cidr", "isCIDR", "semver", "isSemver",
     INDEX, LAST_INDEX, MERGED, "validate", "reverse",
     "string", "bytes", "timestamp", "duration", "sort", "distinct", "isSorted", "sum", "min", "max")
)  # fmt: skip
_EQUALITY = frozenset(("_==_", "_!=_"))
_CHECKS = 350_000  # what Kubernetes charges for one question to the authorizer


def _call(expr: Call, scope: Scope, undefined: list[str]) -> tuple[float, Shape]:
    parts = [_visit(a, scope, undefined) for a in expr.args]
    costs, shapes = [c for c, _ in parts], [s for _, s in parts]
    name = expr.function
    if name == "_?_:_":
        return costs[0] + max(costs[1], costs[2]), _largest(shapes[1:]) or UNKNOWN
    total = sum(costs)
    if name in ("_[_]", "_[?_]", "_?._"):
        return total + 1, _indexed(expr, shapes)
    if name in ("_&&_", "_||_", "!_", "@not_strictly_false"):
        return total, UNKNOWN
    if name == "_+_":
        size = sum(s.size for s in shapes)
        elem = _largest([s.elem for s in shapes if s.elem is not None])
        return total + 1 + _PER_CHAR * size, Shape(size, elem, what=shapes[0].what)
    if name in _EQUALITY:
        return total + 1 + _PER_CHAR * min(s.size for s in shapes), UNKNOWN
    if name == "@in":
        return total + 1 + shapes[1].size, UNKNOWN
    if name in ("matches", "find", "findAll"):
        work = max(1.0, _PER_CHAR * (shapes[0].size + 1)) * max(1.0, _REGEX * shapes[1].size)
        return total + work, Shape(shapes[0].size, Shape(shapes[0].size), what="string")
    if name == "check":
        return total + _CHECKS, UNKNOWN
    if name.startswith("sets."):
        return total + 1 + shapes[0].size * shapes[1].size, UNKNOWN
    if name in _PREFIXES:
        return total + 1 + _PER_CHAR * shapes[1].size, UNKNOWN
    if name in _SCANS:
        return total + 1 + _PER_CHAR * sum(s.size for s in shapes), shapes[0] if shapes else UNKNOWN
    return total + 1, shapes[0] if name in ("optional.of", "orValue", "value", "dyn") and shapes else UNKNOWN


def _indexed(expr: Call, shapes: list[Shape]) -> Shape:
    key = expr.args[1]
    if isinstance(key, Const) and isinstance(key.value, str) and key.value in shapes[0].fields:
        return shapes[0].fields[key.value]
    return shapes[0].elem or UNKNOWN
