"""Unknown fields out, defaults in: what happens to a custom object before it is judged.

Pure; both work in place on the registry's own tree. Only metadata, apiVersion and kind (at the root and in embedded
resources) are known without being written in the schema.
"""

from __future__ import annotations

import copy
from typing import Any

from cluster.api import schema as builtin
from cluster.api import typecheck
from cluster.api.crd.structural import MISSING, Schema

Json = dict[str, Any]

_ROOT = frozenset(("apiVersion", "kind", "metadata"))


class BadMetadata(ValueError):
    """Metadata of a resource inside of another that cannot be read."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = path


def metadata_node() -> builtin.Node:
    """The shape of ObjectMeta."""
    return builtin.node_for("", "v1", "ConfigMap").fields["metadata"]


def prune(schema: Schema, obj: Json) -> list[str]:
    """Drop what the schema does not know; the paths of what was dropped. Raises typecheck.DecodeError for metadata that
    cannot be read, BadMetadata for that of an embedded resource."""
    unknown: list[str] = []
    _metadata(obj, "", unknown)
    for key in list(obj):
        if key in _ROOT:
            continue
        sub = schema.child(key)
        if sub is not None:
            _prune(sub, obj[key], key, unknown)
        elif not schema.preserve:
            del obj[key]
            unknown.append(key)
    return unknown


def _metadata(obj: Json, path: str, unknown: list[str]) -> None:
    if obj.get("metadata") is None:
        obj.pop("metadata", None)
        return
    try:
        clean, dropped = typecheck.prune(metadata_node(), obj["metadata"])
    except typecheck.DecodeError as e:
        if path:
            raise BadMetadata(f"{path}metadata", str(e)) from e
        raise
    obj["metadata"] = clean
    unknown.extend(f"{path}metadata.{d}" for d in dropped)


def _prune(schema: Schema, value: Any, path: str, unknown: list[str]) -> None:
    if isinstance(value, list):
        if schema.items is not None:
            for i, item in enumerate(value):
                _prune(schema.items, item, f"{path}[{i}]", unknown)
        return
    if not isinstance(value, dict):
        return
    if schema.embedded and isinstance(value.get("metadata"), dict):
        _metadata(value, path + ".", unknown)
    for key in list(value):
        if schema.embedded and key in _ROOT:
            continue
        sub = schema.child(key)
        if sub is not None:
            _prune(sub, value[key], f"{path}.{key}", unknown)
        elif not schema.preserve:
            del value[key]
            unknown.append(f"{path}.{key}")


def apply_defaults(schema: Schema, value: Any) -> bool:
    """Fill in defaults, also for nulls where null is not allowed; whether anything changed."""
    if not schema.has_defaults:
        return False
    changed = False
    if isinstance(value, dict):
        for key, sub in schema.properties.items():
            if not sub.has_defaults:
                continue
            present = value.get(key, MISSING)
            if sub.default is not MISSING and (present is MISSING or (present is None and not sub.nullable)):
                value[key] = copy.deepcopy(sub.default)
                changed = True
            if key in value:
                changed |= apply_defaults(sub, value[key])
        extra = schema.additional
        if extra is not None and extra.has_defaults:
            for key, item in value.items():
                if key not in schema.properties:
                    changed |= apply_defaults(extra, item)
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            changed |= apply_defaults(schema.items, item)
    return changed


def drop_nulls(schema: Schema, value: Any) -> None:
    """A null where null is not allowed, and where a default stands, is as if it were not written."""
    if isinstance(value, dict):
        for key in list(value):
            sub = schema.properties.get(key)
            if sub is None:
                continue
            if value[key] is None and not sub.nullable and sub.default is not MISSING:
                del value[key]
            else:
                drop_nulls(sub, value[key])
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            drop_nulls(schema.items, item)
