"""Quantities: `500m`, `1.5Gi`, `2e3`, and their canonical form.

Pure. Values are exact `Fraction`s. The canonical form is Kubernetes' (k8s.io/apimachinery `api/resource`): the mantissa
is an integer, the suffix as large as possible, the family (binary, decimal, exponent) that of the input; nothing finer
than nano survives. Results are memoised, since a cluster uses few distinct quantities.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal

Format = Literal["DecimalSI", "BinarySI", "DecimalExponent"]

PATTERN_MESSAGE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_RE = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E)|[eE]([+-]?\d+))?", re.ASCII)
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_BINARY_OF = {v: k for k, v in _BINARY.items()} | {0: ""}
_DECIMAL_OF = {v: k for k, v in _DECIMAL.items()}
_MAX = Fraction(2**63 - 1)
_MAX_CHARACTERS = 4096


@lru_cache(maxsize=8192)
def _parse_text(text: str) -> tuple[Fraction, Format]:
    m = _RE.fullmatch(text.strip()) if len(text) <= _MAX_CHARACTERS else None
    if m is None:
        raise ValueError(PATTERN_MESSAGE)
    sign, number, suffix, exponent = m.groups()
    value = Fraction(number if not number.startswith(".") else "0" + number)
    fmt: Format = "DecimalSI"
    if suffix in _BINARY:
        value *= 1024 ** _BINARY[suffix]
        fmt = "BinarySI"
    elif suffix:
        value *= Fraction(1000) ** _DECIMAL[suffix]
    elif exponent:
        if abs(int(exponent)) > 32:
            raise ValueError("unable to parse quantity's suffix")
        value *= Fraction(10) ** int(exponent)
        fmt = "DecimalExponent"
    value = min(_MAX, _ceil_to_nano(value))
    return (-value if sign == "-" else value), fmt


def _ceil_to_nano(value: Fraction) -> Fraction:
    scaled = value * 10**9
    return value if scaled.denominator == 1 else Fraction(-((-scaled.numerator) // scaled.denominator), 10**9)


def parse_quantity(v: str | int | float) -> Fraction:
    """Raises ValueError with Kubernetes' message."""
    if type(v) is int:
        return Fraction(v)
    return _parse_text(v if isinstance(v, str) else repr(v))[0]


def millis(v: str | int | float) -> int:
    """In thousandths, rounded up: the unit for cpu."""
    return -((-parse_quantity(v) * 1000).__floor__())


def units(v: str | int | float) -> int:
    """In whole units, rounded up: bytes for memory and storage."""
    return -((-parse_quantity(v)).__floor__())


def format_quantity(value: Fraction | int, fmt: Format = "DecimalSI") -> str:
    """Canonical text of `value` in the family `fmt`."""
    value = Fraction(value)
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    value = abs(value)
    if fmt == "BinarySI" and (value < 1024 or value.denominator != 1):
        fmt = "DecimalSI" if value.denominator != 1 or value < 1024 else fmt
    if fmt == "BinarySI":
        n, power = value.numerator, 0
        while n % 1024 == 0 and power < 6:
            n, power = n // 1024, power + 1
        return f"{sign}{n}{_BINARY_OF[power]}"
    scaled = _ceil_to_nano(value) * 10**9
    n, power = scaled.numerator, -3
    while n % 1000 == 0 and power < 6:
        n, power = n // 1000, power + 1
    if fmt == "DecimalExponent":
        return f"{sign}{n}e{power * 3}" if power else f"{sign}{n}"
    return f"{sign}{n}{_DECIMAL_OF[power]}"


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """The form in which the API serves a quantity: `0.5` is `500m`, `1024Mi` is `1Gi`."""
    value, fmt = _parse_text(text)
    return format_quantity(value, fmt)


@lru_cache(maxsize=8192)
def add(a: str, b: str, sign: int = 1) -> str:
    """`a + b` (`a - b` with sign -1) in a's family, or in b's when `a` is zero."""
    (x, fmt), (y, other) = _parse_text(a), _parse_text(b)
    return format_quantity(x + sign * y, fmt if x else other)
