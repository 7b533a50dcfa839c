"""Resources inside of custom resources: they have an apiVersion, a kind, and metadata like others.

Pure. Source: k8s.io/apiextensions-apiserver `pkg/apiserver/schema/objectmeta/validation.go`.
"""

from __future__ import annotations

from typing import Any

from cluster.api.crd.structural import Schema
from cluster.api.validation import metadata
from cluster.api.validation.fields import Faults, dns_1035_label


def validate(faults: Faults, schema: Schema, value: Any, path: str = "") -> None:
    """Add what is wrong with the resources at and below `path`."""
    if not schema.has_embedded:
        return
    if isinstance(value, dict):
        if schema.embedded:
            _resource(faults, value, path)
        for key, item in value.items():
            known = schema.properties.get(key)
            if known is not None:
                validate(faults, known, item, f"{path}.{key}" if path else key)
            elif schema.additional is not None:
                validate(faults, schema.additional, item, f"{path}[{key}]")
    elif isinstance(value, list) and schema.items is not None:
        for i, item in enumerate(value):
            validate(faults, schema.items, item, f"{path}[{i}]")


def _resource(faults: Faults, value: dict[str, Any], path: str) -> None:
    for field in ("apiVersion", "kind"):
        if field not in value:
            faults.required(f"{path}.{field}")
    version, kind = value.get("apiVersion", "v1"), value.get("kind", "x")
    if not isinstance(version, str):
        faults.invalid(f"{path}.apiVersion", version, "must be a string")
    elif not version:
        faults.invalid(f"{path}.apiVersion", version, "must not be empty")
    elif version.count("/") > 1:
        faults.invalid(f"{path}.apiVersion", version, f"unexpected GroupVersion string: {version}")
    if not isinstance(kind, str):
        faults.invalid(f"{path}.kind", kind, "must be a string")
    elif not kind:
        faults.invalid(f"{path}.kind", kind, "must not be empty")
    elif why := dns_1035_label(kind.lower()):
        faults.invalid(f"{path}.kind", kind, f"may have mixed case, but should otherwise match: {why}")
    if isinstance(value.get("metadata"), dict):
        metadata.validate_embedded(faults, f"{path}.metadata", value["metadata"])
