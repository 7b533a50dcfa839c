"""Field sets of objects: what one has, what differs between two, and an object without some of its fields.

Pure. Which fields are leaves is the schema's to say: atomic lists, maps and structs are owned whole. Two sets can be
made of one object: `named` has what a client names (the fields it wrote, not the structs and lists around them),
`whole` every field on the way as well. A field that Kubernetes' Go types hold by value is there even when nobody has
written it, so it never comes or goes as a whole. Source: sigs.k8s.io/structured-merge-diff, package typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from cluster.api.fieldsets import MEMBER, FieldSet, is_member, shown
from cluster.api.schema import Kind, Node

Object = dict[str, Any]

_GONE: Any = object()
_STRIPPED_METADATA = frozenset(
    ("name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion", "managedFields", "selfLink",
     "deletionTimestamp", "deletionGracePeriodSeconds")
)  # fmt: skip


def item_key(node: Node, item: Any) -> str:
    """`k:{...}` of an element of a list of type map; missing key fields take their schema default."""
    elem = node.elem
    defaults = elem.defaults if elem is not None else {}
    key = {k: item[k] if k in item else defaults.get(k) for k in sorted(node.list_keys) if k in item or k in defaults}
    return "k:" + orjson.dumps(key).decode()


def value_key(item: Any) -> str:
    return "v:" + orjson.dumps(item).decode()


def _granular(node: Node | None, value: Any) -> bool:
    """Whether what is below the value is owned piece by piece."""
    if node is None or node.atomic:
        return False
    if node.kind is Kind.STRUCT or node.kind is Kind.MAP:
        return type(value) is dict
    if node.kind is not Kind.LIST or type(value) is not list:
        return False
    return node.list_type == "set" or (node.list_type == "map" and all(type(i) is dict for i in value))


def _items(node: Node, items: list[Any]) -> dict[str, list[Any]]:
    """Of a granular list, by their path elements; more than one under a key are duplicates."""
    out: dict[str, list[Any]] = {}
    of_map = node.list_type == "map"
    for item in items:
        out.setdefault(item_key(node, item) if of_map else value_key(item), []).append(item)
    return out


# --- one object -----------------------------------------------------------------------------------------------------


def field_set(node: Node, obj: Object) -> FieldSet:
    """The fields that an applied object names, but those that no manager owns (identity, and what only the server
    writes)."""
    return _named(node, ownable(obj)) or {}


def ownable(obj: Object) -> Object:
    """`obj` without what no manager owns."""
    out = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind")}
    metadata = out.get("metadata")
    if metadata is not None:
        out["metadata"] = {f: x for f, x in metadata.items() if f not in _STRIPPED_METADATA}
        if not out["metadata"]:
            del out["metadata"]
    return out


def with_identity(body: Object, obj: Object) -> Object:
    """A part of what is ownable of `obj`, with all else that `obj` has."""
    metadata = {f: x for f, x in obj["metadata"].items() if f in _STRIPPED_METADATA}
    kind: Object = {k: obj[k] for k in ("apiVersion", "kind") if k in obj}
    return {**kind, **body, "metadata": {**metadata, **(body.get("metadata") or {})}}


def _named(node: Node | None, value: Any) -> FieldSet | None:
    """The set below a value; {} is a leaf, None nothing at all."""
    if node is None or not _granular(node, value):
        return {}
    out: FieldSet = {}
    if type(value) is list:
        for key, same in _items(node, value).items():
            out[key] = _as_member(_named(node.elem, same[0])) if len(same) == 1 else {}
        return out or None
    of_map = node.kind is Kind.MAP
    for k, v in value.items():
        child = node.child(k)
        below = {} if v is None or v == {} else _named(child, v)
        if of_map or k not in node.fields:
            out["f:" + k] = _as_member(below)
        elif below is not None:
            out["f:" + k] = below
    return out or None


def _as_member(s: FieldSet | None) -> FieldSet:
    return {MEMBER: {}, **s} if s and MEMBER not in s else s or {}


def _whole(node: Node | None, value: Any) -> FieldSet:
    """A value that came or went as a whole: it and everything below."""
    if node is None or not value or not _granular(node, value):
        return {}
    out: FieldSet = {MEMBER: {}}
    if type(value) is list:
        for key, same in _items(node, value).items():
            out[key] = _whole(node.elem, same[0]) if len(same) == 1 else {}
        return out
    for k, v in value.items():
        out["f:" + k] = _whole(node.child(k), v) if type(v) in (dict, list) else {}
    return out


def all_named(node: Node, body: Object) -> FieldSet:
    """What there is of `ownable`, with the declared fields on the way."""
    return with_named_members(node, _named(node, body) or {})


def duplicates(node: Node | None, value: Any, at: str = "") -> Iterator[str]:
    """What lists have more than once that can have it once; of an object that its client wrote."""
    if node is None or not value or not _granular(node, value):
        return
    if type(value) is dict:
        for k, v in value.items():
            if type(v) in (dict, list):
                yield from duplicates(node.child(k), v, f"{at}.{k}")
        return
    for key, same in _items(node, value).items():
        for _ in same[1:]:
            yield f"{at}: duplicate entries for key {shown(key)}"
        for item in same if node.list_type == "map" else ():
            yield from duplicates(node.elem, item, at + shown(key))


def with_named_members(node: Node | None, s: FieldSet) -> FieldSet:
    """The set, and the declared fields on the way to its members."""
    out: FieldSet = {}
    for k, below in s.items():
        if k == MEMBER:
            out[k] = below
            continue
        child, declared = None, False
        if node is not None:
            child = node.child(k[2:]) if k.startswith("f:") else node.elem
            declared = node.kind is Kind.STRUCT and k.startswith("f:") and k[2:] in node.fields
        deeper = with_named_members(child, below)
        out[k] = _as_member(deeper) if declared else deeper
    return out


def without(node: Node | None, value: Any, gone: FieldSet) -> Any:
    """`value` without the members of `gone`; what becomes empty by it goes too."""
    if type(value) is dict:
        return dict(_fields_left(node, value, gone))
    if type(value) is not list or node is None:
        return value
    if node.list_type == "set":
        return [v for v in value if value_key(v) not in gone]
    kept = []
    for v in value:
        below = gone.get(item_key(node, v)) if type(v) is dict else None
        if below is None:
            kept.append(v)
        elif not is_member(below):
            kept.append(without(node.elem, v, below))
    return kept


def _fields_left(node: Node | None, value: Object, gone: FieldSet) -> Iterable[tuple[str, Any]]:
    for k, v in value.items():
        below = gone.get("f:" + k)
        if below is None:
            yield k, v
        elif not is_member(below):
            kept = without(node.child(k) if node is not None else None, v, below)
            if kept not in ({}, []):
                yield k, kept


# --- two objects ----------------------------------------------------------------------------------------------------


def compare(node: Node, old: Object, new: Object) -> tuple[FieldSet, FieldSet]:
    """What `new` added or modified, and what it removed."""
    changed, removed = _compare(node, ownable(old), ownable(new))
    return changed or {}, removed or {}


def created(node: Node, obj: Object) -> FieldSet:
    """What is there of a new object: all that an empty one has not."""
    out: FieldSet = {}
    for k, v in ownable(obj).items():
        below = _sets.of(node, k, v) if k == "spec" else _created(node, k, v)
        if below is not None:
            out["f:" + k] = below
    return out


def _created(node: Node, key: str, value: Any) -> FieldSet | None:
    changed, _ = _compare_fields(node, {}, {key: value})
    return (changed or {}).get("f:" + key)


@dataclass(slots=True)
class _Sets:
    """The sets of values seen lately, by their JSON: pods of one template differ in their metadata alone."""

    by_json: dict[tuple[int, bytes], tuple[Node, FieldSet | None]] = field(default_factory=dict)

    def of(self, node: Node, key: str, value: Any) -> FieldSet | None:
        """`_created`. The set is shared: sets are never changed in place."""
        raw = orjson.dumps(value)
        if len(raw) > _LONGEST:
            return _created(node, key, value)
        found = self.by_json.get((id(node), raw))
        if found is None:
            if len(self.by_json) >= _REMEMBERED:
                self.by_json.clear()
            found = node, _created(node, key, value)  # holds the node, so its id stays its own
            self.by_json[id(node), raw] = found
        return found[1]


_REMEMBERED = 1024
_LONGEST = 8192
_sets = _Sets()

Difference = tuple[FieldSet | None, FieldSet | None]


def _compare(node: Node | None, a: Any, b: Any) -> Difference:
    """Below a place that both sides have: what changed and what was removed; {} is the place itself, None nothing."""
    if a == b:
        return None, None
    if a is None and b:  # Go's nil, of a field that is always encoded
        a = type(b)()
    elif b is None and a:
        b = type(a)()
    if node is None or type(a) is not type(b) or not (_granular(node, a) and _granular(node, b)):
        return {}, None
    return _compare_items(node, a, b) if type(a) is list else _compare_fields(node, a, b)


def _compare_fields(node: Node, a: Object, b: Object) -> Difference:
    changed: FieldSet = {}
    removed: FieldSet = {}
    for k, y in b.items():
        x = a.get(k, _GONE)
        if x != y:
            child = node.child(k)
            _note("f:" + k, child, _unset(node, k, child) if x is _GONE else x, y, changed, removed)
    for k, x in a.items():
        if k not in b:
            child = node.child(k)
            _note("f:" + k, child, x, _unset(node, k, child), changed, removed)
    return changed or None, removed or None


def _unset(node: Node, key: str, child: Node | None) -> Any:
    """What Go has in a field that nobody has set."""
    if key in node.by_value and child is not None and child.kind is Kind.STRUCT:
        return {}
    return None if key in node.encoded_empty else _GONE


def _compare_items(node: Node, a: list[Any], b: list[Any]) -> Difference:
    changed: FieldSet = {}
    removed: FieldSet = {}
    before, after = _items(node, a), _items(node, b)
    for k in {**before, **after}:
        x, y = before.get(k, []), after.get(k, [])
        if len(x) < 2 and len(y) < 2:
            _note(k, node.elem, x[0] if x else _GONE, y[0] if y else _GONE, changed, removed)
        elif len(y) > 1:  # duplicates are owned together
            if x != y:
                changed[k] = {}
        elif y:
            changed[k] = _whole(node.elem, y[0])
        else:
            removed[k] = {}
    return changed or None, removed or None


def _note(key: str, node: Node | None, a: Any, b: Any, changed: FieldSet, removed: FieldSet) -> None:
    if b is _GONE:
        removed[key] = _whole(node, a)
    elif a is _GONE:
        changed[key] = _whole(node, b)
    else:
        c, r = _compare(node, a, b)
        if c is not None:
            changed[key] = c
        if r is not None:
            removed[key] = r
