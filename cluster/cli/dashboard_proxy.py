"""The way of a browser on this box to the API server's web page, as the cluster's administrator. IO.

    browser ── http 127.0.0.1, token of this command ──> proxy ── https, administrator's certificate ──> API server

The certificate stays here. The token is made anew each time, is good for this proxy alone and ends with it; it travels
behind the `#` of the printed address, which browsers send to nobody, and the page keeps it in its tab. Nothing is sent
along by the browser itself, as cookies are, so another site's page cannot use the proxy. Invariant: what the page does
not need does not pass: only reads, no exec, no Secrets.
"""

from __future__ import annotations

import contextlib
import hmac
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import aiohttp
import yarl
from aiohttp import web

from cluster.api import errors
from cluster.apiserver.authn import credentials, websocket_protocols
from cluster.apiserver.streams import relay

PAGE = "/dashboard"
_REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_READABLE = re.compile(r"/(api|apis|healthz|livez|readyz|version|metrics)(/|$)")
_METRICS = re.compile(r"/api/v1/nodes/[^/]+/proxy/metrics(/|$)")
_REFUSED = re.compile(r"/(exec|attach|portforward|proxy)(/|$)|/secrets(/|$)")
_PASSED_ON = ("Accept", "Content-Type", "If-None-Match")
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"})
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30)


def is_page(path: str) -> bool:
    return path == PAGE or path.startswith(PAGE + "/")


def allowed(method: str, path: str) -> bool:
    """Whether the page, or what it is made of, may ask that; `path` is decoded, so that no spelling of a name gets
    around, and says itself where it leads. Pure."""
    if ".." in unquote(path).split("/"):
        return False
    if method == "POST":
        return path == _REVIEW
    if method not in ("GET", "HEAD") or not (is_page(path) or _READABLE.match(path)):
        return False
    return bool(_METRICS.match(path)) or not _REFUSED.search(path)


@dataclass
class DashboardProxy:
    server: str
    tls: ssl.SSLContext
    impersonate: list[tuple[str, str]]
    valid_s: float
    clock: Callable[[], float] = time.monotonic
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def address(self, port: int) -> str:
        return f"http://127.0.0.1:{port}{PAGE}/#token={self.token}"

    @contextlib.asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[int]:
        """Gives the port it listens on. Raises OSError when that is taken."""
        self._ends = self.clock() + self.valid_s
        connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, auto_decompress=False) as self._session:
            runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            try:
                site = web.TCPSite(runner, "127.0.0.1", port)
                await site.start()
                self._port = int(runner.addresses[0][1])
                yield self._port
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self._admit(request)
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._socket(request)
            return await self._pass(request)
        except errors.ApiError as e:
            return web.json_response(e.status(), status=e.code)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            return web.json_response(_unavailable(e).status(), status=503)

    def _admit(self, request: web.BaseRequest) -> None:
        """Raises ApiError. The Host is checked, so that a name which resolves to 127.0.0.1 opens nothing."""
        if request.host not in (f"127.0.0.1:{self._port}", f"localhost:{self._port}"):
            raise errors.ApiError(403, "Forbidden", "this address is not one of the dashboard's")
        path = request.path
        given = credentials(request.headers).removeprefix("Bearer ")
        known = self.clock() <= self._ends and hmac.compare_digest(given.encode(), self.token.encode())
        if not known and not is_page(path):
            raise errors.unauthorized()
        if not allowed(request.method, path):
            raise errors.ApiError(
                403, "Forbidden", f"sk8 dashboard only reads; it does not pass on {request.method} {path}"
            )

    def _target(self, request: web.BaseRequest) -> yarl.URL:
        return yarl.URL(self.server + request.raw_path, encoded=True)

    def _headers(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        return [(name, headers[name]) for name in _PASSED_ON if name in headers] + self.impersonate

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        async with self._session.request(
            request.method, self._target(request), headers=self._headers(request.headers), data=body or None,
            allow_redirects=False,
        ) as answer:  # fmt: skip
            headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def _socket(self, request: web.BaseRequest) -> web.StreamResponse:
        protocols = websocket_protocols(request.headers, with_token=False)
        async with self._session.ws_connect(
            self._target(request), headers=self._headers(request.headers), protocols=protocols, max_msg_size=0
        ) as upstream:
            downstream = web.WebSocketResponse(
                protocols=[upstream.protocol] if upstream.protocol else [], max_msg_size=0
            )
            await downstream.prepare(request)
            await relay(downstream, upstream)
            return downstream


def _unavailable(error: Exception) -> errors.ApiError:
    return errors.ApiError(503, "ServiceUnavailable", f"the API server does not answer: {error}")
