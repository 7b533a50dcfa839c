"""The aggregation layer: groups that another API server answers for, named by an APIService with a Service.

IO: HTTPS to those servers. A request for such a group and version is authenticated and authorized here, and passed on
with the caller's identity in X-Remote-* headers, under a client certificate that the other server trusts for that
(KEP "aggregated API servers", k8s.io/kube-aggregator `pkg/apiserver`). Whether a server is available is found out by
`availability.py`; a request for one that is not gets 503 at once.

Invariants: nothing that proves the client's identity to us is passed on; identity headers of the client's own never
reach the other server.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import yarl
from aiohttp import web
from multidict import CIMultiDict

from cluster.api import errors
from cluster.api.meta import condition
from cluster.api.scheme import SCHEME
from cluster.apiserver.cache import Cache, Table
from cluster.apiserver.call import Call
from cluster.apiserver.config import ApiServerConfig
from cluster.registry.context import UserInfo

Object = dict[str, Any]
GroupVersion = tuple[str, str]

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
        request = call.request
        body = await call.body() if request.body_exists else None
        headers = passed_on(request.headers.items())
        headers.extend(remote_headers(call.user))
        timeout = aiohttp.ClientTimeout(total=None if call.info.long_running else self._config.request_timeout_s)
        try:
            async with await self.ask(service, request.method, request.raw_path, headers, body, timeout) as answer:
                response = web.StreamResponse(status=answer.status, headers=passed_on(answer.headers.items()))
                response.headers["Audit-Id"] = call.audit_id
                response.enable_chunked_encoding()
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError) as e:
            raise errors.service_unavailable(f"error trying to reach service: {getattr(e, 'os_error', e)}") from e

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
        spec = service["spec"]
        where = spec["service"]
        name = f"{where['name']}.{where['namespace']}.svc"
        address = await self._resolve(where["namespace"], where["name"])
        port = where.get("port") or 443
        headers["Host"] = f"{name}:{port}"
        return self._http().request(
            method,
            yarl.URL(f"https://{address}:{port}{target}", encoded=True),
            headers=headers,
            data=body,
            ssl=self._trusting(spec.get("caBundle") or "", bool(spec.get("insecureSkipTLSVerify"))),
            server_hostname=name,
            allow_redirects=False,
            timeout=timeout,
            auto_decompress=False,
        )

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
