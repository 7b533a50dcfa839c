"""What aggregated API servers say of their groups in OpenAPI: an entry of v3's index, and a part of v2's document.

IO: asks those servers, with the ETags of what is known already. Availability asks whenever it finds a server well, and
forgets one that does not answer; a description that cannot be read is skipped, and hides nobody else's. v3's documents
are not kept: they are passed on when a client asks. Source: k8s.io/kube-aggregator `pkg/controllers/openapi{,v3}`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict

from cluster.api import openapi_merge
from cluster.api.bodies import read_at_most
from cluster.api.errors import ApiError
from cluster.apiserver.aggregation import KUBE_AGGREGATOR, Aggregator, GroupVersion, Object, remote_headers

log = logging.getLogger(__name__)

_ASK_S = 10.0
_MAX_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Described:
    """`url`: v3's serverRelativeURL, "" when there is none; `part`: the paths and definitions of v2."""

    url: str = ""
    part: Object = field(default_factory=dict)


@dataclass(slots=True)
class _Known:
    described: Described
    etags: dict[str, str]


class RemoteOpenApi:
    """`generation` counts changes of what is described."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator
        self._known: dict[GroupVersion, _Known] = {}
        self._tasks: dict[GroupVersion, asyncio.Task[None]] = {}
        self.generation = 0

    def described(self) -> dict[GroupVersion, Described]:
        return {gv: k.described for gv, k in sorted(self._known.items())}

    def look(self, service: Object, gv: GroupVersion) -> None:
        """Begin to ask anew, unless that goes on already: a server that is slow at it holds up nobody."""
        task = self._tasks.get(gv)
        if task is None or task.done():
            self._tasks[gv] = asyncio.create_task(self._look(service, gv), name="remote-openapi")

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _look(self, service: Object, gv: GroupVersion) -> None:
        known = self._known.setdefault(gv, _Known(Described(), {}))
        path = f"apis/{gv[0]}/{gv[1]}"
        index = await self._read(service, "/openapi/v3", known.etags)
        spec = await self._read(service, "/openapi/v2", known.etags)
        before = known.described
        url = before.url if index is None else openapi_merge.url_of(index, path)
        part = before.part if spec is None else await asyncio.to_thread(openapi_merge.readable_part, spec, f"/{path}")
        known.described = Described(url, part)
        if known.described != before:
            self.generation += 1

    def forget(self, gv: GroupVersion) -> None:
        """Its server does not answer, or is no longer asked for."""
        task = self._tasks.pop(gv, None)
        if task is not None:
            task.cancel()
        known = self._known.pop(gv, None)
        if known is not None and known.described != Described():
            self.generation += 1

    async def _read(self, service: Object, path: str, etags: dict[str, str]) -> Object | None:
        """The document there; {} when there is none, None when it is as before."""
        headers = CIMultiDict([("Accept", "application/json"), *remote_headers(KUBE_AGGREGATOR)])
        if etags.get(path):
            headers["If-None-Match"] = etags[path]
        timeout = aiohttp.ClientTimeout(total=_ASK_S)
        etag = ""
        found: Any = {}
        try:
            async with await self._aggregator.ask(service, "GET", path, headers, None, timeout) as answer:
                if answer.status == 304:
                    return None
                if answer.status == 200:
                    raw, longer = await read_at_most(answer.content.iter_any(), _MAX_BYTES)
                    found = {} if longer else await asyncio.to_thread(orjson.loads, raw)
                    etag = answer.headers.get("ETag", "")
        except (aiohttp.ClientError, OSError, ValueError, ApiError) as e:
            log.warning("%s of APIService %s cannot be read: %s", path, service["metadata"]["name"], e)
        etags[path] = etag
        return found if isinstance(found, dict) else {}
