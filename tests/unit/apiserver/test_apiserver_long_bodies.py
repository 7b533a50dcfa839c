"""While a long body is worked on, others are served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from cluster.apiserver.longwork import aside
from tests.support.apiserver_harness import Edge, Pki, edge

LONG = {"metadata": {"name": "long"}, "data": {f"key-{i}": "x" * 100 for i in range(3000)}}
SHORT = {"metadata": {"name": "short"}, "data": {"a": "b"}}
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[Edge]:
    async with edge(pki) as running:
        yield running


async def test_long_bodies_wait_for_each_other_alone(server: Edge) -> None:
    go_on = threading.Event()
    before = asyncio.create_task(aside(go_on.wait))  # as if a long body were being judged
    try:
        long = asyncio.create_task(server.call("POST", MAPS, LONG))
        await server.create(MAPS, SHORT)
        assert (await server.call("GET", "/livez")).status == 200
        assert (await server.call("GET", MAPS + "/long")).status == 404
        assert not long.done()
    finally:
        go_on.set()
        await before
    assert (await long).status == 201
    assert (await server.call("GET", MAPS + "/long")).json["data"] == LONG["data"]
