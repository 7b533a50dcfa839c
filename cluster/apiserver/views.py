"""Stored bytes in the form a client asked for: plain JSON, Table, metadata only.

Pure, but long lists yield to the loop.

Invariant: plain JSON is never decoded; a LIST is its objects' stored bytes joined. Bytes given here are those of the
hub; what a view of it shows (`cluster.api.conversion`) is made here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from cluster.api import conversion, errors
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.apiserver import tables
from cluster.apiserver.negotiate import Accept

_SLICE = 200


class Source(Protocol):
    """An Entry of the cache or a Stored of the registry."""

    @property
    def raw(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Bytes:
    """A Source made for the occasion."""

    raw: bytes


def include_of(value: str) -> str:
    if value not in ("", "None", "Metadata", "Object"):
        raise errors.bad_request(f"unrecognized includeObject value: {value!r}")
    return value or "Metadata"


def decoded(raw: bytes) -> dict[str, Any]:
    obj: dict[str, Any] = orjson.loads(raw)
    return obj


def shown(info: ResourceInfo, raw: bytes) -> bytes:
    """Stored JSON as `info` shows it."""
    return conversion.raw_view(info, raw) if info.view_of else raw


def stored_form(info: ResourceInfo, raw: bytes) -> bytes:
    """The inverse of `shown`, for what the registry has converted already."""
    return orjson.dumps(conversion.to_hub(info, orjson.loads(raw), SCHEME.hub(info))) if info.view_of else raw


def stored_forms(info: ResourceInfo, items: Sequence[Source]) -> Sequence[Source]:
    return [Bytes(stored_form(info, i.raw)) for i in items] if info.view_of else items


def _row(info: ResourceInfo, printer: tables.Printer, obj: dict[str, Any], now: float, include: str) -> dict[str, Any]:
    row = tables.row(printer, obj, now, include)
    if info.view_of and include == "Object":
        row["object"] = conversion.to_view(info, obj)
    return row


def object_view(accept: Accept, info: ResourceInfo, raw: bytes, now: float, include: str) -> bytes:
    """One object as JSON in the asked form."""
    if not accept.transform:
        return shown(info, raw)
    obj = decoded(raw)
    if obj.get("kind") == "Status":
        return raw
    if accept.transform != "Table":
        return orjson.dumps(tables.partial_metadata(obj, accept.version))
    printer = tables.printer_for(SCHEME.hub(info) if info.view_of else info, obj)
    meta = {"resourceVersion": (obj.get("metadata") or {}).get("resourceVersion", "")}
    row = _row(info, printer, obj, now, include)
    return orjson.dumps(tables.table(printer, [row], version=accept.version, list_meta=meta))


def list_meta(revision: int, continue_token: str, remaining: int) -> dict[str, Any]:
    meta: dict[str, Any] = {"resourceVersion": str(revision)}
    if continue_token:
        meta["continue"] = continue_token
    if remaining > 0:
        meta["remainingItemCount"] = remaining
    return meta


async def list_view(
    accept: Accept, info: ResourceInfo, items: Sequence[Source], meta: dict[str, Any], now: float, include: str
) -> bytes:
    """A list as JSON in the asked form."""
    if accept.transform == "Table":
        printer = tables.printer_for(SCHEME.hub(info) if info.view_of else info)
        rows: list[bytes] = []
        for i, item in enumerate(items):
            rows.append(orjson.dumps(_row(info, printer, decoded(item.raw), now, include)))
            if i % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        head = orjson.dumps(tables.table(printer, (), version=accept.version, list_meta=meta))
        return head[: -len(b"]}")] + b",".join(rows) + b"]}"
    if accept.transform:
        metas: list[bytes] = []
        for i, item in enumerate(items):
            metas.append(orjson.dumps(tables.partial_metadata(decoded(item.raw), accept.version)))
            if i % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        return _list("PartialObjectMetadataList", f"meta.k8s.io/{accept.version}", meta, metas)
    return _list(
        info.list_kind,
        info.api_version,
        meta,
        [shown(info, item.raw) for item in items] if info.view_of else [item.raw for item in items],
    )


def _list(kind: str, api_version: str, meta: dict[str, Any], bodies: list[bytes]) -> bytes:
    head = b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[' % (
        kind.encode(),
        api_version.encode(),
        orjson.dumps(meta),
    )
    if not bodies:
        return head + b"]}"
    # Megabytes: joined with what goes around them, not copied into it.
    bodies = [head + bodies[0], *bodies[1:]]
    bodies[-1] += b"]}"
    return b",".join(bodies)


def event_view(
    accept: Accept, info: ResourceInfo, kind: str, raw: bytes, now: float, include: str, *, first: bool
) -> bytes:
    """One line of a watch stream in a transformed form; a Table has its columns in the first event only."""
    obj = decoded(raw)
    body: dict[str, Any]
    if accept.transform == "Table":
        printer = tables.printer_for(SCHEME.hub(info) if info.view_of else info)
        meta = {"resourceVersion": (obj.get("metadata") or {}).get("resourceVersion", "")}
        rows = [_row(info, printer, obj, now, include)] if kind != "BOOKMARK" else []
        body = tables.table(printer, rows, version=accept.version, columns=first, list_meta=meta)
    else:
        body = tables.partial_metadata(obj, accept.version)
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), orjson.dumps(body))
