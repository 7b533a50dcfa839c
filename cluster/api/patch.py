"""Patches: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes' strategic merge patch.

Pure: each returns a new tree; the inputs are not changed, but may be shared by the result. Strategic merge patch
needs the schema: lists with a merge key are merged item by item, and directives ($patch, $retainKeys,
$deleteFromPrimitiveList, $setElementOrder) say what merging cannot (k8s.io/apimachinery `util/strategicpatch`).
"""

from __future__ import annotations

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
        return jsonpatch.JsonPatch(operations).apply(obj)
    except jsonpatch.InvalidJsonPatch as e:
        raise errors.bad_request(f"error decoding patch: {e}") from e
    except jsonpatch.JsonPatchTestFailed as e:
        raise errors.ApiError(422, "Invalid", f"{_REJECTED}: testing the value failed") from e
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError) as e:
        raise errors.ApiError(422, "Invalid", _REJECTED, {"causes": [{"message": str(e)}]}) from e


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
                out[field] = [x for x in out[field] if x not in v]
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
        return [*have, *(p for p in dict.fromkeys(patch) if p not in have)]
    return _merge_items(node, have, patch)


def _merge_items(node: Node, have: list[Any], patch: list[Any]) -> list[Any]:
    key = node.merge_key
    out = list(have)
    for p in patch:
        if not isinstance(p, dict) or key not in p:
            shown = orjson.dumps(p).decode()
            raise errors.bad_request(f"map: {shown} does not contain declared merge key: {key}")
        value, directive = p[key], p.get("$patch")
        at = next((i for i, x in enumerate(out) if isinstance(x, dict) and x.get(key) == value), None)
        if directive == "delete":
            out = [x for x in out if not (isinstance(x, dict) and x.get(key) == value)]
        elif directive == "replace" or at is None:
            new = _merge_map(node.elem, {}, {k: v for k, v in p.items() if k != "$patch"})
            out = [*out, new] if at is None else [*out[:at], new, *out[at + 1 :]]
        else:
            out[at] = _merge_map(node.elem, out[at], p)
    return out


def _ordered(node: Node | None, items: list[Any], order: list[Any]) -> list[Any]:
    """`items` in the order the client sees; those it does not know stay behind the one they followed."""
    key = node.merge_key if node is not None else ""

    def of(v: Any) -> Any:
        return v.get(key) if isinstance(v, dict) else v

    present = {of(v) for v in items}
    wish = [v for v in items if of(v) in {of(o) for o in order}]
    rank = {of(o): i for i, o in enumerate(order)}
    wish.sort(key=lambda v: rank[of(v)])
    return merged_order(items, wish, of, lambda a, b: b) if present else items
