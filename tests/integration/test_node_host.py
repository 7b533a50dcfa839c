"""Pods that share something with their machine: its network, its ports, its processes; on the real engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.node_world import NODE_TESTS, NodeWorld, machine_namespace, sh

pytestmark = NODE_TESTS
SERVE = "mkdir /tmp/w; echo served > /tmp/w/index.html; exec httpd -f -p {port} -h /tmp/w"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-host"):
        w = NodeWorld(tmp_path)
        async with w:
            yield w
        assert w.leftovers() == []
        assert "hostports" not in sh("nft", "list", "tables")


async def fetch(address: str, port: int) -> str:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    data = await reader.read()
    writer.close()
    return data.decode().rpartition("\r\n\r\n")[2].strip()


async def serves(world: NodeWorld, port: int) -> None:
    """Running is not yet listening, and a kubelet that has just started has not yet adopted its pods."""

    async def look() -> bool:
        try:
            return await fetch("127.0.0.1", port) == "served"
        except OSError:
            return False

    await world.until(look, 20)


async def said(world: NodeWorld, name: str) -> str:
    status = await world.status(name, lambda s: s.get("phase") in ("Succeeded", "Failed"))
    return str(status["containerStatuses"][0]["state"]["terminated"].get("message", ""))


async def test_a_host_network_pod_is_on_the_machines_network(world: NodeWorld) -> None:
    readiness = {"tcpSocket": {"port": 8081}, "periodSeconds": 1}
    await world.run_pod("server", SERVE.format(port=8081), hostNetwork=True, container={"readinessProbe": readiness})
    status = await world.ready("server")
    assert status["podIP"] == status["hostIP"] == "127.0.0.1"
    assert await fetch("127.0.0.1", 8081) == "served"
    links = "ls /sys/class/net | tr '\\n' ' ' > /dev/termination-log; readlink /proc/1/ns/net hostname"
    await world.run_pod("look", f"{links}; hostname >> /dev/termination-log", hostNetwork=True, restartPolicy="Never")
    text = await said(world, "look")
    assert "eth0" not in text and text.split()[-1] == world.name


async def test_a_restarted_kubelet_adopts_a_host_network_pod(world: NodeWorld) -> None:
    await world.run_pod("server", SERVE.format(port=8082), hostNetwork=True)
    before = await world.ready("server")
    await world.stop()
    await world.start()
    after = await world.ready("server")
    assert after["containerStatuses"][0]["containerID"] == before["containerStatuses"][0]["containerID"]
    assert after["podIP"] == "127.0.0.1"


async def test_a_host_port_leads_to_the_pod_also_after_a_restart_of_the_kubelet(world: NodeWorld) -> None:
    port = [{"containerPort": 80, "hostPort": 8083}]
    await world.run_pod("web", SERVE.format(port=80), container={"ports": port})
    await world.ready("web")
    await serves(world, 8083)
    await world.stop()
    sh("nft", "delete", "table", "ip", "sk8-hostports")
    await world.start()
    await world.ready("web")
    await serves(world, 8083)
    await world.run_pod("second", container={"ports": port})
    status = await world.status("second", lambda s: s.get("phase") == "Failed")
    assert status["reason"] == "NodePorts"
    await world.client.delete("pods", "web", "default")
    await world.gone("web")
    with pytest.raises(OSError, match=r"refused|failed"):
        await fetch("127.0.0.1", 8083)


async def test_containers_may_see_each_others_processes(world: NodeWorld) -> None:
    two = {"name": "two", "image": "sk8t-node/busybox:1", "command": ["sleep", "4242"]}
    command = "until ps | grep -q 'sleep 424[2]'; do sleep 0.1; done; echo seen > /dev/termination-log"
    app = {"name": "app", "image": "sk8t-node/busybox:1", "command": ["sh", "-c", command]}
    await world.run_pod("shared", shareProcessNamespace=True, containers=[app, two], restartPolicy="Never")
    status = await world.status(
        "shared", lambda s: "terminated" in s.get("containerStatuses", [{}])[0].get("state", {})
    )
    assert status["containerStatuses"][0]["state"]["terminated"]["message"] == "seen\n"


async def test_a_pod_may_share_everything_with_its_machine(world: NodeWorld) -> None:
    """As kubectl debug node/... asks for."""
    command = "readlink /proc/self/ns/ipc; ps | wc -l; ls /sys/class/net | grep -c eth0"
    everything = {"hostPID": True, "hostIPC": True, "hostNetwork": True}
    await world.run_pod("eyes", f"({command}) > /dev/termination-log", restartPolicy="Never", **everything)
    ipc, processes, _ = (await said(world, "eyes")).split()
    assert ipc == os.readlink("/proc/self/ns/ipc")
    assert int(processes) > 10
