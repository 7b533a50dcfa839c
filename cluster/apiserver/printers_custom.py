"""Table columns of custom resources: additionalPrinterColumns, or the age where a definition names none.

Pure. Source: k8s.io/apiextensions-apiserver `pkg/registry/customresource/tableconvertor`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from cluster.api.crd import jsonpath
from cluster.api.crd.versions import CustomVersion
from cluster.apiserver.tables import AGE, NAME, Cells, Column, Object, Printer, name_of, since

_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


@lru_cache(maxsize=1024)
def printer_of(custom: CustomVersion) -> Printer:
    written = custom.columns or [_AGE]
    try:
        paths = [(c["type"], jsonpath.parse(c["jsonPath"])) for c in written]
    except jsonpath.BadPath:  # accepted when it was written, as in Kubernetes, which then shows the age alone
        written, paths = [_AGE], [(_AGE["type"], jsonpath.parse(_AGE["jsonPath"]))]
    columns = (NAME, *(_column(c) for c in written))

    def row(obj: Object, now: float) -> Cells:
        return [name_of(obj), *(_cell(kind, jsonpath.find(path, obj), now) for kind, path in paths)]

    return Printer(columns, row)


def _column(written: dict[str, Any]) -> Column:
    description = AGE.description if written is _AGE else written.get("description") or ""
    fallback = f"Custom resource definition column (in JSONPath format): {written['jsonPath']}"
    priority, form = written.get("priority") or 0, written.get("format") or ""
    return Column(written["name"], written["type"], priority, form, description or fallback)


def _cell(kind: str, found: list[Any], now: float) -> Any:
    """None, which clients print as <none>, for what is not there or of another type."""
    if not found or found[0] is None:
        return None
    value = found[0]
    if kind == "string":
        if isinstance(value, bool):
            return str(value).lower()
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    if kind == "date":
        return since(value, now) if isinstance(value, str) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if kind == "integer" else value
