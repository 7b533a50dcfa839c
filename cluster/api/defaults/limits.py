"""Defaults of LimitRange (pkg/apis/core/v1/defaults.go). Pure, in place."""

from __future__ import annotations

from typing import Any


def default_limit_range(obj: dict[str, Any]) -> None:
    """A Container item's missing defaults: the limit is `max`, the request is the limit, else `min`."""
    for item in (obj.get("spec") or {}).get("limits") or ():
        if item.get("type") != "Container":
            continue
        limit = {**(item.get("max") or {}), **(item.get("default") or {})}
        request = {**(item.get("min") or {}), **limit, **(item.get("defaultRequest") or {})}
        if limit:
            item["default"] = limit
        if request:
            item["defaultRequest"] = request
