"""The proxy subresource: a request passed on to a pod, a Service's endpoint or a kubelet, and its answer passed back.

IO: HTTP and WebSocket on both sides.

    /api/v1/namespaces/<ns>/pods/[https:]<name>[:<port>]/proxy/<path>
    /api/v1/namespaces/<ns>/services/[https:]<name>[:<port or its name>]/proxy/<path>
    /api/v1/nodes/[https:]<name>[:<port>]/proxy/<path>

Invariants: nothing the client used to prove itself to us (Authorization, impersonation) is passed on; loopback and
link-local addresses are never dialled. A backend's certificate is not checked, as in Kubernetes: pods have none of the
cluster's; a kubelet's is. A kubelet trusts us: who runs commands there by way of us must be allowed `create` of
nodes/proxy, whatever the method; to read it is not enough. Redirects are the client's; links in Location and in HTML
are put below the proxy's path (`proxy_links`).

Source: pkg/registry/core/{pod,service,node}/rest, apimachinery pkg/util/proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import ssl
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from cluster.api import errors
from cluster.api.nodes import changes_pods
from cluster.api.scheme import SCHEME
from cluster.apiserver import authz, proxy_links
from cluster.apiserver.cache import Cache
from cluster.apiserver.call import Call
from cluster.apiserver.connection import CLOSE_S, on_close
from cluster.apiserver.feed import CacheFeed
from cluster.apiserver.kubelet import KubeletClient
from cluster.apiserver.streams import relay
from cluster.registry.types import Authorizer

_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "host", "content-length")
)  # fmt: skip
_OURS = ("authorization", "impersonate-", "audit-id")
_CONNECT_S = 5.0
_SCHEMES = ("", "http", "https")


@dataclass(frozen=True, slots=True)
class Address:
    """`[scheme:]name[:port]` as in the URL's name segment."""

    scheme: str
    name: str
    port: str


def parse_address(text: str) -> Address:
    """Raises ApiError 400."""
    parts = text.split(":")
    if len(parts) == 1:
        found = Address("", text, "")
    elif len(parts) == 2:
        found = Address("", parts[0], parts[1])
    elif len(parts) == 3:
        found = Address(*parts)
    else:
        raise errors.bad_request(f"invalid proxy target {text!r}: must be [scheme:]name[:port]")
    if found.scheme not in _SCHEMES or not found.name:
        raise errors.bad_request(f"invalid proxy target {text!r}: must be [scheme:]name[:port]")
    return found


class ProxyServer:
    """Serves pods/proxy, services/proxy and nodes/proxy."""

    def __init__(self, kubelets: KubeletClient, cache: Cache, feed: CacheFeed, authorizer: Authorizer) -> None:
        self._kubelets = kubelets
        self._authorizer = authorizer
        self._cache = cache
        self._feed = feed
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def _backends(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connector = aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=15)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, connect=_CONNECT_S)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    async def _object(self, resource: str, namespace: str, name: str) -> dict[str, Any]:
        await self._feed.barrier()
        info = SCHEME.named(resource)
        entry = self._cache.get(info, namespace, name)
        if entry is None:
            raise errors.not_found(info, name)
        return entry.decode()

    # --- where to

    async def pod(self, call: Call) -> web.StreamResponse:
        to = parse_address(call.info.name)
        pod = await self._object("pods", call.namespace, to.name)
        address = (pod.get("status") or {}).get("podIP", "")
        if not address:
            raise errors.bad_request("address not allowed")
        return await self._pass(call, self._backends, _base(to.scheme, address, to.port or _first_port(pod)))

    async def service(self, call: Call) -> web.StreamResponse:
        to = parse_address(call.info.name)
        service = await self._object("services", call.namespace, to.name)
        ports = (service.get("spec") or {}).get("ports") or []
        if not to.port:
            chosen = ports[0] if len(ports) == 1 else None
        else:
            chosen = next((p for p in ports if to.port in (p.get("name"), str(p.get("port")))), None)
        if chosen is None:
            raise errors.service_unavailable(f'no service port "{to.port}" found for service "{to.name}"')
        found = self._endpoints(call.namespace, to.name, chosen.get("name") or "")
        if not found:
            raise errors.service_unavailable(f'no endpoints available for service "{call.info.name}"')
        address, port = random.choice(found)
        return await self._pass(call, self._backends, _base(to.scheme, address, str(port)))

    def _endpoints(self, namespace: str, service: str, port_name: str) -> list[tuple[str, int]]:
        out: list[tuple[str, int]] = []
        for entry in self._cache.table(SCHEME.named("endpointslices.discovery.k8s.io")).select(namespace):
            if entry.labels.get("kubernetes.io/service-name") != service:
                continue
            endpoints = entry.decode()
            for port in endpoints.get("ports") or ():
                if (port.get("name") or "") != port_name or port.get("port") is None:
                    continue
                for e in endpoints.get("endpoints") or ():
                    if (e.get("conditions") or {}).get("ready") is not False:
                        out += [(a, int(port["port"])) for a in e.get("addresses") or ()][:1]
        return out

    async def node(self, call: Call) -> web.StreamResponse:
        to = parse_address(call.info.name)
        await self._feed.barrier()
        kubelet = self._kubelets.node_url(to.name)
        split = urlsplit(kubelet)
        if to.port and to.port != str(split.port):
            host = split.hostname or ""
            return await self._pass(call, self._backends, _base(to.scheme, host, to.port))
        if changes_pods(call.info.rest):
            attributes = replace(authz.attributes_of(call.info), verb="create")
            await authz.require(self._authorizer, call.user, attributes)
        return await self._pass(call, self._kubelets.session, kubelet)

    # --- there and back

    async def _pass(self, call: Call, session: aiohttp.ClientSession, base: str) -> web.StreamResponse:
        request = call.request
        path, _, query = request.raw_path.partition("?")
        prefix = path[: len(path) - len(call.info.rest)] if call.info.rest else path
        if not call.info.rest and not path.endswith("/") and request.method in ("GET", "HEAD"):
            return web.Response(status=301, headers={"Location": path + "/" + ("?" + query if query else "")})
        url = URL(f"{base}/{call.info.rest}" + ("?" + query if query else ""), encoded=True)
        headers = _passed_on(request)
        try:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._web_socket(call, session, url, headers)
            body = request.content if request.can_read_body else None
            async with session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as upstream:
                return await _answer(call, upstream, prefix, base)
        except aiohttp.ClientConnectionError as e:
            raise errors.service_unavailable(f"error trying to reach service: {e}") from e
        except aiohttp.ClientError as e:
            raise errors.ApiError(502, "InternalError", f"error trying to reach service: {e}") from e

    @staticmethod
    async def _web_socket(
        call: Call, session: aiohttp.ClientSession, url: URL, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        for name in [h for h in headers if h.lower().startswith("sec-websocket-")]:
            del headers[name]
        asked = call.headers.get("Sec-WebSocket-Protocol", "")
        protocols = tuple(p.strip() for p in asked.split(",") if p.strip())
        upstream = await session.ws_connect(url, headers=headers, protocols=protocols, max_msg_size=0, compress=0)
        try:
            chosen = (upstream.protocol,) if upstream.protocol else ()
            downstream = web.WebSocketResponse(protocols=chosen, compress=False, max_msg_size=0, timeout=CLOSE_S)
            await downstream.prepare(call.request)
            await relay(downstream, upstream)
            return downstream
        finally:
            await upstream.close()


def proxyable(address: str) -> bool:
    """Not our own loopback or link, nor nobody's."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


def _base(scheme: str, host: str, port: str) -> str:
    """Raises ApiError 400 for addresses that are nobody's but ours."""
    if not proxyable(host):
        raise errors.bad_request("address not allowed")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise errors.bad_request(f'invalid port "{port}"')
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme or 'http'}://{shown}:{port}"


def _first_port(pod: dict[str, Any]) -> str:
    """The first port that a container declares; 80 when none does."""
    for container in pod["spec"].get("containers") or ():
        for port in container.get("ports") or ():
            return str(port["containerPort"])
    return "80"


def _passed_on(request: web.BaseRequest) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        low = name.lower()
        if low not in _HOP and not low.startswith(_OURS):
            headers.add(name, value)
    if request.remote:
        before = request.headers.get("X-Forwarded-For")
        headers["X-Forwarded-For"] = f"{before}, {request.remote}" if before else request.remote
    headers["X-Forwarded-Uri"] = request.raw_path.partition("?")[0]
    return headers


def _is_page(call: Call, upstream: aiohttp.ClientResponse) -> bool:
    """Whether links inside are to be put below the proxy's path."""
    known = upstream.headers.get("Content-Encoding", "") in proxy_links.ENCODINGS
    return known and upstream.content_type == "text/html" and call.request.method != "HEAD"


async def _answer(call: Call, upstream: aiohttp.ClientResponse, prefix: str, base: str) -> web.StreamResponse:
    hosts = (urlsplit(base).netloc, call.request.host)
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in upstream.headers.items():
        low = name.lower()
        if low == "content-length" or low not in _HOP:
            headers.add(name, proxy_links.below(value, prefix, hosts) if low == "location" else value)
    headers["Audit-Id"] = call.audit_id
    on_close(call.request, upstream.close)
    if "Location" in headers or not _is_page(call, upstream):
        return await _stream(call, upstream, headers)
    body = bytearray()
    while len(body) < proxy_links.MAX_BYTES and (chunk := await upstream.content.readany()):
        body += chunk
    if not upstream.content.at_eof():  # too large to be looked through
        return await _stream(call, upstream, headers, bytes(body))
    page = bytes(body)
    with contextlib.suppress(ValueError):  # what it says of its encoding is not so: that is the client's to find out
        encoding = headers.get("Content-Encoding", "")
        page = await asyncio.to_thread(proxy_links.rewritten, page, encoding, prefix, hosts)
    headers.popall("Content-Length", None)
    return web.Response(status=upstream.status, headers=headers, body=page)


async def _stream(
    call: Call, upstream: aiohttp.ClientResponse, headers: CIMultiDict[str], begun: bytes = b""
) -> web.StreamResponse:
    """The answer piece by piece; `begun` of it was read already."""
    response = web.StreamResponse(status=upstream.status, headers=headers)
    if "Content-Length" not in headers and call.request.method != "HEAD" and upstream.status not in (204, 304):
        response.enable_chunked_encoding()
    await response.prepare(call.request)
    try:
        await response.write(begun)
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, ConnectionError):
        # Too late for a status: the client sees that the answer broke off.
        response.force_close()
        if call.request.transport is not None:
            call.request.transport.close()
    return response
