"""The same kubelet on containerd through CRI: pods, probes, exec, logs, restarts, and nothing left."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cri_world import CriWorld, containerd, containerd_is_there
from tests.support.kubelet_caller import Caller
from tests.support.node_world import build_image, condition, engine_answers, machine_namespace, remove_image, sh

pytestmark = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not engine_answers(), reason="needs a container engine (to build images)"),
    pytest.mark.skipif(not containerd_is_there(), reason="needs containerd, ctr and runc"),
]


@pytest.fixture(scope="module", autouse=True)
def image() -> Iterator[None]:
    build_image()
    yield
    remove_image()


@pytest.fixture
def engine() -> Iterator[Path]:
    with machine_namespace("sk8t-node-cri"), containerd() as root:
        yield root


@pytest.fixture
async def world(tmp_path: Path, engine: Path) -> AsyncIterator[CriWorld]:
    async with CriWorld(tmp_path, engine) as w:
        yield w
        for pod in (await w.client.list("pods")).items:
            await w.client.delete("pods", pod["metadata"]["name"], "default", grace_period_s=1)
        await w.until(lambda: _empty(w), 60)
        assert await w.left() == []
    assert w.leftovers() == []


async def _empty(world: CriWorld) -> bool:
    return not (await world.client.list("pods")).items and not (world.kubelet and world.kubelet.pods())


async def test_a_pod_runs_is_probed_and_can_be_entered(world: CriWorld) -> None:
    command = "mkdir -p /w; echo hello > /w/index.html; echo out; echo err >&2; exec httpd -f -p 80 -h /w"
    container = {
        "readinessProbe": {"httpGet": {"path": "/index.html", "port": 80}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["test", "-e", "/w/index.html"]}, "periodSeconds": 1},
        "resources": {"requests": {"memory": "16Mi"}, "limits": {"memory": "64Mi"}},
    }
    await world.run_pod("web", command, container=container)
    status = await world.ready("web", 60)
    app = status["containerStatuses"][0]
    assert app["containerID"].startswith("containerd://") and status["podIP"].startswith("10.244.77.")
    node = await world.client.get("nodes", world.name)
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert node["status"]["images"]
    caller = Caller(world)
    try:
        path = "/containerLogs/default/web/app"
        await world.until(lambda: _has_lines(caller, path, ["err", "out"]), 30)
        base = "/exec/default/web/app?stdout=true&stderr=true"
        out, ended = await caller.exec(f"{base}&command=sh&command=-c&command=echo%20o;echo%20e%20%3E%262;exit%207")
        assert out == {1: b"o\n", 2: b"e\n"}
        assert ended["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
        out, ended = await caller.exec(f"{base}&stdin=true&command=cat", stdin=[b"through ", b"and through"])
        assert out[1] == b"through and through" and ended["status"] == "Success"
        await world.until(lambda: _measured(caller), 60)
    finally:
        await caller.session.close()


async def test_attach_reaches_the_running_process(world: CriWorld) -> None:
    command = 'while read line; do echo "got $line"; done; sleep 1000'
    await world.run_pod("shell", command, container={"stdin": True})
    await world.ready("shell", 60)
    caller = Caller(world)
    try:
        url = f"{caller.url}/attach/default/shell/app?stdin=true&stdout=true&stderr=true"
        async with asyncio.timeout(60), caller.session.ws_connect(url, protocols=("v5.channel.k8s.io",)) as socket:
            await socket.send_bytes(b"\0hello\n")
            assert (await socket.receive()).data == b"\1got hello\n"
    finally:
        await caller.session.close()


async def _has_lines(caller: Caller, path: str, lines: list[str]) -> bool:
    return sorted((await caller.get(path))[1].split()) == lines


async def _measured(caller: Caller) -> bool:
    pods = json.loads((await caller.get("/stats/summary"))[1])["pods"]
    return bool(pods) and pods[0]["containers"][0]["memory"]["workingSetBytes"] > 0


async def test_exits_restarts_and_messages(world: CriWorld) -> None:
    await world.run_pod(
        "crash", "echo last words; exit 3", container={"terminationMessagePolicy": "FallbackToLogsOnError"}
    )
    status = await world.status("crash", lambda s: _restarts(s) >= 1 and "terminated" in str(_last(s)), 60)
    ended = _last(status)["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "last words\n")
    await world.run_pod("job", "exit 0", restartPolicy="Never")
    await world.status("job", lambda s: s.get("phase") == "Succeeded", 60)
    await world.run_pod("stubborn", "trap '' TERM; while :; do sleep 0.2; done")
    await world.ready("stubborn", 60)
    await world.client.delete("pods", "stubborn", "default", grace_period_s=1)
    await world.gone("stubborn", 60)


def _restarts(status: dict[str, Any]) -> int:
    return int((status.get("containerStatuses") or [{}])[0].get("restartCount") or 0)


def _last(status: dict[str, Any]) -> dict[str, Any]:
    return (status.get("containerStatuses") or [{}])[0].get("lastState") or {}


async def test_a_kubelet_that_restarts_keeps_the_pod_and_its_address(world: CriWorld) -> None:
    await world.run_pod("keep")
    before = await world.ready("keep", 60)
    await world.stop()
    await world.start()
    after = await world.ready("keep", 60)
    assert after["containerStatuses"] == before["containerStatuses"] and after["podIP"] == before["podIP"]
    await asyncio.to_thread(sh, "ping", "-c1", "-W5", after["podIP"])
    assert condition(after, "PodReadyToStartContainers") == "True"


async def test_an_unknown_runtime_handler_is_told(world: CriWorld) -> None:
    made = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "odd"}, "handler": "kata"}
    await world.client.create("runtimeclasses.node.k8s.io", made)
    await world.run_pod("odd", runtimeClassName="odd")

    async def told() -> list[str]:
        events = (await world.client.list("events", "default")).items
        return [e["message"] for e in events if e["reason"] == "FailedCreatePodSandBox"]

    assert 'no runtime for "kata" is configured' in (await world.until(told, 60))[0]
