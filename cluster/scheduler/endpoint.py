"""HTTPS on the machine's address: why pods are where they are. IO: a listening socket.

    GET /explain/<namespace>/<pod>[?now=1]     what `sk8 explain` prints, as JSON
    GET /healthz                               ok

Every caller shows a certificate of the cluster's CA that belongs to one of `allowed_groups`; refusals are Status
objects. Decisions are remembered by the instance that made them, so the leader is to be asked.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson
from aiohttp import web

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.machinery.mtls import groups_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ADMINISTRATORS = "system:masters"


class Explains(Protocol):
    def explain(self, namespace: str, name: str, *, now: bool = False) -> dict[str, Any]: ...


class Endpoint:
    def __init__(
        self,
        scheduler: Explains,
        host: str,
        port: int,
        tls: ssl.SSLContext,
        allowed_groups: frozenset[str] = frozenset((ADMINISTRATORS,)),
    ) -> None:
        self._scheduler = scheduler
        self._host = host
        self._tls = tls
        self._allowed = allowed_groups
        self._runner: web.AppRunner | None = None
        self.port = port

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        app = web.Application(middlewares=[self._authorize])
        app.router.add_get("/explain/{namespace}/{name}", self._explain)
        app.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self.port, ssl_context=self._tls).start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        groups = groups_of(request.transport.get_extra_info("peercert") if request.transport else None)
        try:
            if not groups & self._allowed:
                allowed = ", ".join(sorted(self._allowed))
                raise ApiError(403, "Forbidden", f"the client's certificate is of none of {allowed}")
            return await handler(request)
        except ApiError as err:
            return _json(err.status(), err.code)

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        asked = request.query.get("now", "0")
        if asked not in ("0", "1"):
            raise errors.bad_request(f"now={asked!r}: use 0 or 1")
        found = self._scheduler.explain(request.match_info["namespace"], request.match_info["name"], now=asked == "1")
        return _json(found, 200)

    async def _healthz(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")


def _json(body: object, status: int) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
