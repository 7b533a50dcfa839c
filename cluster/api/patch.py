"""Patches: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes' strategic merge patch.

Pure: each returns a new tree; the inputs are not changed, but may be shared by the result. Strategic merge patch
needs the schema: lists with a merge key are merged item by item, and directives ($patch, $retainKeys,
$deleteFromPrimitiveList, $setElementOrder) say what merging cannot (k8s.io/apimachinery `util/strategicpatch`).
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import jsonpatch
import orjson

from cluster.api import errors
from cluster.api.ordering import merged_order
from cluster.api.schema import Kind, Node

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
MEDIA_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)
CUSTOM_MEDIA_TYPES = (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)

_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"
_MAX_OPERATIONS = 10_000
_MAX_COPIED_BYTES = 3 * 1024 * 1024
_UNAPPLIED = (TypeError, KeyError, ValueError, IndexError, AttributeError, RecursionError)
"""What the library lets through of operations on what is not there, or is of another type."""
_GONE = object()
_REJECTED = "the server rejected our request due to an error in our request"


def json_patch(obj: Any, operations: Any) -> Any:
    """Raises 400 for a malformed patch, 422 when it does not apply."""
    if not isinstance(operations, list):
        raise errors.bad_request("error decoding patch: a JSON patch is a list of operations")
    if len(operations) > _MAX_OPERATIONS:
        raise errors.too_large(
            f"The allowed maximum operations in a JSON patch is {_MAX_OPERATIONS}, got {len(operations)}"
        )
    try:
        patch = jsonpatch.JsonPatch([_with_value(op) for op in operations])
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, *_UNAPPLIED) as e:
        raise errors.bad_request(f"error decoding patch: {e}") from e
    try:
        out = _applied(patch, obj)
        orjson.dumps(out)  # a value may be nested deeper where it is put than it was by itself
        return out
    except jsonpatch.InvalidJsonPatch as e:
        raise errors.bad_request(f"error decoding patch: {e}") from e
    except jsonpatch.JsonPatchTestFailed as e:
        raise errors.ApiError(422, "Invalid", f"{_REJECTED}: testing the value failed") from e
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, *_UNAPPLIED) as e:
        raise errors.ApiError(422, "Invalid", _REJECTED, {"causes": [{"message": str(e)}]}) from e


def _with_value(operation: Any) -> Any:
    """A value that is missing is null, as to Kubernetes; Go's clients leave out empty ones (omitempty)."""
    if isinstance(operation, dict) and operation.get("op") in ("add", "replace", "test"):
        return {"value": None, **operation}
    return operation


def _applied(patch: jsonpatch.JsonPatch, obj: Any) -> Any:
    """Copies may add no more than a body could: each can double the object, so a few dozen would fill any memory."""
    if not any(isinstance(op, dict) and op.get("op") == "copy" for op in patch.patch):
        return patch.apply(obj)
    out, copied = copy.deepcopy(obj), 0
    for op in patch.patch:
        if op["op"] == "copy" and isinstance(op.get("from"), str):
            copied += len(orjson.dumps(jsonpatch.JsonPointer(op["from"]).resolve(out)))
            if copied > _MAX_COPIED_BYTES:
                raise jsonpatch.JsonPatchConflict(
                    f"Unable to complete the copy, the accumulated size increase of copy is {copied}, "
                    f"exceeding the limit {_MAX_COPIED_BYTES}"
                )
        out = jsonpatch.JsonPatch([op]).apply(out, in_place=True)
    return out


def merge_patch(obj: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out = dict(obj) if isinstance(obj, dict) else {}
    for k, v in patch.items():
        if v is None:
            out.pop(k, None)
        else:
            out[k] = merge_patch(out.get(k), v)
    return out


def strategic_merge_patch(node: Node | None, obj: Any, patch: Any) -> Any:
    """Raises 400 for directives that make no sense and list items without their merge key."""
    if not isinstance(patch, dict):
        raise errors.bad_request("error decoding patch: a strategic merge patch is an object")
    return _merge_map(node, obj if isinstance(obj, dict) else {}, patch)


def _merge_map(node: Node | None, obj: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    directive = patch.get("$patch")
    if directive == "replace":
        return {k: v for k, v in patch.items() if k != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise errors.bad_request(f"Unknown patch type: {directive}")
    out = dict(obj)
    if "$retainKeys" in patch:
        retained = patch["$retainKeys"]
        if not isinstance(retained, list):
            raise errors.bad_request("invalid patch format of retainKeys")
        out = {k: v for k, v in out.items() if k in retained}
    for k, v in patch.items():
        if k.startswith(_DELETE):
            field = k[len(_DELETE) :]
            if isinstance(out.get(field), list) and isinstance(v, list):
                out[field] = _without(out[field], v)
        elif k in ("$patch", "$retainKeys") or k.startswith(_ORDER):
            continue
        elif v is None:
            out.pop(k, None)
        else:
            child = node.child(k) if node is not None else None
            out[k] = _merge_value(child, out.get(k), v)
    for k, v in patch.items():
        if k.startswith(_ORDER):
            field = k[len(_ORDER) :]
            child = node.child(field) if node is not None else None
            if isinstance(out.get(field), list) and isinstance(v, list):
                out[field] = _ordered(child, out[field], v)
    return out


def _merge_value(node: Node | None, have: Any, patch: Any) -> Any:
    if isinstance(patch, dict):
        if node is not None and "replace" in node.strategies:
            return _merge_map(node, {}, patch)
        return _merge_map(node, have if isinstance(have, dict) else {}, patch)
    if isinstance(patch, list):
        return _merge_list(node, have if isinstance(have, list) else [], patch)
    return patch


def _merge_list(node: Node | None, have: list[Any], patch: list[Any]) -> list[Any]:
    directives = [p for p in patch if isinstance(p, dict) and "$patch" in p]
    if any(p["$patch"] == "replace" and len(p) == 1 for p in directives):
        return [p for p in patch if not (isinstance(p, dict) and "$patch" in p)]
    if node is None or "merge" not in node.strategies:
        return [_merge_map(node.elem if node else None, {}, p) if isinstance(p, dict) else p for p in patch]
    elem = node.elem
    if elem is None or elem.kind not in (Kind.STRUCT, Kind.MAP) or not node.merge_key:
        return _added(have, patch)
    return _merge_items(node, have, patch)


def _without(items: list[Any], gone: list[Any]) -> list[Any]:
    members = set(map(_member, gone))
    return [x for x in items if _member(x) not in members]


def _added(items: list[Any], more: list[Any]) -> list[Any]:
    """Those of `more` behind that are not there, each once."""
    found = {_member(x) for x in items}
    out = list(items)
    for x in more:
        member = _member(x)
        if member not in found:
            found.add(member)
            out.append(x)
    return out


def _member(value: Any) -> Hashable:
    """A value of JSON as a member of a set."""
    return value if isinstance(value, str) else orjson.dumps(value)


def _merge_items(node: Node, have: list[Any], patch: list[Any]) -> list[Any]:
    """By merge key; the first of several items with one key is the one that is merged."""
    key = node.merge_key
    out: list[Any] = list(have)
    places: dict[Hashable, list[int]] = {}
    for i, item in enumerate(out):
        if isinstance(item, dict):
            places.setdefault(_member(item.get(key)), []).append(i)
    for p in patch:
        if not isinstance(p, dict) or key not in p:
            shown = orjson.dumps(p).decode()
            raise errors.bad_request(f"map: {shown} does not contain declared merge key: {key}")
        at, directive = places.setdefault(_member(p[key]), []), p.get("$patch")
        if directive == "delete":
            for i in at:
                out[i] = _GONE
            at.clear()
        elif directive == "replace" or not at:
            new = _merge_map(node.elem, {}, {k: v for k, v in p.items() if k != "$patch"})
            if at:
                out[at[0]] = new
            else:
                at.append(len(out))
                out.append(new)
        else:
            out[at[0]] = _merge_map(node.elem, out[at[0]], p)
    return [item for item in out if item is not _GONE]


def _ordered(node: Node | None, items: list[Any], order: list[Any]) -> list[Any]:
    """`items` in the order the client sees; those it does not know stay behind the one they followed."""
    key = node.merge_key if node is not None else ""

    def of(v: Any) -> Hashable:
        return _member(v.get(key) if isinstance(v, dict) else v)

    rank = {of(o): i for i, o in enumerate(order)}
    wish = sorted((v for v in items if of(v) in rank), key=lambda v: rank[of(v)])
    return merged_order(items, wish, of, lambda a, b: b)
