"""Docker's HTTP API without the docker package: what is followed (logs, events) and what must not hold a thread.

IO: the engine's unix socket, on asyncio. An answer begins within a bounded time; what is followed may then go on for
ever. Fulfils no protocol; used by DockerRuntime and its parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import aiohttp

from cluster.node.docker_calls import API_VERSION, LOOK_S
from cluster.node.runtime import UNANSWERED, RuntimeFailure

PREFIX = f"/v{API_VERSION}"
_REASONS = {404: "NotFound", 409: "Conflict"}


class DockerHttp:
    """Belongs to the loop it is first used on. Raises RuntimeFailure, UNANSWERED when the time is over."""

    def __init__(self, socket_path: str) -> None:
        self._socket = socket_path
        self._http: aiohttp.ClientSession | None = None

    async def json(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, limit_s: float = LOOK_S
    ) -> dict[str, Any]:
        """The answer's object; {} when it has no body."""
        async with self._answer(method, path, body, limit_s) as response:
            async with asyncio.timeout(limit_s):
                data = await response.read()
        return dict(json.loads(data)) if data.strip() else {}

    @contextlib.asynccontextmanager
    async def follow(self, path: str, **query: str) -> AsyncIterator[aiohttp.StreamReader]:
        """The answer's bytes as they come."""
        async with self._answer("GET", f"{path}?{urlencode(query)}", None, LOOK_S) as response:
            yield response.content

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, limit_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with asyncio.timeout(limit_s):
                response = await self._session().request(method, f"http://docker{PREFIX}{path}", json=body)
            async with response:
                if response.status >= 400:
                    raise RuntimeFailure(body_message(await response.read()), _REASONS.get(response.status, ""))
                yield response
        except TimeoutError as err:
            message = f"context deadline exceeded: the container engine gave no answer within {limit_s:.0f} s"
            raise RuntimeFailure(message, UNANSWERED) from err
        except (aiohttp.ClientError, OSError) as err:
            raise RuntimeFailure(f"the container engine does not answer at {self._socket}: {err}") from err

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._socket, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            )
        return self._http


def body_message(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message") or "unknown error")
    except ValueError:
        return data.decode("utf-8", "replace").strip() or "unknown error"
