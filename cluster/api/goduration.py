"""Durations as Go writes them ("1h30m", "300ms"): what `timeout=` and many fields of the API hold. Pure.

Errors read as Go's time.ParseDuration's, because clients print them.
"""

from __future__ import annotations

import re

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<unit>[^0-9.]*)", re.ASCII)
_MAX_S = (2**63 - 1) / 1e9


class BadDuration(ValueError):
    """The text is no duration; says so as Go does."""


def parse(text: str) -> float:
    """Seconds. Raises BadDuration."""
    shown = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    sign, digits = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    if digits == "0":
        return 0.0
    total, at = 0.0, 0
    while at < len(digits):
        part = _PART.match(digits, at)
        if part is None:
            break
        if not part["unit"]:
            raise BadDuration(f"time: missing unit in duration {shown}")
        if part["unit"] not in _UNITS_S:
            raise BadDuration(f'time: unknown unit "{part["unit"]}" in duration {shown}')
        total += float(part["number"]) * _UNITS_S[part["unit"]]
        at = part.end()
    if not digits or at < len(digits) or total > _MAX_S:
        raise BadDuration(f"time: invalid duration {shown}")
    return sign * total
