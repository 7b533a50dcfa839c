"""Logs, exec, attach and port-forward: relays between a client and the kubelet of the pod.

IO: HTTP and WebSocket on both sides.

    kubectl ── WebSocket v5.channel.k8s.io ──> API server ── WebSocket, same subprotocol ──> kubelet
            <── message for message, close code and reason included ──

Messages are not looked into: the first byte is the channel, channel 3 carries the status, and both are the kubelet's
and the client's affair. Clients from before that speak SPDY, which spdy.py translates. Invariant: when one side ends,
so does the other; nothing outlives the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from cluster.api import errors
from cluster.api.bodies import read_at_most
from cluster.api.remotecommand import SPDY_PROTOCOLS, V5, WEBSOCKET_PROTOCOLS, why_refused
from cluster.apiserver import metrics, spdy
from cluster.apiserver.call import Call
from cluster.apiserver.connection import CLOSE_S
from cluster.apiserver.feed import CacheFeed
from cluster.apiserver.kubelet import KubeletClient
from cluster.apiserver.log_streams import LOG_PROTOCOLS, HttpLog, LogStream, SocketLog
from cluster.apiserver.requestinfo import flag, multi
from cluster.apiserver.spdy_exec import ExecTranslation

_Serve = Callable[[spdy.SpdyClient, aiohttp.ClientWebSocketResponse], Awaitable[None]]
# The first tunnels a SPDY connection (KEP-4006, kubectl), the others are channels per port (client libraries).
PORT_PROTOCOLS = ("SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "portforward.k8s.io")
_LOG_OPTIONS = (
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
)
_STREAMS = ("stdin", "stdout", "stderr")
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Kubelet:
    """Where a stream goes: the kubelet's address, the stream's on it, and the subprotocols to ask for."""

    base: str
    url: str
    protocols: tuple[str, ...]


class StreamServer:
    """Serves pods/log, pods/exec, pods/attach and pods/portforward."""

    def __init__(self, kubelets: KubeletClient, feed: CacheFeed) -> None:
        self._kubelets = kubelets
        self._feed = feed

    # --- logs

    async def log(self, call: Call) -> web.StreamResponse:
        """Relay the kubelet's answer as it comes, by HTTP or, where the client asks for an upgrade, a WebSocket."""
        offered = _offered(call, LOG_PROTOCOLS) if _asks_for_socket(call) else None
        await self._feed.barrier()
        target = self._kubelets.target(call.namespace, call.info.name, call.params.get("container", ""), must_run=False)
        query = {k: call.params[k] for k in _LOG_OPTIONS if k in call.params}
        url = target.url("containerLogs") + ("?" + urlencode(query) if query else "")
        headers = {"Content-Type": "text/plain", "Cache-Control": "no-cache, private", "Audit-Id": call.audit_id}
        metrics.LONG_RUNNING.labels("log", "pods").inc()
        try:
            async with self._kubelets.session.get(url) as upstream:
                if upstream.status != 200:
                    why, _ = await read_at_most(upstream.content.iter_any(), _CHUNK)
                    raise _from_kubelet(upstream.status, why)
                if offered is None:
                    return await _copy(upstream, HttpLog(call.request, headers))
                return await _copy(upstream, SocketLog(call.request, headers, offered))
        except aiohttp.ClientError as e:
            raise _unreachable(target.base_url, e) from e
        finally:
            metrics.LONG_RUNNING.labels("log", "pods").dec()

    # --- exec, attach

    async def interactive(self, call: Call) -> web.StreamResponse:
        """Relay a WebSocket, or translate SPDY. Raises ApiError before the upgrade for what cannot be done."""
        what = call.info.subresource
        await self._feed.barrier()
        target = self._kubelets.target(call.namespace, call.info.name, call.params.get("container", ""), must_run=True)
        by_spdy = spdy.negotiate(call, SPDY_PROTOCOLS) if spdy.asked(call) else ""
        offered = (V5,) if by_spdy else _offered(call, WEBSOCKET_PROTOCOLS)  # v5 alone can end stdin
        wants = [k for k in (*_STREAMS, "tty") if flag(call.params, k)]
        query = [(k, "true") for k in wants]
        if what == "exec":
            command = multi(call.request.raw_path, "command")
            if not command:
                raise errors.bad_request("you must specify at least one command for the container")
            query += [("command", c) for c in command]
        if not any(k in _STREAMS for k in wants):
            raise errors.bad_request("you must specify at least one of stdin, stdout, stderr")
        kubelet = _Kubelet(target.base_url, f"{target.url(what)}?{urlencode(query)}", offered)
        if not by_spdy:
            return await self._through(call, kubelet)
        serve = functools.partial(spdy.serve_exec, exec_=ExecTranslation(by_spdy, wants))
        return await self._by_spdy(call, kubelet, by_spdy, serve)

    async def port_forward(self, call: Call) -> web.StreamResponse:
        """Relay a WebSocket, or SPDY, that carries connections to ports of the pod."""
        by_spdy = spdy.negotiate(call, (spdy.PORT_FORWARD,)) if spdy.asked(call) else ""
        offered = PORT_PROTOCOLS[:1] if by_spdy else _offered(call, PORT_PROTOCOLS)
        await self._feed.barrier()
        base = self._kubelets.host_of(call.namespace, call.info.name)
        ports = multi(call.request.raw_path, "ports")
        if offered[:1] != PORT_PROTOCOLS[:1] and not ports:
            raise errors.bad_request('query parameter "ports" is required')
        url = f"{base}/portForward/{quote(call.namespace)}/{quote(call.info.name)}"
        url += "?" + urlencode([("ports", p) for p in ports]) if ports else ""
        kubelet = _Kubelet(base, url, offered)
        if by_spdy:
            return await self._by_spdy(call, kubelet, by_spdy, spdy.serve_port_forward)
        return await self._through(call, kubelet)

    async def _through(self, call: Call, kubelet: _Kubelet) -> web.StreamResponse:
        """One WebSocket to the kubelet and one to the client, message for message."""
        async with self._upstream(call, kubelet) as upstream:
            downstream = web.WebSocketResponse(
                protocols=(upstream.protocol,) if upstream.protocol else (),
                compress=False,
                max_msg_size=0,
                timeout=CLOSE_S,
            )
            downstream.headers["Audit-Id"] = call.audit_id
            await downstream.prepare(call.request)
            await relay(downstream, upstream)
            return downstream

    async def _by_spdy(self, call: Call, kubelet: _Kubelet, protocol: str, serve: _Serve) -> web.StreamResponse:
        """One WebSocket to the kubelet, and the client's connection taken over."""
        async with self._upstream(call, kubelet) as upstream:
            if upstream.protocol not in kubelet.protocols:
                raise errors.ApiError(502, "InternalError", f"the kubelet does not speak {kubelet.protocols[0]}")
            client = await spdy.SpdyClient.accept(call, protocol)
            try:
                await serve(client, upstream)
            finally:
                client.writer.close()
            return client.response

    @contextlib.asynccontextmanager
    async def _upstream(self, call: Call, kubelet: _Kubelet) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The kubelet's WebSocket, counted as long as it is open."""
        upstream = await self._connect(kubelet)
        running = metrics.LONG_RUNNING.labels(call.info.subresource, "pods")
        running.inc()
        try:
            yield upstream
        finally:
            running.dec()
            await _bounded(upstream.close())

    async def _connect(self, kubelet: _Kubelet) -> aiohttp.ClientWebSocketResponse:
        try:
            return await self._kubelets.session.ws_connect(
                kubelet.url,
                protocols=kubelet.protocols,
                max_msg_size=0,
                compress=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            )
        except aiohttp.WSServerHandshakeError as e:
            raise _from_kubelet(e.status, (why_refused(e.headers) or e.message).encode()) from e
        except aiohttp.ClientError as e:
            raise _unreachable(kubelet.base, e) from e


async def _copy(upstream: aiohttp.ClientResponse, stream: LogStream) -> web.StreamResponse:
    try:
        await stream.start(upstream.close)
        async for chunk in upstream.content.iter_any():
            await stream.write(chunk)
        await stream.end()
    except (aiohttp.ClientError, ConnectionError):
        if stream.response.prepared:  # else the client left before it began
            await stream.cut()
    return stream.response


def _asks_for_socket(call: Call) -> bool:
    return call.headers.get("Upgrade", "").lower() == "websocket"


def _offered(call: Call, served: tuple[str, ...]) -> tuple[str, ...]:
    """The WebSocket subprotocols both sides know; none when the client named none. Raises ApiError 400."""
    if not _asks_for_socket(call):
        raise errors.bad_request("Upgrade request required")
    asked = [p.strip() for p in call.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    known = tuple(p for p in served if p in asked)
    if not known and asked != [""]:
        raise errors.bad_request(f"no known WebSocket subprotocol was offered; one of {', '.join(served)} is needed")
    return known


async def relay(downstream: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse) -> None:
    """Both ways until one side closes, then close the other with the same code.

    Each way waits for its own reader only: input that the kubelet does not take holds up no output. Closing reads away
    what the other side still sends until its close frame arrives, CLOSE_S at most; a close that cuts the connection
    while data is on its way would cost the peer our last messages (a TCP reset). Hence the pumps end before.
    """
    there = asyncio.create_task(_pump(downstream, upstream))
    back = asyncio.create_task(_pump(upstream, downstream))
    try:
        await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (there, back):
            task.cancel()
        await asyncio.gather(there, back, return_exceptions=True)
    # A pump that ended because its sink had gone says nothing of its source: the side that closed has a code.
    code = upstream.close_code if upstream.closed else downstream.close_code
    # 1006 is never sent on the wire: it means that the peer vanished.
    code = WSCloseCode.INTERNAL_ERROR if code == 1006 else code or WSCloseCode.OK
    await _bounded(downstream.close(code=code))
    await _bounded(upstream.close(code=code))


async def _pump(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    """Until the source closes. A sink that takes no more ends nothing: the source's data is read and dropped."""
    open_ = True
    while True:
        message = await source.receive()
        if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
            return
        try:
            if open_ and message.type is WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif open_:
                await sink.send_str(message.data)
        except ConnectionError:
            open_ = False


async def _bounded(closing: Awaitable[bool]) -> None:
    """A peer that does not even take our close frame is left."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * CLOSE_S):
            await closing


def _unreachable(base: str, e: Exception) -> errors.ApiError:
    return errors.ApiError(
        502,
        "InternalError",
        f"error dialing backend: the kubelet at {base.removeprefix('https://')} does not answer: {e}",
    )


def _from_kubelet(code: int, body: bytes) -> errors.ApiError:
    """The kubelet's refusal: its Status when it sent one, else its text."""
    try:
        status = orjson.loads(body)
        if isinstance(status, dict) and status.get("kind") == "Status":
            return errors.ApiError.from_status(status)
    except orjson.JSONDecodeError:
        pass
    text = body.decode(errors="replace").strip() or "no reason given"
    reasons = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 503: "ServiceUnavailable"}
    return errors.ApiError(code if code >= 400 else 502, reasons.get(code, "InternalError"), text)
