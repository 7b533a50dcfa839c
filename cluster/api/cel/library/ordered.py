"""Quantities and semantic versions: what they are made of, and how they compare.

Pure. One module for two libraries of Kubernetes, because their comparisons are the same functions to the engine, to
which both are maps. Source: k8s.io/apiserver `pkg/cel/library/{quantity,semverlib}.go`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from cluster.api import quantity
from cluster.api.cel.library.declaring import Declarations
from cluster.api.cel.library.values import Value, tagged

_QUANTITY, _SEMVER = "kubernetes.Quantity", "kubernetes.Semver"
_SEMVER_RE = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?", re.ASCII
)


def _quantity(value: Fraction) -> Value:
    return {_QUANTITY: f"{value.numerator}/{value.denominator}"}


def _number(q: Value) -> Fraction:
    return Fraction(tagged(q, _QUANTITY))


def _as_integer(q: Value) -> int:
    n = _number(q)
    if n.denominator != 1 or not -(2**63) <= n < 2**63:
        raise ValueError("cannot convert value to integer")
    return int(n)


def _semver(text: str) -> tuple[Any, ...]:
    """Comparable; raises ValueError. A pre-release sorts before its release (semver.org, section 11)."""
    m = _SEMVER_RE.fullmatch(text)
    if m is None:
        raise ValueError(f"invalid semver: {text}")
    pre = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in (m.group(4) or "").split(".") if p)
    return (int(m.group(1)), int(m.group(2)), int(m.group(3)), not pre, pre)


def _order(a: Value, b: Value) -> int:
    """-1, 0 or 1 for two quantities or two versions."""
    if _QUANTITY in a:
        x: Any = _number(a)
        y: Any = _number(b)
    else:
        x, y = _semver(tagged(a, _SEMVER)), _semver(tagged(b, _SEMVER))
    return int(x > y) - int(x < y)


def declare(to: Declarations) -> None:
    """quantity and semver with their functions, and the comparisons of both."""
    _declare_quantities(to)
    to.constructor("semver", _SEMVER, _semver)
    to.predicate("isSemver", _semver)
    for i, part in enumerate(("major", "minor", "patch")):
        to.method(part, [to.value], to.integer, lambda v, i=i: _semver(tagged(v, _SEMVER))[i])
    two = [to.value, to.value]
    to.method("compareTo", two, to.integer, _order)
    to.method("isLessThan", two, to.boolean, lambda a, b: _order(a, b) < 0)
    to.method("isGreaterThan", two, to.boolean, lambda a, b: _order(a, b) > 0)


def _declare_quantities(to: Declarations) -> None:
    to.function("quantity", [to.text], to.value, lambda s: _quantity(quantity.parse_quantity(s)))
    to.predicate("isQuantity", quantity.parse_quantity)
    to.method("isInteger", [to.value], to.boolean, lambda q: _number(q).denominator == 1)
    to.method("asInteger", [to.value], to.integer, _as_integer)
    to.method("asApproximateFloat", [to.value], to.double, lambda q: float(_number(q)))
    to.method("sign", [to.value], to.integer, lambda q: (_number(q) > 0) - (_number(q) < 0))
    to.method("add", [to.value, to.value], to.value, lambda a, b: _quantity(_number(a) + _number(b)))
    to.method("add", [to.value, to.integer], to.value, lambda a, b: _quantity(_number(a) + b))
    to.method("sub", [to.value, to.value], to.value, lambda a, b: _quantity(_number(a) - _number(b)))
    to.method("sub", [to.value, to.integer], to.value, lambda a, b: _quantity(_number(a) - b))
