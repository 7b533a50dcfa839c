"""Logs and exec through a stand-in kubelet that speaks HTTP and WebSocket like the real one."""

import asyncio
import base64
import contextlib

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from cluster.api.remotecommand import refusal
from cluster.apiserver.streams import _copy
from tests.support.apiserver_harness import edge, pod_on_kubelet
from tests.support.stand_in import listening

PODS = "/api/v1/namespaces/default/pods"


@contextlib.asynccontextmanager
async def kubelet(pki):
    """Echoes channel 0 on channel 1; `exit` ends with a status on channel 3. Gives its port and what it was asked."""
    asked: list[str] = []

    async def logs(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        if request.query.get("previous") and request.query.get("tailLines"):  # a Status that comes in pieces
            response = web.StreamResponse(status=404)
            await response.prepare(request)
            for piece in (b'{"kind":"Status","reason":"NotFound",', b'"message":"gone","code":404}'):
                await response.write(piece)
                await asyncio.sleep(0.1)
            return response
        if request.query.get("previous"):
            return web.Response(status=400, text="previous terminated container not found")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        if request.query.get("sinceSeconds"):  # breaks off
            request.transport.close()
        if request.query.get("follow"):
            await asyncio.sleep(0.1)
            await response.write(b"two\n")
        return response

    async def run(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        if request.query["command"] == "late":
            return web.Response(status=400, headers=refusal("container not found: it ended"))
        ws = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await ws.prepare(request)
        if request.query["command"] == "deaf":  # ends with its input unread
            await asyncio.sleep(0.3)
            await ws.send_bytes(b"\x01" + b"o" * 100_000)
            await ws.send_bytes(b'\x03{"metadata":{},"status":"Success"}')
            await ws.close(code=1000)
            asked.append(f"closed {ws.close_code}")
            return ws
        async for message in ws:
            if message.type is not WSMsgType.BINARY:
                continue
            if message.data == b"\x00exit":
                await ws.send_bytes(b'\x03{"metadata":{},"status":"Success"}')
                await ws.close(code=1000)
                break
            await ws.send_bytes(b"\x01" + message.data[1:])
        asked.append(f"closed {ws.close_code}")
        return ws

    app = web.Application()
    app.router.add_get("/containerLogs/{ns}/{pod}/{c}", logs)
    app.router.add_get("/exec/{ns}/{pod}/{c}", run)
    async with listening(app, pki.server_context()) as port:
        yield port, asked


@pytest.fixture
async def world(pki):
    async with kubelet(pki) as (port, asked), edge(pki) as server:
        await pod_on_kubelet(server, port)
        yield server, asked


async def test_logs(world):
    server, asked = world
    got = await server.call("GET", f"{PODS}/p/log?follow=true&tailLines=5&junk=1")
    assert (got.status, got.body) == (200, b"one\ntwo\n")
    assert asked == ["/containerLogs/default/p/c?follow=true&tailLines=5"]
    got = await server.call("GET", f"{PODS}/p/log?previous=true")
    assert (got.status, got.json["message"]) == (400, "previous terminated container not found")
    got = await server.call("GET", f"{PODS}/p/log?previous=true&tailLines=1")
    assert (got.status, got.json["message"]) == (404, "gone")
    got = await server.call("GET", f"{PODS}/p/log?container=nope")
    assert (got.status, got.json["message"]) == (400, "container nope is not valid for pod p")
    assert (await server.call("GET", f"{PODS}/none/log")).status == 404


async def log_by_socket(server, query: str, *protocols: str) -> tuple[str | None, list[bytes | str], int | None]:
    """The subprotocol agreed on, the messages, and the code the server closed with."""
    url = f"{server.url}{PODS}/p/log?{query}"
    context = server.pki.client_context("admin")
    async with server.session.ws_connect(url, ssl=context, protocols=protocols) as ws:
        return ws.protocol, [message.data async for message in ws], ws.close_code


async def test_logs_by_websocket(world):
    server, _ = world
    for protocols in ((), ("binary.k8s.io",)):
        agreed, (first, *rest), code = await log_by_socket(server, "follow=true", *protocols)
        assert (agreed, first, b"".join(rest), code) == (*(protocols or (None,)), b"", b"one\ntwo\n", 1000)
    agreed, (first, *rest), code = await log_by_socket(server, "follow=true", "base64.binary.k8s.io")
    decoded = b"".join(base64.b64decode(message) for message in rest)
    assert (agreed, first, decoded, code) == ("base64.binary.k8s.io", "", b"one\ntwo\n", 1000)


async def test_a_log_that_cannot_be_read_is_no_websocket(world):
    server, _ = world
    for query, protocols in (("previous=true", ()), ("", ("v4.channel.k8s.io",))):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await log_by_socket(server, query, *protocols)
        assert refused.value.status == 400


async def test_a_log_that_breaks_off_ends_no_websocket_in_order(world):
    server, _ = world
    _, messages, code = await log_by_socket(server, "sinceSeconds=1")
    assert (b"".join(messages), code) == (b"one\n", 1011)


async def test_exec_relays_both_ways(world):
    server, asked = world
    url = f"{server.url}{PODS}/p/exec?command=sh&command=-c&stdin=true&stdout=true&tty=false"
    context = server.pki.client_context("admin")
    async with server.session.ws_connect(url, ssl=context, protocols=("v5.channel.k8s.io",)) as ws:
        assert ws.protocol == "v5.channel.k8s.io"
        await ws.send_bytes(b"\x00hello")
        assert (await ws.receive()).data == b"\x01hello"
        big = b"\x00" + b"z" * 3_000_000
        await ws.send_bytes(big)
        assert (await ws.receive()).data[1:] == big[1:]
        await ws.send_bytes(b"\x00exit")
        assert (await ws.receive()).data.startswith(b"\x03")
        end = await ws.receive()
        assert end.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
        assert ws.close_code == 1000
    assert asked[0] == "/exec/default/p/c?stdin=true&stdout=true&command=sh&command=-c"


async def test_a_command_that_ends_while_its_input_is_coming(world):
    server, asked = world
    url = f"{server.url}{PODS}/p/exec?command=deaf&stdin=true&stdout=true"
    context = server.pki.client_context("admin")
    got = []

    async def feed(ws: aiohttp.ClientWebSocketResponse) -> None:
        with contextlib.suppress(ConnectionError):
            while not ws.closed:
                await ws.send_bytes(b"\x00" + b"z" * 32768)

    async with (
        asyncio.timeout(30),
        server.session.ws_connect(url, ssl=context, protocols=("v5.channel.k8s.io",), max_msg_size=0) as ws,
    ):
        feeding = asyncio.create_task(feed(ws))
        async for message in ws:
            got.append(message.data)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        assert ws.close_code == 1000
    assert [m[:1] for m in got] == [b"\x01", b"\x03"] and len(got[0]) == 100_001
    async with asyncio.timeout(30):
        while asked[-1] != "closed 1000":
            await asyncio.sleep(0.01)


async def test_a_client_may_send_on_until_it_has_seen_the_close(world):
    server, _ = world
    url = f"{server.url}{PODS}/p/exec?command=deaf&stdin=true&stdout=true"
    context = server.pki.client_context("admin")
    async with server.session.ws_connect(
        url, ssl=context, protocols=("v5.channel.k8s.io",), max_msg_size=0, autoclose=False
    ) as ws:
        await ws.send_bytes(b"\x00x")
        while (await ws.receive(5)).type is not WSMsgType.CLOSE:
            pass
        for _ in range(20):
            await ws._writer.send_frame(b"\x00" + b"z" * 32768, WSMsgType.BINARY)
            await asyncio.sleep(0.02)


async def test_client_that_leaves_closes_the_kubelets_side(world):
    server, asked = world
    url = f"{server.url}{PODS}/p/exec?command=sh&stdout=true"
    context = server.pki.client_context("admin")
    async with server.session.ws_connect(url, ssl=context, protocols=("v4.channel.k8s.io",)) as ws:
        await ws.send_bytes(b"\x00x")
        await ws.receive()
    async with asyncio.timeout(30):
        while not asked[-1].startswith("closed"):
            await asyncio.sleep(0.01)


async def test_a_client_that_names_no_subprotocol_is_served(world):
    """As Kubernetes' conformance tests do, which read the oldest dialect."""
    server, _ = world
    context = server.pki.client_context("admin")
    async with server.session.ws_connect(f"{server.url}{PODS}/p/exec?command=sh&stdout=true", ssl=context) as ws:
        assert ws.protocol is None
        await ws.send_bytes(b"\x00hello")
        assert (await ws.receive()).data == b"\x01hello"
    with pytest.raises(aiohttp.WSServerHandshakeError) as e:
        await server.session.ws_connect(
            f"{server.url}{PODS}/p/exec?command=sh&stdout=true", ssl=context, protocols=("v9.channel.k8s.io",)
        )
    assert e.value.status == 400


async def test_exec_refusals(world):
    server, _ = world
    absent = await server.call("POST", f"{PODS}/p/exec?command=sh&container=x", headers={"Upgrade": "SPDY/3.1"})
    assert "container x is not valid for pod p" in absent.json["message"]  # what is wrong with it, not with SPDY
    got = await server.call("GET", f"{PODS}/p/exec?command=sh&stdout=true")
    assert "Upgrade request required" in got.json["message"]
    got = await server.call("POST", f"{PODS}/p/portforward")
    assert (got.status, got.json["message"]) == (400, "Upgrade request required")
    for query in ("stdout=true", "command=sh"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as e:
            context = server.pki.client_context("admin")
            await server.session.ws_connect(
                f"{server.url}{PODS}/p/exec?{query}", ssl=context, protocols=("v5.channel.k8s.io",)
            )
        assert e.value.status == 400


async def test_a_long_command_is_read(world):
    server, _ = world
    got = await server.call("GET", f"{PODS}/none/exec?stdout=true&command={'a' * 200_000}")
    assert got.status == 404


async def test_a_refused_upgrade_says_why(world):
    """As kubectl reads it that falls back to SPDY: the body of what answers its POST."""
    server, _ = world
    spdy = {"Upgrade": "SPDY/3.1", "Connection": "Upgrade", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
    got = await server.call("POST", f"{PODS}/p/exec?command=late&stdout=true", headers=spdy)
    assert (got.status, got.json["message"]) == (400, "container not found: it ended")


async def test_dead_kubelet_is_502(pki):
    async with edge(pki) as server:
        await pod_on_kubelet(server, 1)
        got = await server.call("GET", f"{PODS}/p/log")
        assert (got.status, "does not answer" in got.json["message"]) == (502, True)


async def test_a_client_that_left_before_its_log_began_is_no_fault_of_the_kubelet():
    class Left:
        response = web.WebSocketResponse()

        async def start(self, gone):
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

        async def cut(self):
            raise AssertionError("nothing began that could be cut")

    class Upstream:
        def close(self):
            pass

    assert await _copy(Upstream(), Left()) is Left.response
