"""Two pods of the reference: a web server whose log a second container ships (3B), and a memory leak (Scenario B)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.node_world import IMAGE, NODE_TESTS, NodeWorld, machine_namespace, sh

pytestmark = NODE_TESTS


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-reference"):
        async with NodeWorld(tmp_path) as w:
            yield w
        assert w.leftovers() == []


async def get(ip: str, path: str) -> str:
    reader, writer = await asyncio.open_connection(ip, 80)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return data.decode().rpartition("\r\n\r\n")[2]


async def test_a_web_server_and_its_log_shipper_share_a_volume_and_localhost(world: NodeWorld) -> None:
    """The server logs to the volume; the shipper reads it there and asks the server by localhost."""
    mount = [{"name": "logs", "mountPath": "/var/log/web"}]
    serve = "mkdir -p /w; echo hello > /w/index.html; httpd -f -v -p 80 -h /w 2>> /var/log/web/access.log"
    ship = (
        "until wget -q -O /dev/null http://127.0.0.1/index.html; do sleep 0.2; done;"
        "tail -n +1 -f /logs/access.log | while read line; do echo shipped: $line; done"
    )
    containers = [
        {"name": "web", "image": IMAGE, "command": ["sh", "-c", serve], "volumeMounts": mount},
        {
            "name": "log-shipper",
            "image": IMAGE,
            "command": ["sh", "-c", ship],
            "volumeMounts": [{"name": "logs", "mountPath": "/logs", "readOnly": True}],
        },
    ]
    await world.run_pod("web", containers=containers, volumes=[{"name": "logs", "emptyDir": {}}])
    status = await world.ready("web")
    assert await get(status["podIP"], "/index.html") == "hello\n"
    await world.until(lambda: "shipped:" in logs_of(world, status, "log-shipper"), 20)


def logs_of(world: NodeWorld, status: dict[str, object], name: str) -> str:
    found = status["containerStatuses"]
    assert isinstance(found, list)
    container = next(c for c in found if c["name"] == name)
    return sh("docker", "logs", container["containerID"].removeprefix("docker://"))


async def test_a_leak_is_killed_with_137_and_the_container_runs_and_serves_again(world: NodeWorld) -> None:
    """Leaks on its first run alone: what it finds in the volume tells it which run it is."""
    command = (
        "if [ -e /state/ran ]; then mkdir -p /w; echo back > /w/index.html; exec httpd -f -p 80 -h /w; fi;"
        "touch /state/ran; a=x; while :; do a=$a$a; done"
    )
    container = {
        "resources": {"requests": {"memory": "8Mi"}, "limits": {"memory": "16Mi"}},
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
        "readinessProbe": {"httpGet": {"path": "/index.html", "port": 80}, "periodSeconds": 1},
    }
    await world.run_pod("leak", command, container=container, volumes=[{"name": "state", "emptyDir": {}}])
    status = await world.ready("leak", 40)
    app = status["containerStatuses"][0]
    ended = app["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], app["restartCount"]) == (137, "OOMKilled", 1)
    assert await get(status["podIP"], "/index.html") == "back\n"
