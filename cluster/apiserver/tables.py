"""The server-side Table form: what `kubectl get` prints. Pure.

Each kind has a Printer: columns, and a function from object and time to cells, in `printers_*.py`. Kinds without one
get Name and Created At. Source: meta.k8s.io/v1 Table; Kubernetes pkg/printers/internalversion (columns and status
words).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.api.meta import parse_time
from cluster.api.scheme import ResourceInfo

Object = Mapping[str, Any]
Cells = list[Any]
RowFn = Callable[[Object, float], Cells]

_NAME_TEXT = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a "
    "client to request the generation of an appropriate name automatically. Name is primarily intended for creation "
    "idempotence and configuration definition. Cannot be updated. More info: "
    "https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
)
_AGE_TEXT = (
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed "
    "to be set in happens-before order across separate operations. Clients may not set this value. It is represented "
    "in RFC3339 form and is in UTC."
)


@dataclass(frozen=True, slots=True)
class Column:
    """`priority` 0 is always shown, 1 only with -o wide."""

    name: str
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


NAME = Column("Name", format="name", description=_NAME_TEXT)
AGE = Column("Age", description=_AGE_TEXT)
CREATED_AT = Column("Created At", "date", description=_AGE_TEXT)


def col(name: str, type_: str = "string") -> Column:
    return Column(name, type_)


def wide(name: str, type_: str = "string") -> Column:
    return Column(name, type_, 1)


@dataclass(frozen=True, slots=True)
class Printer:
    columns: tuple[Column, ...]
    row: RowFn


def _default_row(obj: Object, now: float) -> Cells:
    meta = obj.get("metadata") or {}
    return [meta.get("name", ""), meta.get("creationTimestamp")]


DEFAULT = Printer((NAME, CREATED_AT), _default_row)
PRINTERS: dict[str, Printer] = {}


def printer_for(info: ResourceInfo, obj: Object | None = None) -> Printer:
    """The printer of a resource, or of `obj` where that is a Scale of it; loads the printers at first use."""
    if not PRINTERS:
        from cluster.apiserver import printers_apps, printers_core, printers_misc, printers_pods

        for module in (printers_core, printers_pods, printers_apps, printers_misc):
            PRINTERS.update(module.PRINTERS)
    if obj is not None and obj.get("kind") == "Scale" and obj.get("apiVersion") == "autoscaling/v1":
        return PRINTERS["scales.autoscaling"]
    if info.custom is not None:
        from cluster.apiserver.printers_custom import printer_of

        return printer_of(info.custom)
    return PRINTERS.get(info.name, DEFAULT)


def row(printer: Printer, obj: Object, now: float, include: str) -> dict[str, Any]:
    """One Table row; `include` is includeObject: None, Metadata or Object."""
    out: dict[str, Any] = {"cells": printer.row(obj, now)}
    if include == "Object":
        out["object"] = obj
    elif include != "None":
        out["object"] = partial_metadata(obj)
    return out


def table(
    printer: Printer,
    rows: Iterable[dict[str, Any]],
    *,
    version: str = "v1",
    columns: bool = True,
    list_meta: Object | None = None,
) -> dict[str, Any]:
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": dict(list_meta or {}),
        "columnDefinitions": [c.to_dict() for c in printer.columns] if columns else [],
        "rows": list(rows),
    }


def partial_metadata(obj: Object, version: str = "v1") -> dict[str, Any]:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": obj.get("metadata") or {},
    }


# --- cells ------------------------------------------------------------------------------------------------------------


def human_duration(seconds: float) -> str:
    """Kubernetes' duration.HumanDuration: two units at most, fewer as time grows."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes = total // 60
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = total // 3600
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two(hours // 24, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{hours // 24}d"
    if hours < 24 * 365 * 8:
        return _two(hours // 24 // 365, "y", (hours // 24) % 365, "d")
    return f"{hours // 24 // 365}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def since(text: str | None, now: float) -> str:
    """How long ago an RFC 3339 time was; `<unknown>` when it is not set."""
    if not text:
        return "<unknown>"
    try:
        return human_duration(now - parse_time(text))
    except ValueError:
        return "<invalid>"


def name_of(obj: Object) -> str:
    return str((obj.get("metadata") or {}).get("name", ""))


def age(obj: Object, now: float) -> str:
    return since((obj.get("metadata") or {}).get("creationTimestamp"), now)


def at(obj: Object, *path: str) -> Any:
    """The value at a path of keys, None when any is missing."""
    found: Any = obj
    for key in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def count(obj: Object, *path: str) -> int:
    return int(at(obj, *path) or 0)


def text(obj: Object, *path: str, default: str = "") -> str:
    found = at(obj, *path)
    return default if found in (None, "") else str(found)


def format_labels(labels: Mapping[str, str] | None) -> str:
    """`a=b,c=d` sorted, `<none>` when empty."""
    return ",".join(f"{k}={v}" for k, v in sorted((labels or {}).items())) or "<none>"


def format_selector(selector: Mapping[str, Any] | None) -> str:
    """A LabelSelector struct as kubectl prints it."""
    if selector is None:
        return "<none>"
    parts = [f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items())]
    for e in selector.get("matchExpressions") or ():
        key, op, values = e.get("key", ""), e.get("operator"), ",".join(sorted(e.get("values") or ()))
        parts.append(
            {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}.get(str(op), f"!{key}")
        )
    return ",".join(parts) or "<none>"


def containers(obj: Object, *path: str) -> tuple[str, str]:
    """Comma-joined container names and images of the pod template at `path`."""
    found = at(obj, *path, "containers") or []
    return ",".join(str(c.get("name", "")) for c in found), ",".join(str(c.get("image", "")) for c in found)
