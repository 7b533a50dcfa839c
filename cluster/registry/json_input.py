"""JSON from clients. Pure.

What is nested deeper than could be written again is refused here, once, so that nothing behind has to mind.
"""

from __future__ import annotations

from typing import Any

import orjson

MAX_DEPTH = 254
"""Of lists and objects inside of one another: what orjson writes (it reads 1024)."""


class BadJson(ValueError):
    """The text is not JSON, or nested too deeply."""


def load(raw: bytes) -> Any:
    """Raises BadJson."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise BadJson(str(e)) from e
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:  # else it cannot be
        try:
            orjson.dumps(found)
        except orjson.JSONEncodeError as e:
            raise BadJson(f"exceeded max depth of {MAX_DEPTH}") from e
    return found
