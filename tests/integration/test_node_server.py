"""The kubelet's server as the API server uses it: logs, exec, attach, statistics, and who may ask."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from cluster.api.remotecommand import why_refused
from cluster.node.runtime import RuntimeFailure
from tests.support.kubelet_caller import Caller
from tests.support.node_world import NODE_TESTS, NodeWorld, machine_namespace, sh

pytestmark = NODE_TESTS


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-server"):
        async with NodeWorld(tmp_path) as w:
            yield w
        assert w.leftovers() == []


async def test_logs_exec_attach_and_statistics(world: NodeWorld) -> None:
    command = 'echo one; echo two >&2; while read line; do echo "got $line"; done; sleep 1000'
    await world.run_pod("s", command, container={"stdin": True})
    await world.ready("s")
    caller = Caller(world)
    try:
        await _logs(world, caller)
        await _exec(caller)
        await _attach(caller)
        pod = await world.until(lambda: _statistics(caller, "s"))  # a sample may be some seconds old
        assert pod["containers"][0]["memory"]["workingSetBytes"] > 0
        assert (await caller.get("/healthz"))[1] == "ok"
        assert json.loads((await caller.get("/pods"))[1])["items"][0]["status"]["phase"] == "Running"
        assert "kubelet_running_pods 1.0" in (await caller.get("/metrics"))[1]
        await _views(caller)
    finally:
        await caller.session.close()


async def _views(caller: Caller) -> None:
    running = json.loads((await caller.get("/runningpods/"))[1])["items"]
    assert [c["name"] for c in running[0]["spec"]["containers"]] == ["app"]
    assert 'container_memory_working_set_bytes{container="app"' in (await caller.get("/metrics/cadvisor"))[1]
    assert (await caller.get("/metrics/probes"))[0] == 200
    assert json.loads((await caller.get("/configz"))[1])["kubeletconfig"]["maxPods"] == 110
    code, listing = await caller.get("/logs/")
    assert code == 200 and "<a href=" in listing
    assert (await caller.get("/logs/../../etc/shadow"))[0] in (403, 404)


async def _statistics(caller: Caller, name: str) -> dict | None:
    code, text = await caller.get("/stats/summary")
    assert code == 200, text
    return next((p for p in json.loads(text)["pods"] if p["podRef"]["name"] == name), None)


async def _logs(world: NodeWorld, caller: Caller) -> None:
    path = "/containerLogs/default/s/app"
    await world.until(lambda: _both_lines(caller, path))
    assert (await caller.get(path, tailLines="0"))[1] == ""
    assert len((await caller.get(path, tailLines="1"))[1].splitlines()) == 1
    assert (await caller.get(path, limitBytes="2"))[1] in ("on", "tw")
    stamped = (await caller.get(path, timestamps="true"))[1].splitlines()[0]
    assert stamped[:2] == "20" and stamped.split()[1] in ("one", "two")
    assert (await caller.get(path, sinceSeconds="x"))[0] == 400
    assert (await caller.get(path, previous="true"))[0] == 400
    assert (await caller.get("/containerLogs/default/s/nope"))[0] == 404
    code, body = await caller.get("/containerLogs/default/nope/app")
    assert code == 404 and json.loads(body)["reason"] == "NotFound"


async def _both_lines(caller: Caller, path: str) -> bool:
    return sorted((await caller.get(path))[1].split()) == ["one", "two"]


async def _exec(caller: Caller) -> None:
    base = "/exec/default/s/app?stdout=true&stderr=true"
    out, status = await caller.exec(f"{base}&command=sh&command=-c&command=echo%20out;echo%20err%20%3E%262")
    assert out == {1: b"out\n", 2: b"err\n"} and status["status"] == "Success"
    _, status = await caller.exec(f"{base}&command=sh&command=-c&command=exit%207", protocol="v4.channel.k8s.io")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    out, status = await caller.exec(f"{base}&stdin=true&command=cat", stdin=[b"through ", b"and through"])
    assert out[1] == b"through and through" and status["status"] == "Success"
    out, _ = await caller.exec(f"{base}&tty=true&command=tty")
    assert out[1].startswith(b"/dev/")
    big, _ = await caller.exec(f"{base}&command=head&command=-c&command=300000&command=/dev/zero")
    assert len(big[1]) == 300000
    for command, out, code in (("head -c 3; exit 4", b"zzz", "4"), ("exit 5", None, "5")):
        # The command ends before it has read its input: no hang, no broken connection.
        async with asyncio.timeout(30):
            url = f"{base}&stdin=true&command=sh&command=-c&command={quote(command)}"
            got, status = await caller.exec(url, stdin=[b"z" * 32768] * 200, close=False)
        assert got.get(1) == out and status["details"]["causes"] == [{"reason": "ExitCode", "message": code}]
    assert (await caller.get("/exec/default/s/app", command="ls"))[0] == 400


async def _attach(caller: Caller) -> None:
    url = f"{caller.url}/attach/default/s/app?stdin=true&stdout=true&stderr=true"
    async with caller.session.ws_connect(url, protocols=("v5.channel.k8s.io",)) as socket:
        await socket.send_bytes(b"\0hello\n")
        message = await asyncio.wait_for(socket.receive(), 5)
        assert message.data == b"\1got hello\n"


async def test_an_attachment_that_comes_too_late_is_refused(world: NodeWorld) -> None:
    """Regression: the kubelet had not noticed yet that the container ended, and the engine held the attachment for a
    next start: `kubectl run -i` of a short command hung."""
    await world.run_pod("e", "true", restartPolicy="Never")
    status = await world.status("e", lambda s: s.get("phase") == "Succeeded")
    ended = status["containerStatuses"][0]["containerID"].partition("://")[2]
    runtime = world.engine()
    try:
        async with asyncio.timeout(60):
            with pytest.raises(RuntimeFailure, match="the container has ended"):
                await runtime.attach(ended, stdin=False, stdout=True, stderr=True, tty=False)
    finally:
        await runtime.close()


async def test_followed_logs_end_with_the_container(world: NodeWorld) -> None:
    await world.run_pod("f", "for i in 1 2 3; do echo $i; sleep 0.3; done", restartPolicy="Never")
    await world.status("f", lambda s: s.get("phase") == "Running")
    caller = Caller(world)
    try:
        assert (await caller.get("/containerLogs/default/f/app", follow="true"))[1] == "1\n2\n3\n"
    finally:
        await caller.session.close()


async def test_log_files_are_where_shippers_look_and_survive_rotation_and_a_restart(world: NodeWorld) -> None:
    """The file has every line once, over a rotation and a kubelet that dies while the container writes."""
    count = "i=0; while :; do i=$((i+1)); echo line $i; [ $i -lt 50 ] || sleep 0.02; done"
    await world.run_pod("l", count)
    status = await world.ready("l")
    app = status["containerStatuses"][0]
    meta = (await world.pod("l"))["metadata"]
    path = world.root / "log" / "pods" / f"default_l_{meta['uid']}" / "app" / "0.log"
    link = world.root / "log" / "containers" / f"l_default_app-{app['containerID'].removeprefix('docker://')}.log"
    assert link.resolve() == path
    first = (await world.until(lambda: path.exists() and path.read_text().splitlines()))[0].split(" ")
    assert first[0].endswith("Z") and first[1:] == ["stdout", "F", "line", "1"]
    await world.stop()
    await world.start()
    rotation = world.kubelet._keeping.rotation
    rotation._files = dataclasses.replace(rotation._files, max_bytes=100)
    await rotation.rotate_all()
    rotated = await world.until(lambda: [p for p in path.parent.iterdir() if p != path] if path.exists() else None)
    await world.until(lambda: path.read_text().count("\n") > 3)
    lines = [line.split(" ", 3)[3] for p in (rotated[0], path) for line in p.read_text().splitlines()]
    assert lines == [f"line {n}" for n in range(1, len(lines) + 1)]
    caller = Caller(world)
    try:
        code, text = await caller.get("/containerLogs/default/l/app")
        assert code == 200 and text.splitlines()[0] == path.read_text().splitlines()[0].split(" ", 3)[3]
    finally:
        await caller.session.close()


async def test_the_log_of_a_run_that_ended(world: NodeWorld) -> None:
    await world.run_pod("c", "echo run; exit 3")
    path = "/containerLogs/default/c/app"
    caller = Caller(world)
    try:
        for restarts in (1, 2):
            status = await world.status("c", lambda s, n=restarts: _crashed(s, n), 30)
            assert await caller.get(path, previous="true") == (200, "run\n")
            assert await caller.get(path) == (200, "run\n")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await caller.exec("/exec/default/c/app?command=ls&stdout=true")
        said = 'unable to upgrade connection: container not found ("app")'
        assert (refused.value.status, why_refused(refused.value.headers)) == (400, said)
        last = status["containerStatuses"][0]["lastState"]["terminated"]["containerID"]
        sh("docker", "rm", last.removeprefix("docker://"))
        code, body = await caller.get(path, previous="true")
        assert code == 404 and json.loads(body)["message"] == f"unable to retrieve container logs for {last}"
    finally:
        await caller.session.close()


def _crashed(status: dict[str, Any], restarts: int) -> bool:
    container = (status.get("containerStatuses") or [{}])[0]
    reason = container.get("state", {}).get("waiting", {}).get("reason")
    return reason == "CrashLoopBackOff" and container["restartCount"] == restarts


async def test_who_may_ask(tmp_path: Path) -> None:
    """Certificates, and tokens as the API server judges them."""
    with machine_namespace("sk8t-node-server"):
        async with NodeWorld(tmp_path, edge=True) as world:
            for certificate, expected in (("stranger", 403), ("admin", 200), ("node", 403)):
                caller = Caller(world, certificate)
                try:
                    assert (await caller.get("/pods"))[0] == expected
                finally:
                    await caller.session.close()
            assert await _by_token(world, "/metrics", "") == 401
            await _may_read_metrics(world, "default")
            request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            made = await world.client.create("serviceaccounts", request, "default", subresource="token", name="default")
            token = f"Bearer {made['status']['token']}"
            assert await _by_token(world, "/metrics/resource", token) == 200
            assert await _by_token(world, "/configz", token) == 403


async def _by_token(world: NodeWorld, path: str, authorization: str) -> int:
    assert world.kubelet is not None
    url = f"https://127.0.0.1:{world.kubelet.server.port}{path}"
    headers = {"Authorization": authorization} if authorization else {}
    async with aiohttp.ClientSession() as session, session.get(url, ssl=False, headers=headers) as response:
        return response.status


async def _may_read_metrics(world: NodeWorld, account: str) -> None:
    api = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "scraper"}}
    rules = [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]
    await world.client.create("clusterroles.rbac.authorization.k8s.io", {**api, "kind": "ClusterRole", "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "scraper"}
    subjects = [{"kind": "ServiceAccount", "namespace": "default", "name": account}]
    binding = {**api, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": subjects}
    await world.client.create("clusterrolebindings.rbac.authorization.k8s.io", binding)
