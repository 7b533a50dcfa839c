"""managedFields: who last set which field; and server-side apply, which is built on it.

Pure; the time is an argument. An entry is (manager, operation, apiVersion, subresource) and a field set. An Update
takes ownership of what it changed; an Apply owns what it names, conflicts with other owners of fields it would
change, and removes what it named last time and no longer does. Source: KEP-555, k8s.io/apimachinery
`util/managedfields`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.api import errors, fieldsets, last_applied, meta
from cluster.api.fieldsets import FieldSet
from cluster.api.ordering import merged_order
from cluster.api.schema import Kind, Node

Object = dict[str, Any]


def _entry(manager: str, operation: str, api_version: str, subresource: str, fields: FieldSet, now: float) -> Object:
    entry: Object = {
        "manager": manager,
        "operation": operation,
        "apiVersion": api_version,
        "time": meta.rfc3339(now),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    if subresource:
        entry["subresource"] = subresource
    return entry


def _same(entry: Object, manager: str, operation: str, subresource: str) -> bool:
    return (
        entry.get("manager") == manager
        and entry.get("operation") == operation
        and entry.get("subresource", "") == subresource
    )


def on_create(node: Node, obj: Object, manager: str, now: float) -> None:
    """The creator owns everything that is there."""
    fields = fieldsets.field_set(node, {k: v for k, v in obj.items() if k != "status"})
    _set(obj, [_entry(manager, "Update", obj["apiVersion"], "", fields, now)] if fields else [])


def on_update(node: Node, new: Object, old: Object, manager: str, subresource: str, now: float) -> None:
    """The writer takes what it changed from everyone else. What the client sent as managedFields is ignored, but an
    empty entry in it resets all ownership, as in Kubernetes."""
    sent = new["metadata"].get("managedFields")
    entries: list[Object] = [] if sent == [{}] else old["metadata"].get("managedFields") or []
    changed, removed = fieldsets.diff(node, old, new)
    if changed or removed:
        entries = _taken(entries, changed, removed, manager, new["apiVersion"], subresource, now)
    _set(new, entries)


def _set(obj: Object, entries: list[Object]) -> None:
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def _taken(
    entries: list[Object],
    changed: FieldSet,
    removed: FieldSet,
    manager: str,
    api_version: str,
    subresource: str,
    now: float,
) -> list[Object]:
    out: list[Object] = []
    mine: Object | None = None
    touched = fieldsets.union_roots(changed, removed)
    for e in entries:
        if _same(e, manager, "Update", subresource):
            mine = e
            fields = fieldsets.difference(fieldsets.union_roots(e.get("fieldsV1") or {}, changed), removed)
        else:
            fields = fieldsets.difference(e.get("fieldsV1") or {}, touched)
        if fields == e.get("fieldsV1"):
            out.append(e)
        elif fields:
            out.append({**e, "fieldsV1": fields, **({"time": meta.rfc3339(now)} if e is mine else {})})
    if mine is None and changed:
        out.append(_entry(manager, "Update", api_version, subresource, changed, now))
    return out


# --- server-side apply ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Applied:
    """The merged object, and its managedFields."""

    obj: Object
    entries: list[Object]


def apply(
    node: Node, live: Object, wish: Object, manager: str, *, force: bool, subresource: str, now: float
) -> Applied:
    """`live` with `wish` applied. Raises 409 with a cause per field that another manager owns and `wish` would
    change, unless kubectl takes over what it has set by client-side apply.
    """
    entries: list[Object] = live["metadata"].get("managedFields") or []
    wanted = fieldsets.field_set(node, wish)
    merged = _merge(node, live, wish)
    before = next((e for e in entries if _same(e, manager, "Apply", subresource)), None)
    others = [e for e in entries if e is not before]
    if before is not None:
        dropped = fieldsets.difference(before.get("fieldsV1") or {}, wanted)
        for e in others:
            dropped = _unowned(dropped, e.get("fieldsV1") or {})
        merged = {**fieldsets.cut(node, merged, dropped)}
    changed, removed = fieldsets.diff(node, live, merged)
    contested = fieldsets.intersection(changed, wanted)
    kept: list[Object] = []
    taken: list[tuple[Object, FieldSet]] = []
    for e in others:
        lost = fieldsets.intersection(e.get("fieldsV1") or {}, contested)
        if lost:
            taken.append((e, lost))
        fields = fieldsets.difference(fieldsets.difference(e.get("fieldsV1") or {}, lost), removed)
        if fields == e.get("fieldsV1"):
            kept.append(e)
        elif fields:
            kept.append({**e, "fieldsV1": fields})
    if taken and not force:
        _refuse_conflicts(taken, last_applied.still_owned(node, live) if manager == last_applied.MANAGER else {})
    if before is not None and before.get("fieldsV1") == wanted:
        kept.append(before)
    elif wanted:
        kept.append(_entry(manager, "Apply", wish["apiVersion"], subresource, wanted, now))
    return Applied(merged, kept)


def _refuse_conflicts(taken: list[tuple[Object, FieldSet]], spared: FieldSet) -> None:
    conflicts = [
        errors.Cause("FieldManagerConflict", _conflict_text(entry), path)
        for entry, lost in taken
        for path in fieldsets.paths(fieldsets.difference(lost, spared))
    ]
    if conflicts:
        raise errors.apply_conflict(conflicts)


def on_apply_create(node: Node, obj: Object, wish: Object, manager: str, now: float) -> None:
    fields = fieldsets.field_set(node, wish)
    _set(obj, [_entry(manager, "Apply", obj["apiVersion"], "", fields, now)] if fields else [])


def _conflict_text(entry: Object) -> str:
    """Whom it conflicts with; an Update is told by version and time as well, for its manager may not know of it."""
    text = f'conflict with "{entry.get("manager")}"'
    if entry.get("subresource"):
        text += f' with subresource "{entry["subresource"]}"'
    if entry.get("operation") != "Update":
        return text
    text += f" using {entry.get('apiVersion', '')}"
    return f"{text} at {entry['time']}" if entry.get("time") else text


def _unowned(dropped: FieldSet, owned: FieldSet) -> FieldSet:
    """`dropped` without what `owned` holds; an item of which another owns a part stays."""
    out: FieldSet = {}
    for k, below in dropped.items():
        theirs = owned.get(k)
        if k == "." or theirs is None:
            out[k] = below
            continue
        if fieldsets.is_member(below) and not any(x != "." for x in below):
            if theirs and not fieldsets.is_member(theirs):
                out[k] = below
            continue
        children = _unowned({x: y for x, y in below.items() if x != "."}, theirs)
        if children:
            out[k] = children
    return out


def merge(node: Node, live: Object, wish: Object) -> Object:
    """`wish` applied to `live`, without owners: structs and maps by field, lists as their type says."""
    merged: Object = _merge(node, live, wish)
    return merged


def _merge(node: Node | None, live: Any, wish: Any) -> Any:
    if node is None or node.atomic or type(live) is not type(wish):
        return wish
    if node.kind in (Kind.STRUCT, Kind.MAP) and type(wish) is dict:
        out = dict(live)
        for k, v in wish.items():
            out[k] = _merge(node.child(k), live[k], v) if k in live else v
        return out
    if node.kind is Kind.LIST and type(wish) is list:
        if node.list_type == "set":
            return merged_order(live, wish, lambda v: fieldsets._value_key(v), lambda a, b: b)
        if node.list_type == "map":
            return merged_order(live, wish, lambda v: fieldsets.item_key(node, v), lambda a, b: _merge(node.elem, a, b))
    return wish
