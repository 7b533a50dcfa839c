"""Fields that a JSON object says twice, which parsers pass over in silence. Pure.

Almost every body repeats nothing, so that is told cheaply: a body as long as its own shortest form lost nothing in
parsing. Only others are read again by a parser that sees every pair.
"""

from __future__ import annotations

import json
from typing import Any

import orjson


class _Seen(dict[str, Any]):
    """An object with the names that it had more than once."""

    again: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Seen:
    found = _Seen(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        again: dict[str, None] = {}
        for name, _ in pairs:
            if name in seen:
                again[name] = None
            seen.add(name)
        found.again = tuple(again)
    return found


def duplicate_fields(raw: bytes, obj: Any) -> list[str]:
    """Paths like `spec.containers[0].name`; `obj` is what `raw` was parsed to."""
    if len(orjson.dumps(obj)) == len(raw.strip()):
        return []
    out: list[str] = []
    try:
        _walk(json.loads(raw, object_pairs_hook=_object), "", out)
    except (ValueError, RecursionError):
        return []  # orjson has read it: whatever this parser minds is not a duplicate
    return out


def _walk(node: Any, path: str, out: list[str]) -> None:
    if isinstance(node, _Seen):
        prefix = path + "." if path else ""
        out.extend(prefix + k for k in node.again)
        for k, v in node.items():
            if isinstance(v, dict | list):
                _walk(v, prefix + k, out)
    elif isinstance(node, list):
        for i, v in enumerate(node):
            if isinstance(v, dict | list):
                _walk(v, f"{path}[{i}]", out)
