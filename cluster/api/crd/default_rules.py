"""Defaults of a schema: each must be whole, without fields that the schema does not know, and valid itself.

Pure. Defaults below additionalProperties are not looked at, as in Kubernetes. Source: k8s.io/apiextensions-apiserver
`pkg/apiserver/schema/defaulting/validation.go`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from cluster.api.crd import instances, pruning, rules
from cluster.api.crd.structural import Schema
from cluster.api.errors import Cause
from cluster.api.validation.fields import Faults

Json = dict[str, Any]


def validate(faults: Faults, path: str, raw: Json, schema: Schema) -> None:
    """`raw` is the structural openAPIV3Schema at `path`, `schema` the same compiled."""
    if raw.get("default") is not None:
        _default(faults, f"{path}.default", raw["default"], schema)
    if isinstance(raw.get("items"), dict) and schema.items is not None:
        validate(faults, f"{path}.items", raw["items"], schema.items)
    for name, sub in (raw.get("properties") or {}).items():
        validate(faults, f"{path}.properties[{name}]", sub, schema.properties[name])


def _default(faults: Faults, path: str, value: Any, schema: Schema) -> None:
    holder = Schema(type="object", properties={"value": schema}, has_rules=schema.has_rules)
    if pruning.prune(holder, {"value": copy.deepcopy(value)}):
        faults.invalid(path, value, "must not have unknown fields")
    wrapped = {"value": value}
    found = instances.validate(holder, wrapped) or rules.validate(holder, wrapped)
    faults.causes += [_at(path, cause) for cause in found]


def _at(path: str, cause: Cause) -> Cause:
    message = cause.message.replace(": value in body", f": {path} in body")
    return replace(cause, message=message, field=path + cause.field.removeprefix("value"))
