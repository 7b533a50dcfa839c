"""Objects of one batch that are alike: the first goes the whole way of a create, the others are cast from it.

Pure. The pods of a ReplicaSet differ in their names, a scheduler's Events in the pods they are about; what decoding,
defaults, admission and managed fields make of such an object does not depend on that. So the first one's JSON is cut
where the values stand that may differ, and an object that is otherwise equal to the first is made by joining the pieces
around its own values. Validation is not spared: it looks at names and messages.

    first: decode, default, admit, ... --> '{"kind":..,"metadata":{"name":' | ',"uid":' | ... '"message":' | '}'
    next:  equal but for FREE? ----------> pieces joined around its own name, uid, message

A mould holds for one batch and one second (creationTimestamp), and not while there are webhooks or policies: they see
every object (`Admission.quiet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.registry.codec import body_of, ordered
from cluster.registry.core import Guard

Object = dict[str, Any]
Path = tuple[str, ...]

NAME: Path = ("metadata", "name")
UID: Path = ("metadata", "uid")
FREE: dict[str, tuple[Path, ...]] = {
    "pods": (NAME,),
    "events": (
        NAME,
        ("involvedObject", "name"),
        ("involvedObject", "uid"),
        ("involvedObject", "resourceVersion"),
        ("message",),
    ),
}
"""The strings in which objects of a kind may differ and still be alike; none is more than two steps deep."""


@dataclass(frozen=True, slots=True)
class Mould:
    """`wish`: what was asked for, without its free values; `made`: what became of it, at `created`; `guards`: what its
    transaction compares beside its own key."""

    free: tuple[Path, ...]
    wish: Object
    made: Object
    pieces: tuple[bytes, ...]
    order: tuple[int, ...]
    offset: int
    created: str
    lease: int
    guards: tuple[Guard, ...]

    def values(self, wish: Object) -> list[str] | None:
        """Its free values, "" for a name that is to be generated; None when it is not alike."""
        values = [_at(wish, path) for path in self.free]
        if _without(wish, self.free) != self.wish:
            return None
        # An object that lacks a value is not alike one that has it: there would be no place for it.
        given = [isinstance(v, str) or (v is None and path == NAME) for v, path in zip(values, self.free, strict=True)]
        return [v or "" for v in values] if all(given) else None

    def cast(self, values: Sequence[str], uid: str) -> tuple[Object, bytes]:
        """The object and its JSON; `values` of the free paths."""
        whole = [*values, uid]
        parts = [self.pieces[0]]
        for i, piece in zip(self.order, self.pieces[1:], strict=True):
            parts += (orjson.dumps(whole[i]), piece)
        obj = dict(self.made)
        for path, value in zip((*self.free, UID), whole, strict=True):
            _put(obj, self.made, path, value)
        return obj, b"".join(parts)


def mould_of(
    resource: str, wish: Object, made: Object, created: str, lease: int, guards: tuple[Guard, ...]
) -> Mould | None:
    """None for a kind without moulds, or an object that lacks a place for a free value."""
    free = FREE.get(resource)
    if free is None or not all(isinstance(_at(made, path), str) for path in free):
        return None
    made = ordered(made)
    marked = dict(made)
    marks = []
    for i, path in enumerate((*free, UID)):
        _put(marked, made, path, f"\0{i}\0")
        marks.append(orjson.dumps(f"\0{i}\0"))
    body, offset = body_of(marked)
    if any(body.count(mark) != 1 for mark in marks):
        return None  # somebody put such a mark into an annotation, say
    order = sorted(range(len(marks)), key=lambda i: body.index(marks[i]))
    pieces, at = [], 0
    for i in order:
        found = body.index(marks[i])
        pieces.append(body[at:found])
        at = found + len(marks[i])
    pieces.append(body[at:])
    return Mould(free, _without(wish, free), made, tuple(pieces), tuple(order), offset, created, lease, guards)


def _at(obj: Object, path: Path) -> Any:
    found: Any = obj
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _put(obj: Object, shared: Object, path: Path, value: str) -> None:
    """Into `obj`, a shallow copy of `shared`, whose inner objects are copied before they are changed."""
    if len(path) == 1:
        obj[path[0]] = value
        return
    outer, inner = path
    if obj[outer] is shared[outer]:
        obj[outer] = dict(shared[outer])
    obj[outer][inner] = value


def _without(obj: Object, paths: tuple[Path, ...]) -> Object:
    rest = dict(obj)
    for path in paths:
        outer = path[0]
        if len(path) == 1:
            rest.pop(outer, None)
        elif isinstance(rest.get(outer), dict):
            if rest[outer] is obj[outer]:
                rest[outer] = dict(obj[outer])
            rest[outer].pop(path[1], None)
    return rest
