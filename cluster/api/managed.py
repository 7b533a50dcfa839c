"""managedFields: who last set which field; and server-side apply, which is built on it.

Pure; the time is an argument. An entry is (manager, operation, apiVersion, subresource) and a field set. An Update
takes ownership of what it changed; an Apply owns what it names, conflicts with other owners of fields it would
change, and removes what it named last time and no longer does. An object without entries is not tracked until somebody
applies to it. Source: KEP-555, k8s.io/apimachinery `util/managedfields`, structured-merge-diff `merge`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.api import errors, fieldsets, fieldwalks, last_applied, meta
from cluster.api.fieldsets import FieldSet
from cluster.api.ordering import merged_order
from cluster.api.schema import Kind, Node

Object = dict[str, Any]

_BEFORE_FIRST_APPLY = "before-first-apply"
_ANCIENT = "ancient-changes"
_MAX_UPDATERS = 10


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


def same_writer(entry: Object, manager: str, operation: str, subresource: str) -> bool:
    return (
        entry.get("manager") == manager
        and entry.get("operation") == operation
        and entry.get("subresource", "") == subresource
    )


def on_create(node: Node, obj: Object, manager: str, now: float) -> None:
    """The creator owns everything that is there."""
    fields = fieldwalks.created(node, {k: v for k, v in obj.items() if k != "status"})
    set_entries(obj, [_entry(manager, "Update", obj["apiVersion"], "", fields, now)] if fields else [])


def on_update(node: Node, new: Object, old: Object, manager: str, subresource: str, now: float) -> None:
    """Sets the entries of `new`: the writer takes what it changed from everyone else. Entries that the client sent
    stand, as `kubectl apply --server-side` sends them when it takes over from client-side apply."""
    entries = _starting_entries(new, old, subresource)
    if entries:
        changed, removed = fieldwalks.compare(node, old, new)
        if changed or removed:
            taken = _taken(entries, changed, removed, manager, new["apiVersion"], subresource, now)
            entries = in_order(_bounded(taken))
    set_entries(new, entries)


def _starting_entries(new: Object, old: Object, subresource: str) -> list[Object]:
    """What the client sent, unless it is none or cannot be read; one empty entry means: forget them all."""
    live: list[Object] = old["metadata"].get("managedFields") or []
    sent = new["metadata"].get("managedFields")
    if subresource or not sent or sent == live:
        return live
    if sent == [{}]:
        return []
    return sent if all(_readable(e) for e in sent) else live


def _readable(entry: Object) -> bool:
    known = entry.get("fieldsType") == "FieldsV1" and entry.get("operation") in ("Apply", "Update")
    return known and fieldsets.is_valid(entry.get("fieldsV1") or {})


def set_entries(obj: Object, entries: list[Object]) -> None:
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def in_order(entries: Iterable[Object]) -> list[Object]:
    fields = ("operation", "time", "manager", "apiVersion", "subresource")
    return sorted(entries, key=lambda e: tuple(str(e.get(f) or "") for f in fields))


def _bounded(entries: list[Object]) -> list[Object]:
    """Of many updaters the oldest are kept as one, for each version that they wrote in."""
    updaters = [e for e in entries if e.get("operation") == "Update"]
    surplus = len(updaters) - _MAX_UPDATERS
    if surplus <= 0:
        return entries
    out = [e for e in entries if e.get("operation") != "Update"]
    firsts: dict[str, int] = {}
    for e in sorted(updaters, key=lambda e: str(e.get("time") or "")):
        at = firsts.setdefault(e.get("apiVersion", ""), len(out))
        if surplus and at < len(out):
            fields = fieldsets.union_roots(out[at].get("fieldsV1") or {}, e.get("fieldsV1") or {})
            merged = {**out[at], "manager": _ANCIENT, "time": e.get("time"), "fieldsV1": fields}
            out[at] = {k: v for k, v in merged.items() if k != "subresource"}
            surplus -= 1
        else:
            out.append(e)
    return out


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
    mine: FieldSet = changed
    touched = fieldsets.union_roots(changed, removed)
    for e in entries:
        fields = fieldsets.difference(e.get("fieldsV1") or {}, touched)
        if changed and same_writer(e, manager, "Update", subresource):
            mine = fieldsets.union_roots(fields, changed)
        elif fields == e.get("fieldsV1"):
            out.append(e)
        elif fields:
            out.append({**e, "fieldsV1": fields})
    if changed:
        out.append(_entry(manager, "Update", api_version, subresource, mine, now))
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
    entries = live["metadata"].get("managedFields") or _untracked(node, live, subresource, now)
    wanted = fieldwalks.field_set(node, wish)
    merged: Object = _merge(node, live, wish)
    before = next((e for e in entries if same_writer(e, manager, "Apply", subresource)), None)
    others = [e for e in entries if e is not before]
    if before is not None:
        owned = fieldsets.union_all([wanted, *(e.get("fieldsV1") or {} for e in others)])
        merged = _pruned(node, merged, before.get("fieldsV1") or {}, owned)
    changed, removed = fieldwalks.compare(node, live, merged)
    kept, taken = _yielded(others, changed, removed)
    if taken and not force:
        _refuse_conflicts(taken, last_applied.still_owned(node, live) if manager == last_applied.MANAGER else {})
    if before is not None and before.get("fieldsV1") == wanted and not changed and not removed:
        kept.append(before)
    elif wanted:
        kept.append(_entry(manager, "Apply", wish["apiVersion"], subresource, wanted, now))
    return Applied(merged, in_order(kept))


def _untracked(node: Node, live: Object, subresource: str, now: float) -> list[Object]:
    """The entry of an object that has none: what is there was set by somebody."""
    fields = fieldwalks.created(node, live)
    entry = _entry(_BEFORE_FIRST_APPLY, "Update", live.get("apiVersion", ""), subresource, fields, now)
    return [entry] if fields else []


def _yielded(
    entries: list[Object], changed: FieldSet, removed: FieldSet
) -> tuple[list[Object], list[tuple[Object, FieldSet]]]:
    """The entries without what was changed and removed; and who loses what by a change."""
    kept: list[Object] = []
    taken: list[tuple[Object, FieldSet]] = []
    for e in entries:
        lost = fieldsets.intersection(e.get("fieldsV1") or {}, changed)
        if lost:
            taken.append((e, lost))
        fields = fieldsets.difference(fieldsets.difference(e.get("fieldsV1") or {}, lost), removed)
        if fields == e.get("fieldsV1"):
            kept.append(e)
        elif fields:
            kept.append({**e, "fieldsV1": fields})
    return kept, taken


def _pruned(node: Node, merged: Object, last: FieldSet, owned: FieldSet) -> Object:
    """`merged` without what the applier named last time and nobody, itself included, owns now. A field goes with what
    is in it, but for what others own there."""
    last, owned = fieldwalks.with_named_members(node, last), fieldwalks.with_named_members(node, owned)
    body = fieldwalks.ownable(merged)
    there = fieldwalks.all_named(node, body)
    pruned = fieldwalks.without(node, body, last)
    gone = fieldsets.difference(there, fieldsets.union_roots(fieldwalks.all_named(node, pruned), owned))
    left = fieldwalks.without(node, body, gone)
    dropped = fieldsets.intersection(fieldsets.difference(there, fieldwalks.all_named(node, left)), last)
    return fieldwalks.with_identity(fieldwalks.without(node, body, dropped), merged)


def _refuse_conflicts(taken: list[tuple[Object, FieldSet]], spared: FieldSet) -> None:
    conflicts = [
        errors.Cause("FieldManagerConflict", _conflict_text(entry), path)
        for entry, lost in taken
        for path in fieldsets.paths(fieldsets.difference(lost, spared))
    ]
    if conflicts:
        raise errors.apply_conflict(conflicts)


def on_apply_create(node: Node, obj: Object, wish: Object, manager: str, now: float) -> None:
    fields = fieldwalks.field_set(node, wish)
    set_entries(obj, [_entry(manager, "Apply", obj["apiVersion"], "", fields, now)] if fields else [])


def _conflict_text(entry: Object) -> str:
    """Whom it conflicts with; an Update is told by version and time as well, for its manager may not know of it."""
    text = f'conflict with "{entry.get("manager")}"'
    if entry.get("subresource"):
        text += f' with subresource "{entry["subresource"]}"'
    if entry.get("operation") != "Update":
        return text
    text += f" using {entry.get('apiVersion', '')}"
    return f"{text} at {entry['time']}" if entry.get("time") else text


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
            return merged_order(live, wish, lambda v: fieldwalks.value_key(v), lambda a, b: b)
        if node.list_type == "map":
            by_key = lambda v: fieldwalks.item_key(node, v)  # noqa: E731
            return merged_order(live, wish, by_key, lambda a, b: _merge(node.elem, a, b))
    return wish
