"""Clients that begin and do not go on: they are let go, and cost the others nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from apiserver_harness import Edge, edge

from cluster.apiserver import connection

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
