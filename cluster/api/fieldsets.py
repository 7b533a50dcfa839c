"""Sets of fields of an object, in the nested form managedFields stores (FieldsV1).

Pure. A set is `{"f:spec": {"f:replicas": {}}}`: keys are path elements (`f:<field>`, `k:<key fields as JSON>`,
`v:<value as JSON>`), an empty dict is a member without children, "." marks a member that has children. Sets are shared,
and so never changed in place. `fieldwalks` makes them of objects. Source: sigs.k8s.io/structured-merge-diff, package
fieldpath.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import orjson

FieldSet = dict[str, Any]

MEMBER = "."


def is_member(s: FieldSet) -> bool:
    return not s or MEMBER in s


def union(a: FieldSet, b: FieldSet) -> FieldSet:
    if not a or not b:
        return _with_member(a or b, True) if (a or b) else {}
    out = dict(a)
    for k, v in b.items():
        if k in out and k != MEMBER:
            mine = out[k]
            if mine == v:
                continue
            member = is_member(mine) or is_member(v)
            out[k] = _with_member(_merge_children(mine, v), member)
        else:
            out[k] = v
    return out


def _merge_children(a: FieldSet, b: FieldSet) -> FieldSet:
    if not a:
        return b
    return union(a, b) if b else a


def _with_member(s: FieldSet, member: bool) -> FieldSet:
    if member:
        return {MEMBER: {}, **s} if s and MEMBER not in s else s
    return {k: v for k, v in s.items() if k != MEMBER} if MEMBER in s else s


def union_roots(a: FieldSet, b: FieldSet) -> FieldSet:
    """Union of two whole sets; an empty root has no members."""
    return union(a, b) if a and b else a or b


def union_all(sets: Iterable[FieldSet]) -> FieldSet:
    return reduce(union_roots, sets, {})


def difference(a: FieldSet, b: FieldSet) -> FieldSet:
    """Members of `a` that are not members of `b`."""
    out: FieldSet = {}
    for k, av in a.items():
        if k == MEMBER:
            continue
        bv = b.get(k)
        if bv is None:
            out[k] = av
            continue
        keep = is_member(av) and not is_member(bv)
        children = difference(av, bv)
        if children:
            out[k] = _with_member(children, keep)
        elif keep:
            out[k] = {}
    return out


def intersection(a: FieldSet, b: FieldSet) -> FieldSet:
    out: FieldSet = {}
    for k, av in a.items():
        bv = b.get(k)
        if k == MEMBER or bv is None:
            continue
        both = is_member(av) and is_member(bv)
        children = intersection(av, bv)
        if children:
            out[k] = _with_member(children, both)
        elif both:
            out[k] = {}
    return out


def paths(s: FieldSet, prefix: str = "") -> list[str]:
    """Members as text: `.spec.template.spec.containers[name="c"].image`."""
    out: list[str] = []
    for k, v in s.items():
        if k == MEMBER:
            continue
        at = prefix + shown(k)
        if is_member(v):
            out.append(at)
        out.extend(paths(v, at))
    return out


def shown(element: str) -> str:
    """A path element as texts have it: `.image`, `[name="c"]`."""
    if element.startswith("f:"):
        return "." + element[2:]
    if element.startswith("k:"):
        key = orjson.loads(element[2:])
        return "[" + ",".join(f"{k}={orjson.dumps(v).decode()}" for k, v in key.items()) + "]"
    return f"[={element[2:]}]"


def is_valid(s: Any) -> bool:
    """Whether a set that a client sent can be read."""
    if not isinstance(s, dict):
        return False
    return all(_is_element(k) and is_valid(v) for k, v in s.items())


def _is_element(key: str) -> bool:
    if key == MEMBER or key.startswith("f:"):
        return True
    if key.startswith("i:"):
        return key[2:].removeprefix("-").isdigit()
    if not key.startswith(("k:", "v:")):
        return False
    try:
        value = orjson.loads(key[2:])
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) or key[0] == "v"
