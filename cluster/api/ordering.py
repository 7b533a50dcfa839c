"""Merging two keyed lists into one order.

Pure. Items of the wish come in the wish's order; items that only the present list has stay behind the item they
followed there. Shared by strategic merge patch ($setElementOrder) and server-side apply.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any


def merged_order(
    present: Sequence[Any],
    wish: Sequence[Any],
    key: Callable[[Any], Hashable],
    merge: Callable[[Any, Any], Any],
) -> list[Any]:
    have = {key(v): v for v in present}
    wanted = {key(v) for v in wish}
    followers: dict[Hashable, list[Any]] = {}
    last: Hashable = None
    for v in present:
        k = key(v)
        if k in wanted:
            last = k
        else:
            followers.setdefault(last, []).append(v)
    out = list(followers.get(None, ()))
    for v in wish:
        k = key(v)
        out.append(merge(have[k], v) if k in have else v)
        out.extend(followers.get(k, ()))
    return out
