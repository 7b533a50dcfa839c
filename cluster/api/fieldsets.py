"""Sets of fields of an object, in the nested form managedFields stores (FieldsV1).

Pure. A set is `{"f:spec": {"f:replicas": {}}}`: keys are path elements (`f:<field>`, `k:<key fields as JSON>`,
`v:<value as JSON>`), an empty dict is a member without children, "." marks a member that has children. Which fields
are leaves is the schema's to say: atomic lists, maps and structs are owned whole. Source:
sigs.k8s.io/structured-merge-diff.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from cluster.api.schema import Kind, Node

FieldSet = dict[str, Any]

_MEMBER = "."
_NESTED = (dict, list)
_STRIPPED_METADATA = frozenset(
    ("name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion", "managedFields", "selfLink",
     "deletionTimestamp", "deletionGracePeriodSeconds")
)  # fmt: skip


def is_member(s: FieldSet) -> bool:
    return not s or _MEMBER in s


def item_key(node: Node, item: Any) -> str:
    """`k:{...}` of an element of a list of type map; missing key fields take their schema default."""
    elem = node.elem
    defaults = elem.defaults if elem is not None else {}
    key = {k: item[k] if k in item else defaults.get(k) for k in sorted(node.list_keys) if k in item or k in defaults}
    return "k:" + orjson.dumps(key).decode()


def _value_key(item: Any) -> str:
    return "v:" + orjson.dumps(item).decode()


def _granular_list(node: Node, items: Any) -> bool:
    if node.list_type == "map":
        return all(type(i) is dict for i in items)
    return node.list_type == "set"


def _of(node: Node | None, value: Any) -> FieldSet:
    """The set below a value; {} makes the value itself a leaf."""
    if node is None or node.atomic:
        return {}
    kind = node.kind
    if kind is Kind.STRUCT or kind is Kind.MAP:
        if type(value) is not dict:
            return {}
        fields, elem = node.fields, node.elem
        if kind is Kind.STRUCT:
            return {"f:" + k: _of(fields.get(k), v) if type(v) in _NESTED else {} for k, v in value.items()}
        return {"f:" + k: _of(elem, v) if type(v) in _NESTED else {} for k, v in value.items()}
    if kind is Kind.LIST and type(value) is list and _granular_list(node, value):
        if node.list_type == "set":
            return {_value_key(v): {} for v in value}
        elem = node.elem
        return {item_key(node, v): {_MEMBER: {}, **_of(elem, v)} for v in value}
    return {}


@dataclass(slots=True)
class _Sets:
    """The sets of values seen lately, by their JSON: pods of one template differ in their metadata alone."""

    by_json: dict[tuple[int, bytes], tuple[Node, FieldSet]] = field(default_factory=dict)

    def of(self, node: Node | None, value: Any) -> FieldSet:
        """`_of`. The set is shared: sets are never changed in place."""
        if node is None or not value or type(value) is not dict:
            return _of(node, value)
        raw = orjson.dumps(value)
        if len(raw) > _LONGEST:
            return _of(node, value)
        key = id(node), raw
        found = self.by_json.get(key)
        if found is None:
            if len(self.by_json) >= _REMEMBERED:
                self.by_json.clear()
            found = self.by_json[key] = node, _of(node, value)  # holds the node, so its id stays its own
        return found[1]


_REMEMBERED = 1024
_LONGEST = 8192
_sets = _Sets()


def field_set(node: Node, obj: dict[str, Any]) -> FieldSet:
    """All fields of an object but those that no manager owns (identity and what only the server writes)."""
    out: FieldSet = {}
    for k, v in obj.items():
        if k in ("apiVersion", "kind"):
            continue
        if k == "metadata":
            kept = {f: x for f, x in v.items() if f not in _STRIPPED_METADATA}
            if kept:
                out["f:metadata"] = _of(node.fields.get(k), kept)
            continue
        if v != {}:
            # Of the rest (an Event's whole content, a ConfigMap's data) hardly anything comes twice.
            out["f:" + k] = (_sets.of if k == "spec" else _of)(node.fields.get(k), v)
    return out


# --- set algebra ----------------------------------------------------------------------------------------------------


def union(a: FieldSet, b: FieldSet) -> FieldSet:
    if not a or not b:
        return _with_member(a or b, True) if (a or b) else {}
    out = dict(a)
    for k, v in b.items():
        if k in out and k != _MEMBER:
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
        return {_MEMBER: {}, **s} if s and _MEMBER not in s else s
    return {k: v for k, v in s.items() if k != _MEMBER} if _MEMBER in s else s


def union_roots(a: FieldSet, b: FieldSet) -> FieldSet:
    """Union of two whole sets; an empty root has no members."""
    return union(a, b) if a and b else a or b


def difference(a: FieldSet, b: FieldSet) -> FieldSet:
    """Members of `a` that are not members of `b`."""
    out: FieldSet = {}
    for k, av in a.items():
        if k == _MEMBER:
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
        if k == _MEMBER or bv is None:
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
        if k == _MEMBER:
            continue
        at = prefix + _shown(k)
        if is_member(v):
            out.append(at)
        out.extend(paths(v, at))
    return out


def _shown(element: str) -> str:
    if element.startswith("f:"):
        return "." + element[2:]
    if element.startswith("k:"):
        key = orjson.loads(element[2:])
        return "[" + ",".join(f"{k}={orjson.dumps(v).decode()}" for k, v in key.items()) + "]"
    return f"[={element[2:]}]"


# --- comparing and cutting objects ----------------------------------------------------------------------------------


def diff(node: Node, old: dict[str, Any], new: dict[str, Any]) -> tuple[FieldSet, FieldSet]:
    """What `new` added or modified, and what it removed."""
    changed: FieldSet = {}
    removed: FieldSet = {}
    for k in {**old, **new}:
        if k in ("apiVersion", "kind"):
            continue
        a, b = old.get(k), new.get(k)
        if k == "metadata":
            a = {f: x for f, x in (a or {}).items() if f not in _STRIPPED_METADATA}
            b = {f: x for f, x in (b or {}).items() if f not in _STRIPPED_METADATA}
        _diff_field("f:" + k, node.fields.get(k), a, b, changed, removed)
    return changed, removed


def _diff_field(key: str, node: Node | None, a: Any, b: Any, changed: FieldSet, removed: FieldSet) -> None:
    if a == b:
        return
    if b is None:
        removed[key] = _whole(node, a)
    elif a is None:
        changed[key] = _whole(node, b)
    else:
        c, r, leaf = _diff_value(node, a, b)
        if leaf or c:
            changed[key] = c
        if r:
            removed[key] = r


def _whole(node: Node | None, value: Any) -> FieldSet:
    """A value that came or went as a whole: it and everything below; a map counts itself."""
    s = _of(node, value)
    return {_MEMBER: {}, **s} if s and node is not None and node.kind is Kind.MAP else s


def _diff_value(node: Node | None, a: Any, b: Any) -> tuple[FieldSet, FieldSet, bool]:
    """Below a field present on both sides: changed, removed, and whether the field itself is a changed leaf."""
    if node is None or node.atomic:
        return {}, {}, True
    changed: FieldSet = {}
    removed: FieldSet = {}
    if node.kind in (Kind.STRUCT, Kind.MAP) and type(a) is dict and type(b) is dict:
        for k in {**a, **b}:
            _diff_field("f:" + k, node.child(k), a.get(k), b.get(k), changed, removed)
        return changed, removed, False
    if node.kind is Kind.LIST and _granular_list(node, a) and _granular_list(node, b):
        if node.list_type == "set":
            before, after = {_value_key(v): v for v in a}, {_value_key(v): v for v in b}
            changed = {k: {} for k in after if k not in before}
            return changed, {k: {} for k in before if k not in after}, False
        before, after = {item_key(node, v): v for v in a}, {item_key(node, v): v for v in b}
        for k in {**before, **after}:
            x, y = before.get(k), after.get(k)
            if x is None:
                changed[k] = {_MEMBER: {}, **_of(node.elem, y)}
            elif y is None:
                removed[k] = {_MEMBER: {}, **_of(node.elem, x)}
            elif x != y:
                c, r, _ = _diff_value(node.elem, x, y)
                if c:
                    changed[k] = c
                if r:
                    removed[k] = r
        return changed, removed, False
    return {}, {}, True


def cut(node: Node | None, value: Any, gone: FieldSet) -> Any:
    """`value` without the members of `gone`; what becomes empty by it goes too."""
    if type(value) is dict:
        out = {}
        for k, v in value.items():
            below = gone.get("f:" + k)
            if below is None:
                out[k] = v
            elif below and not (_MEMBER in below and len(below) == 1):
                kept = cut(node.child(k) if node is not None else None, v, below)
                if kept not in ({}, []):
                    out[k] = kept
        return out
    if type(value) is list and node is not None:
        if node.list_type == "set":
            return [v for v in value if _value_key(v) not in gone]
        items = []
        for v in value:
            below = gone.get(item_key(node, v)) if type(v) is dict else None
            if below is None:
                items.append(v)
            elif not is_member(below):
                items.append(cut(node.elem, v, below))
        return items
    return value
