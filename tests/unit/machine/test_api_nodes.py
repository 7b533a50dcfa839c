"""What sk8-machine asks the API of a machine that renews, over real TLS on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cluster.api.forgotten import NAME as FORGOTTEN
from cluster.machine import api_nodes
from cluster.machine.api_nodes import Known
from cluster.machine.config import ClusterConfig, MachineSpec
from cluster.machine.identity import Authority

NODE = {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.2"}, {"type": "Hostname", "address": "w1"}]}}
MAP = f"/api/v1/namespaces/kube-system/configmaps/{FORGOTTEN}"


@pytest.fixture
def objects() -> dict[str, dict[str, Any]]:
    """What there is, by path; the API answers 503 while it is empty."""
    return {}


@pytest.fixture
async def config(
    tmp_path: Path, unused_tcp_port: int, objects: dict[str, dict[str, Any]]
) -> AsyncIterator[ClusterConfig]:
    spec = MachineSpec("cp1", "127.0.0.1", True)
    plain = replace(ClusterConfig.local(1, 1), base_dir=str(tmp_path), api_port=unused_tcp_port)
    made = replace(plain, machines=(spec,), ray_head="cp1", node_cidr="127.0.0.0/8", provider="vm")
    authority, machine = Authority(made), made.machine("cp1")
    authority.create()
    authority.provision(machine)
    authority.admit_itself(machine)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        status = "503 no" if not objects else "200 OK" if path in objects else "404 Not Found"
        body = orjson.dumps(objects.get(path, {}))
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(machine.pki / "ca.crt"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(machine.pki / "apiserver.crt", machine.pki / "apiserver.key")
    async with await asyncio.start_server(answer, spec.ip, made.api_port, ssl=context):
        yield made


async def test_a_node_and_when_a_machine_of_its_name_was_forgotten(
    config: ClusterConfig, objects: dict[str, dict[str, Any]]
) -> None:
    machine = config.machine("cp1")
    objects["/api/v1/nodes/w1"] = NODE
    assert await api_nodes.known(config, machine, "w1") == Known(("10.0.0.2", "w1"))
    objects[MAP] = {"data": {"w1": "2001-09-09T01:46:40Z"}}
    assert await api_nodes.known(config, machine, "w1") == Known(("10.0.0.2", "w1"), 1e9)
    assert await api_nodes.known(config, machine, "w2") == Known()


async def test_an_api_that_fails_says_nothing_of_a_node(config: ClusterConfig) -> None:
    with pytest.raises(OSError, match="the API server answers 503"):
        await api_nodes.known(config, config.machine("cp1"), "w1")
