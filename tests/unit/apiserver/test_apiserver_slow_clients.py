"""Clients that begin and do not go on: they are let go, and cost the others nothing."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import web

from cluster.apiserver import connection, encode
from tests.support.apiserver_harness import Edge, edge
from tests.support.eventually import until

HEAD = "POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def said(server: Edge, sent: str) -> bytes:
    """All that a client which sends `sent`, and no more, gets until the server closes the connection."""
    port = int(server.url.rpartition(":")[2])
    context = server.pki.client_context("admin")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(sent.encode())
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("sent", ["", "GET /api/v1/names", HEAD])
async def test_a_request_whose_head_does_not_come_is_given_up(
    pki: Any, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    monkeypatch.setattr(connection, "_FIRST_REQUEST_S", 0.3)
    async with edge(pki) as server:
        assert await said(server, sent) == b""
        assert (await server.call("GET", "/api/v1/namespaces/default")).status == 200


async def test_a_body_that_does_not_come_is_given_up_and_nothing_is_written(pki: Any) -> None:
    async with edge(pki, body_timeout_s=0.3) as server:
        body = '{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "slow"'
        answer = await said(server, f"{HEAD}Content-Length: {len(body) + 2}\r\n\r\n{body}")
        assert answer.startswith(b"HTTP/1.1 408 ") and b'"status":"Failure"' in answer
        assert (await server.call("GET", "/api/v1/namespaces/slow")).status == 404


def leaves(request: web.BaseRequest) -> None:
    """What the connection does when its client is cut off: it is closing, and not yet gone."""
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError("Cannot write to closing transport")


def breaks(request: web.BaseRequest) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(("fault", "faults"), [(leaves, 0), (breaks, 1)])
async def test_an_answer_that_breaks_off_is_followed_by_no_other(
    pki: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Any, faults: int
) -> None:
    async def half(request: web.BaseRequest, response: web.StreamResponse, body: bytes) -> web.StreamResponse:
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        fault(request)
        return response

    async with edge(pki) as server:
        path = "/api/v1/namespaces/default/configmaps"
        await server.create(path, {"metadata": {"name": "large"}, "data": {"x": "1" * 600_000}})
        monkeypatch.setattr(encode, "_in_slices", half)
        answer = await said(server, f"GET {path}/large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") <= 1 and b'"status":"Failure"' not in answer
        assert caplog.text.count(" failed: GET ") == faults
        assert (await server.call("GET", "/api/v1/namespaces/default")).status == 200


async def test_a_refusal_after_the_body_was_asked_for_is_said(pki: Any) -> None:
    """The 100 that asked for it is no part of the answer."""
    async with edge(pki) as server:
        body = '{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "No_Name"}}'
        head = f"{HEAD}Expect: 100-continue\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = await said(server, head + body)
        assert b"HTTP/1.1 100 Continue" in answer and b"HTTP/1.1 422 " in answer and b'"reason":"Invalid"' in answer


async def test_a_client_that_reads_nothing_is_cut_and_its_watch_ended(pki: Any) -> None:
    """Its buffers and the kernel's are full; the events that wait are more than are kept for it."""
    async with edge(pki, unread_timeout_s=4.0, watch_buffer_events=2, bookmark_period_s=3600.0) as server:
        path, data = "/api/v1/namespaces/default/configmaps", {"a": "x" * 900_000}
        port = int(server.url.rpartition(":")[2])
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            context = pki.client_context("admin")
            _, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="localhost")
            try:
                writer.write(f"GET {path}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await until(lambda: server.server.health()["watches"] == 1)
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                for i in range(12):
                    await server.create(path, {"metadata": {"name": f"c{i}"}, "data": data})
                await until(lambda: server.server.health()["watches"] == 0)
            finally:
                writer.transport.abort()  # type: ignore[attr-defined]
        assert (await server.call("GET", path + "/c11")).status == 200
