"""Durations as Go writes them, which is how Kubernetes' and etcd's flags take them: 300ms, 90s, 5m, 1h30m. Pure.

Days (``30d``) are taken besides: Go has none, but nobody wants to write 720h.
"""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds; not negative. Raises ValueError saying what would be right."""
    if text == "0":
        return 0.0
    at, total = 0, 0.0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            break
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not text or at < len(text):
        raise ValueError(f"{text!r}: must be a duration such as 90s, 5m, 1h30m or 30d")
    return total
