"""The reference's Pods on the real engine: what the text says of them is what happens."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.node_world import NodeWorld, engine_answers, machine_namespace, sh

MANIFESTS = Path(__file__).resolve().parents[2] / "infra" / "manifests" / "reference"
IMAGES = ("nginx:1.21", "busybox:1.36", "sk8/pause:1")
Obj = dict[str, Any]


def images_are_there() -> bool:
    return engine_answers() and all(
        subprocess.run(["docker", "image", "inspect", name], capture_output=True).returncode == 0 for name in IMAGES
    )


pytestmark = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not images_are_there(), reason="needs the demo's images (infra/images/build.py)"),
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-manifests"):
        w = NodeWorld(tmp_path, "sk8t-manifests")
        w.config = replace(w.config, memory="4Gi")
        async with w:
            yield w
        assert w.leftovers() == []


async def apply(world: NodeWorld, name: str, **limits: str) -> None:
    """Create the file's objects, Pods on this machine. `limits` replaces the first container's limits and requests."""
    for doc in yaml.safe_load_all((MANIFESTS / name).read_text()):
        if doc["kind"] == "Pod":
            doc["spec"] |= {"nodeName": world.name, "automountServiceAccountToken": False}
            if limits:
                doc["spec"]["containers"][0]["resources"] = {"requests": limits, "limits": limits}
        await world.client.create(f"{doc['kind'].lower()}s", doc, "default")


def fetch(url: str) -> str:
    """Asked again while the port is refused: a pod without a readiness probe is Ready before its server listens."""
    return sh("curl", "-sS", "--max-time", "5", "--retry", "30", "--retry-delay", "1", "--retry-connrefused", url)


async def test_nginx_answers(world: NodeWorld) -> None:
    await apply(world, "03a-pod-nginx.yaml")
    status = await world.ready("nginx")
    assert "nginx" in await asyncio.to_thread(fetch, f"http://{status['podIP']}/")


async def test_two_containers_share_the_network_and_a_volume(world: NodeWorld) -> None:
    await apply(world, "03b-pod-web-app.yaml")
    status = await world.ready("web-app-xyz")
    assert len(status["containerStatuses"]) == 2
    address = status["podIP"]
    await asyncio.to_thread(fetch, f"http://{address}/?asked=1")
    # nginx wrote the line to the shared volume, and finds the shipper, which serves it, on localhost
    assert "GET /?asked=1" in await asyncio.to_thread(fetch, f"http://{address}/log/access.log")


async def test_a_container_over_its_limit_is_killed_and_restarts_back_off(world: NodeWorld) -> None:
    await apply(world, "06b-0-pod-out-of-memory.yaml", memory="64Mi")  # not 1Gi: other tests run beside this one

    def backs_off(status: Obj) -> bool:
        container = (status.get("containerStatuses") or [{}])[0]
        return container.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"

    (container,) = (await world.status("out-of-memory", backs_off, 30))["containerStatuses"]
    ended = container["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


@pytest.mark.parametrize(
    ("name", "pod", "qos", "memory_bytes"),
    [
        ("06b-1-pod-more-memory.yaml", "more-memory", "Burstable", 2 << 30),
        ("06b-2-pod-guaranteed.yaml", "guaranteed", "Guaranteed", 1 << 30),
    ],
)
async def test_limits_reach_the_kernel(world: NodeWorld, name: str, pod: str, qos: str, memory_bytes: int) -> None:
    await apply(world, name)
    status = await world.ready(pod)
    assert status["qosClass"] == qos
    container = status["containerStatuses"][0]["containerID"].rpartition("/")[2]
    assert int(sh("docker", "inspect", "-f", "{{.HostConfig.Memory}}", container)) == memory_bytes


async def test_ndots_reaches_the_resolver(world: NodeWorld) -> None:
    await apply(world, "06c-2-pod-ndots.yaml")
    status = await world.status("ndots", lambda s: s.get("phase") == "Succeeded")
    container = status["containerStatuses"][0]["containerID"].rpartition("/")[2]
    lines = sh("docker", "logs", container).splitlines()
    assert [line for line in lines if line.startswith("options")] == ["options ndots:1"]
    assert any(line.startswith("search default.svc.cluster.local svc.cluster.local cluster.local") for line in lines)
