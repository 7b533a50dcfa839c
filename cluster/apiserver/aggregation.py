"""The aggregation layer: groups that another API server answers for, named by an APIService with a Service.

IO: HTTPS to those servers. A request for such a group and version is authenticated and authorized here, and passed on
with the caller's identity in X-Remote-* headers, under a client certificate that the other server trusts for that
(KEP "aggregated API servers", k8s.io/kube-aggregator `pkg/apiserver`). Whether a server is available is found out by
`availability.py`; a request for one that is not gets 503 at once.

Requests with Upgrade (exec, port-forward, watches by WebSocket) are passed on byte for byte (`upgrades.py`).

Invariants: nothing that proves the client's identity to us is passed on; identity headers of the client's own never
reach the other server.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import yarl
from aiohttp import web
from multidict import CIMultiDict

from cluster.api import errors
from cluster.api.meta import condition
from cluster.api.scheme import SCHEME
from cluster.apiserver import upgrades
from cluster.apiserver.authn import websocket_protocols
from cluster.apiserver.cache import Cache, Table
from cluster.apiserver.call import Call
from cluster.apiserver.config import ApiServerConfig
from cluster.registry.context import UserInfo

Object = dict[str, Any]
GroupVersion = tuple[str, str]
T = TypeVar("T")

_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "host", "content-length")
)  # fmt: skip
_IDENTITY = ("authorization", "impersonate-", "x-remote-")
_CHUNK = 64 * 1024
KUBE_AGGREGATOR = UserInfo("system:kube-aggregator", groups=("system:masters",))


def remote_headers(user: UserInfo) -> list[tuple[str, str]]:
    """Who asks, in the headers of --requestheader-*-headers."""
    out = [("X-Remote-User", user.name)]
    if user.uid:
        out.append(("X-Remote-Uid", user.uid))
    out += [("X-Remote-Group", g) for g in user.groups]
    out += [(f"X-Remote-Extra-{yarl.URL.build(path=k).raw_path}", v) for k, vs in user.extra.items() for v in vs]
    return out


def passed_on(headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """A client's headers without those of this connection and of its identity."""
    return CIMultiDict((k, v) for k, v in headers if k.lower() not in _HOP and not k.lower().startswith(_IDENTITY))


@dataclass(frozen=True, slots=True)
class _Server:
    """Where the server behind an APIService is, and the name that its certificate has to show."""

    name: str
    address: str
    port: int
    trust: ssl.SSLContext


class Aggregator:
    """`resolve(namespace, name)` gives a Service's cluster IP; raises ApiError."""

    def __init__(self, cache: Cache, config: ApiServerConfig, resolve: Callable[[str, str], Awaitable[str]]) -> None:
        self._cache = cache
        self._config = config
        self._resolve = resolve
        self._seen = -1
        self._remote: dict[GroupVersion, Object] = {}
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._session: aiohttp.ClientSession | None = None

    def _table(self) -> Table:
        return self._cache.table(SCHEME.named("apiservices.apiregistration.k8s.io"))

    def remote(self) -> dict[GroupVersion, Object]:
        """APIServices that name a Service, by group and version."""
        table = self._table()
        if self._seen != table.changed:
            self._seen = table.changed
            found = [e.decode() for e in table.select()]
            self._remote = {
                (s["spec"].get("group", ""), s["spec"].get("version", "")): s for s in found if s["spec"].get("service")
            }
        return self._remote

    def target(self, group: str, version: str) -> Object | None:
        """The APIService that answers for a group and version somewhere else."""
        return self.remote().get((group, version))

    async def proxy(self, call: Call, service: Object) -> web.StreamResponse:
        """Pass a request on, and its answer back, piece by piece. Raises ApiError 503 and 502."""
        available = condition(service, "Available")
        if available is None or available.get("status") != "True":
            raise errors.service_unavailable("service unavailable")
        headers = passed_on(call.headers.items())
        headers.extend(remote_headers(call.user))
        timeout = None if call.info.long_running else self._config.request_timeout_s
        try:
            if upgrades.asked(call):
                return await self._upgraded(call, service, headers)
            return await self._answered(call, service, headers, timeout)
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError) as e:
            raise errors.service_unavailable(f"error trying to reach service: {getattr(e, 'os_error', e)}") from e

    async def _answered(
        self, call: Call, service: Object, headers: CIMultiDict[str], timeout_s: float | None
    ) -> web.StreamResponse:
        request = call.request
        body = await call.body() if request.body_exists else None
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with await self.ask(service, request.method, request.raw_path, headers, body, timeout) as answer:
            response = web.StreamResponse(status=answer.status, headers=passed_on(answer.headers.items()))
            response.headers["Audit-Id"] = call.audit_id
            response.enable_chunked_encoding()
            await response.prepare(request)
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await response.write(chunk)
            await response.write_eof()
            return response

    async def _upgraded(self, call: Call, service: Object, headers: CIMultiDict[str]) -> web.StreamResponse:
        """A connection of the client's own to that server. Its head has to come within the request's time-out."""
        server = await self._server(service)
        headers.popall("Sec-WebSocket-Protocol", None)
        if protocols := websocket_protocols(call.headers, with_token=False):
            headers["Sec-WebSocket-Protocol"] = ", ".join(protocols)
        headers["Host"] = f"{server.name}:{server.port}"
        headers["Connection"], headers["Upgrade"] = "Upgrade", call.headers["Upgrade"]
        if call.request.method != "GET":
            headers["Content-Length"] = "0"
        head = upgrades.head_of(call.request.method, call.request.raw_path, headers)
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                reader, writer = await asyncio.open_connection(
                    server.address, server.port, ssl=server.trust, server_hostname=server.name
                )
        except OSError as e:
            raise errors.service_unavailable(f"error trying to reach service: {e}") from e
        try:
            return await self._relayed(call, await self._begun(upgrades.begin(reader, writer, head)))
        finally:
            writer.close()

    async def _relayed(self, call: Call, upstream: upgrades.Upstream) -> web.StreamResponse:
        headers = passed_on(upstream.headers.items())
        headers["Audit-Id"] = call.audit_id
        if upstream.status != 101:
            body = await self._begun(upgrades.refusal(upstream))
            return web.Response(status=upstream.status, headers=headers, body=body)
        headers["Connection"], headers["Upgrade"] = "Upgrade", upstream.headers.get("Upgrade", "")
        return await upgrades.relay(call, upstream, headers)

    async def _begun(self, work: Awaitable[T]) -> T:
        """What that server says before bytes flow. Raises ApiError 503."""
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                return await work
        except OSError as e:
            raise errors.service_unavailable(f"error trying to reach service: {e}") from e

    async def ask(
        self,
        service: Object,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        body: bytes | None,
        timeout: aiohttp.ClientTimeout,
    ) -> Any:
        """The answer of the server behind an APIService, as a context manager; raises aiohttp's errors and ApiError."""
        server = await self._server(service)
        headers["Host"] = f"{server.name}:{server.port}"
        return self._http().request(
            method,
            yarl.URL(f"https://{server.address}:{server.port}{target}", encoded=True),
            headers=headers,
            data=body,
            ssl=server.trust,
            server_hostname=server.name,
            allow_redirects=False,
            timeout=timeout,
            auto_decompress=False,
            # What the client did not say is not said for it: it may be unable to read a compressed answer.
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def _server(self, service: Object) -> _Server:
        """Raises ApiError for a Service that is not there."""
        spec = service["spec"]
        where = spec["service"]
        address = await self._resolve(where["namespace"], where["name"])
        trust = self._trusting(spec.get("caBundle") or "", bool(spec.get("insecureSkipTLSVerify")))
        return _Server(f"{where['name']}.{where['namespace']}.svc", address, where.get("port") or 443, trust)

    def _trusting(self, bundle: str, insecure: bool) -> ssl.SSLContext:
        context = self._contexts.get((bundle, insecure))
        if context is None:
            context = ssl.create_default_context(cadata=base64.b64decode(bundle).decode() if bundle else None)
            if insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if self._config.proxy_client_cert_file:
                context.load_cert_chain(self._config.proxy_client_cert_file, self._config.proxy_client_key_file)
            self._contexts[bundle, insecure] = context
        return context

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
