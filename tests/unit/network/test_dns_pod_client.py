"""The DNS pod's client against a TLS server on loopback: who stops reading leaves no thread behind."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from cluster.machine import pki
from cluster.network.dns_pod_client import PodClient
from tests.support.stand_in import listening

_EVENT = b'{"type": "ADDED", "object": {"metadata": {"name": "web"}}}\n'


async def _watch(request: web.Request) -> web.StreamResponse:
    """One event, then silence."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(_EVENT)
    await asyncio.Event().wait()
    return response


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[PodClient]:
    now = dt.datetime.now(dt.UTC)
    ca = pki.new_ca("ca", now)
    pair = pki.issue(ca, pki.Subject("server", ips=("127.0.0.1",), server=True), now)
    for name, content in {"ca.crt": ca.cert, "tls.crt": pair.cert, "tls.key": pair.key, "token": b"t"}.items():
        (tmp_path / name).write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    app = web.Application()
    app.router.add_get("/api/v1/services", _watch)
    async with listening(app, context, shutdown_timeout_s=0.1) as port:
        yield PodClient("127.0.0.1", port, tmp_path)


def _reader() -> threading.Thread:
    [reader] = [thread for thread in threading.enumerate() if thread.name == "watch /api/v1/services"]
    return reader


async def test_a_watch_that_is_closed_while_the_server_is_silent_ends_its_thread(client: PodClient) -> None:
    events = client.watch("services", resource_version="1")
    assert isinstance(events, AsyncGenerator)
    assert (await anext(events)).object["metadata"]["name"] == "web"
    reader = _reader()
    await events.aclose()
    await asyncio.to_thread(reader.join, 30)  # the server would be silent for ever
    assert not reader.is_alive()


async def test_a_watch_that_is_left_while_it_connects_ends_its_thread(client: PodClient) -> None:
    first = asyncio.ensure_future(anext(client.watch("services", resource_version="1")))
    await asyncio.sleep(0)
    reader = _reader()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.to_thread(reader.join, 30)
    assert not reader.is_alive()
