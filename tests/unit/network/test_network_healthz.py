"""kube-proxy's health port: who is up to date serves, who is going drains, and both are alive."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from cluster.network.healthz import ProxyHealth, answer_of, serve_health

STAYS: dict[str, Any] = {"metadata": {"name": "m1"}, "spec": {"taints": [{"key": "other"}]}}
DELETED: dict[str, Any] = {"metadata": {"name": "m1", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
TAKEN: dict[str, Any] = {"metadata": {"name": "m1"}, "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}}


@pytest.mark.parametrize(
    ("healthy", "node", "healthz", "livez"),
    [
        (True, STAYS, 200, 200),
        (True, None, 200, 200),
        (True, DELETED, 503, 200),
        (True, TAKEN, 503, 200),
        (False, STAYS, 503, 503),
    ],
)
def test_statuses(healthy: bool, node: dict[str, Any] | None, healthz: int, livez: int) -> None:
    health = ProxyHealth(healthy, 5.0, node)
    assert answer_of(health, 7.0, live=False)[0] == healthz
    assert answer_of(health, 7.0, live=True)[0] == livez


def test_the_body_is_kube_proxys() -> None:
    assert answer_of(ProxyHealth(True, 5.0, DELETED), 7.5, live=False)[1] == {
        "lastUpdated": "1970-01-01T00:00:05Z",
        "currentTime": "1970-01-01T00:00:07.500000Z",
        "nodeEligible": False,
    }


async def test_it_answers_over_http(unused_tcp_port: int) -> None:
    health = [ProxyHealth(True, 1.0, STAYS)]
    task = asyncio.create_task(serve_health(f"127.0.0.1:{unused_tcp_port}", lambda: health[0], lambda: 2.0))
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{unused_tcp_port}") as session:
            async with asyncio.timeout(30):
                while await _status(session, "/healthz") != 200:
                    await asyncio.sleep(0.05)
            health[0] = ProxyHealth(True, 1.0, DELETED)
            assert await _status(session, "/healthz") == 503
            assert await _status(session, "/livez") == 200
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _status(session: aiohttp.ClientSession, path: str) -> int:
    try:
        async with session.get(path) as answer:
            return answer.status
    except aiohttp.ClientConnectorError:
        return 0
