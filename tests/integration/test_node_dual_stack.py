"""A kubelet with a range of each family, on the real engine and kernel: what its pods have, and that nothing stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_world import CIDR, NODE_TESTS, NodeWorld, machine_namespace, sh

pytestmark = NODE_TESTS
RANGE, GATEWAY = "fd00:10:244:9::/64", "fd00:10:244:9::1"
SERVE = (
    "mkdir /tmp/w; cp /etc/hosts /tmp/w/hosts; echo $IPS > /tmp/w/index.html; exec httpd -f -p '[::]:8080' -h /tmp/w"
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-dual"):
        w = NodeWorld(tmp_path, node_ipv6="::1")
        w.cidrs = (CIDR, RANGE)
        async with w:
            yield w
        assert w.leftovers() == []
        assert "hostports" not in sh("nft", "list", "tables")
        assert addresses("lo") == ["::1"]
        assert RANGE not in sh("ip", "-6", "route", "show", "table", "all")


def addresses(link: str) -> list[str]:
    """The machine's IPv6 addresses there."""
    shown: list[dict[str, Any]] = json.loads(sh("ip", "-6", "-j", "addr", "show", "dev", link))
    return [item["local"] for entry in shown for item in entry.get("addr_info", ())]


async def fetch(address: str, path: str, port: int = 8080) -> str:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return data.decode().rpartition("\r\n\r\n")[2].strip()


async def test_a_pod_has_both_addresses_and_keeps_them_when_its_kubelet_starts_again(world: NodeWorld) -> None:
    env = [{"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}]
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    ports = [{"containerPort": 8080, "hostPort": 8088}]
    await world.run_pod("web", SERVE, container={"env": env, "readinessProbe": probe, "ports": ports})
    status = await world.ready("web")
    ips = [item["ip"] for item in status["podIPs"]]
    assert ips == [status["podIP"], f"{RANGE.removesuffix('/64')}2"]
    assert [item["ip"] for item in status["hostIPs"]] == ["127.0.0.1", "::1"]
    for ip in ips:
        assert await fetch(ip, "/") == ",".join(ips), "the downward API, asked by either family"
    assert [f"{ip}\tweb" for ip in ips] == (await fetch(ips[1], "/hosts")).splitlines()[-2:]
    for address in ("127.0.0.1", GATEWAY):
        assert await fetch(address, "/", 8088) == ",".join(ips), "its host port, at the machine's addresses"
    await world.stop()
    await world.start()
    again = await world.ready("web")
    assert [item["ip"] for item in again["podIPs"]] == ips
    assert await fetch(ips[1], "/") == ",".join(ips)
