"""Lists of type set and map hold no two items of one identity.

Pure. Source: k8s.io/apiextensions-apiserver `pkg/apiserver/schema/listtype`.
"""

from __future__ import annotations

from typing import Any

import orjson

from cluster.api.crd.structural import Schema
from cluster.api.validation.fields import Faults

_SORTED = orjson.OPT_SORT_KEYS


def validate(faults: Faults, schema: Schema, obj: dict[str, Any], path: str = "") -> None:
    for key, value in obj.items():
        known = schema.properties.get(key)
        if known is not None:
            _value(faults, known, value, f"{path}.{key}" if path else key)
        elif schema.additional is not None:
            _value(faults, schema.additional, value, f"{path}[{key}]")


def _value(faults: Faults, schema: Schema, value: Any, path: str) -> None:
    if isinstance(value, dict):
        validate(faults, schema, value, path)
    elif isinstance(value, list):
        if schema.list_type == "set":
            _unique(faults, path, value)
        elif schema.list_type == "map":
            _keyed(faults, schema, path, value)
        if schema.items is not None:
            for i, item in enumerate(value):
                _value(faults, schema.items, item, f"{path}[{i}]")


def _unique(faults: Faults, path: str, identities: list[Any]) -> None:
    """Each identity that is there more than once is named at its second place."""
    seen: dict[bytes, int] = {}
    for i, identity in enumerate(identities):
        key = orjson.dumps(identity, option=_SORTED)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == 2:
            faults.duplicate(f"{path}[{i}]", identity)


def _keyed(faults: Faults, schema: Schema, path: str, value: list[Any]) -> None:
    for i, item in enumerate(value):
        if item is not None and not isinstance(item, dict):
            faults.invalid(f"{path}[{i}]", item, "must be an object for an array of list-type map")
            return
    _unique(faults, path, [{k: i[k] for k in schema.list_keys if k in i} if i else {} for i in value])
