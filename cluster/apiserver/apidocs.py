"""Discovery and OpenAPI of everything served now, definitions included.

Awaits the catalog. Documents are made at first request, OpenAPI in a thread because it takes a good part of a second,
and kept as bytes: those of built-in groups for ever, the others until a definition changes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping

import orjson

from cluster.api import errors, openapi, openapi_v2
from cluster.api.crd.versions import priority
from cluster.api.scheme import EDGE, SCHEME, ResourceInfo
from cluster.apiserver import negotiate
from cluster.apiserver.aggregation import GroupVersion
from cluster.apiserver.availability import Availability
from cluster.apiserver.discovery import Discovery, Document
from cluster.apiserver.remote_openapi import Described
from cluster.registry.catalog import Catalog

V2_JSON, V2_PROTOBUF = "v2 json", "v2 protobuf"
# Clients write the type with @ or, since that is no token of RFC 9110, with a dot.
_V2_PROTOBUF_TYPES = frozenset({openapi_v2.PROTOBUF, openapi_v2.PROTOBUF.replace("@", ".")})


def v2_form(accept: str) -> str:
    """JSON or protobuf, whichever the client names first; raises ApiError 406 when it wants neither."""
    for member in negotiate.parse_media_types(accept):
        if member.type in _V2_PROTOBUF_TYPES:
            return V2_PROTOBUF
        if member.type in ("application/json", "application/*", "*/*"):
            return V2_JSON
    if accept:
        raise errors.not_acceptable(("application/json", openapi_v2.PROTOBUF))
    return V2_JSON


class ApiDocuments:
    def __init__(self, catalog: Catalog, availability: Availability) -> None:
        self._catalog = catalog
        self._availability = availability
        self._generation = (-1, -1, -1)
        self._described: dict[GroupVersion, Described] = {}
        self._custom: list[ResourceInfo] = []
        self._builtin_tasks: dict[str, asyncio.Task[Document]] = {}
        self._tasks: dict[str, asyncio.Task[Document]] = {}
        self.discovery = Discovery()

    async def refresh(self) -> None:
        """Take in what was defined before this call."""
        await self._catalog.fresh()
        remote = self._availability.openapi
        generation = (self._catalog.generation, self._availability.generation, remote.generation)
        if self._generation == generation:
            return
        self._generation = generation
        self._described = remote.described()
        self._custom = sorted(self._catalog.custom(), key=lambda i: (i.group, priority(i.version), i.plural))
        self.discovery = Discovery((*SCHEME.served(), *EDGE, *self._custom, *self._availability.resources))
        self._tasks = {}

    def elsewhere(self, which: str) -> GroupVersion | None:
        """The group version whose v3 document another server has."""
        parts = which.split("/")
        gv = (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "apis" else None
        return gv if gv is not None and gv in self._described and self._described[gv].url else None

    async def openapi(self, which: str) -> Document:
        """`which`: "" for v3's index, `api/v1` or `apis/<group>/<version>`, or one of v2's forms; else ApiError 404."""
        infos = [i for i in self._custom if which == f"apis/{i.group}/{i.version}"]
        builtin = bool(which) and which not in (V2_JSON, V2_PROTOBUF) and not infos
        tasks = self._builtin_tasks if builtin else self._tasks
        task = tasks.get(which)
        if task is None:
            work = asyncio.to_thread(_render, which, infos if builtin or infos else self._custom, self._described)
            task = tasks[which] = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except errors.ApiError:
            tasks.pop(which, None)
            raise


def _render(which: str, custom: list[ResourceInfo], described: Mapping[GroupVersion, Described]) -> Document:
    """Runs in a thread; `custom` are the custom resources that the document has to show, `described` what those
    documents that are of everything show of other servers."""
    aggregated = [d.part for d in described.values() if d.part]
    urls = {f"apis/{group}/{version}": d.url for (group, version), d in described.items() if d.url}
    parts = which.split("/")
    content_type = "application/json"
    if which == V2_JSON:
        body = orjson.dumps(openapi.document_v2(custom, aggregated))
    elif which == V2_PROTOBUF:
        body = openapi_v2.protobuf(openapi.document_v2(custom, aggregated))
        content_type = openapi_v2.PROTOBUF.replace("@", ".")
    elif not which:
        body = orjson.dumps(openapi.index(custom, urls))
    elif custom:
        body = openapi.render([*openapi.builtin(custom[0].group, custom[0].version), *custom])
    elif len(parts) == 2 and parts[0] == "api":
        body = _group_version("", parts[1])
    elif len(parts) == 3 and parts[0] == "apis":
        body = _group_version(parts[1], parts[2])
    else:
        raise errors.path_not_found()
    return Document(body, '"' + hashlib.sha256(body).hexdigest().upper() + '"', content_type)


def _group_version(group: str, version: str) -> bytes:
    try:
        return openapi.document_bytes(group, version)
    except KeyError:
        raise errors.path_not_found() from None
