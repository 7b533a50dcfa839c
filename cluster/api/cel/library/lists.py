"""Functions on lists, sets and strings that CEL's standard library lacks, or that the binding has for strings only.

Pure. Source: k8s.io/apiserver `pkg/cel/library/lists.go`, cel-go `ext/sets.go`, `ext/strings.go`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from cluster.api.cel.library.declaring import Declarations
from cluster.api.cel.library.values import NoOverload
from cluster.api.cel.portable import INDEX, LAST_INDEX, MERGED


def comparable(items: list[Any]) -> list[Any]:
    kinds = {float if type(i) in (int, float) else type(i) for i in items}
    if len(kinds) > 1 or kinds & {list, dict, type(None)}:
        raise NoOverload
    return items


def is_sorted(items: list[Any]) -> bool:
    items = comparable(items)
    return all(a <= b for a, b in itertools.pairwise(items))


def total(items: list[Any]) -> Any:
    return sum(comparable(items))


def extreme(name: str, pick: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def fn(items: list[Any]) -> Any:
        if not items:
            raise ValueError(f"{name} called on empty list")
        return pick(comparable(items))

    return fn


def distinct(items: list[Any]) -> list[Any]:
    out: list[Any] = []
    for i in items:
        if i not in out:
            out.append(i)
    return out


def part_of(items: list[Any], start: int, end: int) -> list[Any]:
    if start < 0 or end < 0:
        raise ValueError(f"cannot slice({start}, {end}), negative indexes not supported")
    if start > end:
        raise ValueError(f"cannot slice({start}, {end}), start index must be less than or equal to end index")
    if end > len(items):
        raise ValueError(f"cannot slice({start}, {end}), list is length {len(items)}")
    return items[start:end]


def flatten(items: list[Any]) -> list[Any]:
    return [x for i in items for x in (i if isinstance(i, list) else [i])]


def contains_all(a: list[Any], b: list[Any]) -> bool:
    return all(x in a for x in b)


def merged(maps: list[Any]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for one in maps:
        for key, value in one.items():
            if key in out:
                raise ValueError(f"insert failed: key {key} already exists")
            out[key] = value
    return out


def index_of(items: list[Any], item: Any) -> int:
    return items.index(item) if item in items else -1


def last_index_of(items: list[Any], item: Any) -> int:
    return len(items) - 1 - items[::-1].index(item) if item in items else -1


def _offset(text: str, part: str, offset: int, find: Callable[[], int]) -> int:
    """What both searches of a string from an offset do about strange offsets (cel-go `ext/strings.go`)."""
    if not part:
        return offset
    if offset < 0:
        raise ValueError(f"index out of range: {offset}")
    return find() if offset < len(text) else -1


def index_from(text: str, part: str, offset: int) -> int:
    return _offset(text, part, offset, lambda: text.find(part, offset))


def last_index_to(text: str, part: str, offset: int) -> int:
    return _offset(text, part, offset, lambda: text.rfind(part, 0, offset + len(part)))


def declare(to: Declarations) -> None:
    """Functions on lists and sets, and indexOf and lastIndexOf on strings beside those on lists."""
    to.method("isSorted", [to.items], to.boolean, is_sorted)
    to.method("sum", [to.items], to.dyn, total)
    to.method("min", [to.items], to.dyn, extreme("min", min))
    to.method("max", [to.items], to.dyn, extreme("max", max))
    to.method("distinct", [to.items], to.items, distinct)
    to.method("flatten", [to.items], to.items, flatten)
    to.method("slice", [to.items, to.integer, to.integer], to.items, part_of)
    to.method("sort", [to.items], to.items, lambda items: sorted(comparable(items)))
    to.method(MERGED, [to.items], to.mapping, merged)
    for item in to.of_any_type:
        to.method(INDEX, [to.items, item], to.integer, index_of)
        to.method(LAST_INDEX, [to.items, item], to.integer, last_index_of)
    to.method(INDEX, [to.text, to.text], to.integer, lambda s, part: s.find(part))
    to.method(INDEX, [to.text, to.text, to.integer], to.integer, index_from)
    to.method(LAST_INDEX, [to.text, to.text], to.integer, lambda s, part: s.rfind(part))
    to.method(LAST_INDEX, [to.text, to.text, to.integer], to.integer, last_index_to)

    two = [to.items, to.items]
    to.function("sets.contains", two, to.boolean, contains_all)
    to.function("sets.intersects", two, to.boolean, lambda a, b: any(x in a for x in b))
    to.function("sets.equivalent", two, to.boolean, lambda a, b: contains_all(a, b) and contains_all(b, a))
