"""Cached custom objects in the version a request asks for.

Awaits the converter, which may call a webhook; nothing else. Entries hold what is stored. Where that is what the
version serves, which is the common case, it is passed on untouched; otherwise the other form is made once and kept
with the entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson

from cluster.api.crd.versions import CustomVersion
from cluster.api.scheme import ResourceInfo
from cluster.apiserver.cache import Entry
from cluster.registry.conversion import Converter
from cluster.registry.types import Stored

_SLICE = 500


class Versions:
    def __init__(self, converter: Converter) -> None:
        self._converter = converter

    async def one(self, info: ResourceInfo, entry: Entry) -> Entry:
        return entry if info.custom is None else (await self.entries(info, [entry]))[0]

    async def entries(self, info: ResourceInfo, entries: Sequence[Entry]) -> Sequence[Entry]:
        """In the same order; raises ApiError when a conversion webhook fails."""
        custom: CustomVersion | None = info.custom
        if custom is None or as_stored(info, entries):
            return entries
        missing = [e for e in entries if e.form is None or e.form[0] is not custom]
        for start in range(0, len(missing), _SLICE):
            some = missing[start : start + _SLICE]
            stored = [Stored(e.key, e.raw, e.revision) for e in some]
            served = await self._converter.served(custom, stored)
            for entry, before, after in zip(some, stored, served, strict=True):
                form = entry if after is before else Entry(entry.key, _with_version(after), entry.revision)
                entry.form = (custom, form)
            await asyncio.sleep(0)  # others are served between two slices
        return [e.form[1] if e.form is not None else e for e in entries]


def as_stored(info: ResourceInfo, entries: Sequence[Entry]) -> bool:
    """Whether the stored bytes are what this version serves."""
    custom: CustomVersion | None = info.custom
    if custom is None:
        return True
    return custom.trivial and all(e.raw.startswith(custom.head) for e in entries)


def _with_version(stored: Stored) -> bytes:
    """kind, apiVersion and resourceVersion first, as the codec writes them and `at_revision` finds them."""
    obj = stored.obj
    metadata = {"resourceVersion": str(stored.revision), **obj["metadata"]}
    rest = {k: v for k, v in obj.items() if k not in ("kind", "apiVersion", "metadata")}
    return orjson.dumps({"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": metadata, **rest})
