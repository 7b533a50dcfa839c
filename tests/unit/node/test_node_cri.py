"""CRI's words for pods and containers, and the CNI plugin's conversation, without a runtime."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cluster.node.cni import NetworkFailure
from cluster.node.cri import spec
from cluster.node.cri.cni_server import CniServer, install
from cluster.node.cri.protos import message
from cluster.node.cri.runtime import CriRuntime
from cluster.node.runtime import (
    UNANSWERED,
    ContainerConfig,
    ImageEntry,
    Mount,
    PodRef,
    RuntimeFailure,
    SandboxConfig,
)

POD = PodRef("ns", "web", "uid-1")


def test_a_container_in_cris_words() -> None:
    config = ContainerConfig(
        POD, "app", 2, "box", "app:1", command=("sh",), env=("A=1=2",), user="5:6", groups=("7",),
        mounts=(Mount("/src", "/dst", True, "rslave"),), capabilities_drop=("ALL",), memory_limit_bytes=64 << 20,
        log_path="/var/log/pods/x/app/2.log", no_new_privileges=True,
    )  # fmt: skip
    made = spec.container("m1", config)
    assert made.log_path == "var/log/pods/x/app/2.log" and (made.envs[0].key, made.envs[0].value) == ("A", b"1=2")
    assert (made.mounts[0].readonly, made.mounts[0].propagation) == (True, 1)
    security = made.linux.security_context
    assert (security.run_as_user.value, security.run_as_group.value) == (5, 6)
    assert (
        list(security.supplemental_groups) == [7] and security.no_new_privs and "/proc/kcore" in security.masked_paths
    )
    assert made.linux.resources.memory_limit_in_bytes == 64 << 20
    back = spec.from_container(message("Container", id="c", labels=made.labels, state=1, image_ref="sha256:1"))
    assert (back.pod, back.name, back.attempt, back.sandbox_id, back.state) == (POD, "app", 2, "box", "running")
    assert back.log_path == "/var/log/pods/x/app/2.log"


def test_who_is_named_is_no_number_and_the_privileged_have_nothing_masked() -> None:
    security = spec.container("m1", ContainerConfig(POD, "a", 0, "b", "i", user="www", privileged=True)).linux
    assert security.security_context.run_as_username == "www" and not security.security_context.HasField("run_as_user")
    assert not security.security_context.masked_paths and security.security_context.seccomp.profile_type == 1


def test_a_sandbox_and_its_network_namespace() -> None:
    made = spec.sandbox("m1", SandboxConfig(POD, 3, "host", "pause", {"net.x": "1"}, host_ipc=True))
    options = made.linux.security_context.namespace_options
    assert (options.network, options.pid, options.ipc) == (spec.POD, spec.CONTAINER, spec.NODE)
    verbose = {"runtimeSpec": {"linux": {"namespaces": [{"type": "network", "path": "/var/run/netns/x"}]}}}
    entry = message("PodSandboxStatus", id="s", labels=made.labels, state=0)
    back = spec.from_sandbox(entry, {"info": json.dumps(verbose)})
    assert back.is_sandbox and back.attempt == 3 and back.netns == "/var/run/netns/x" and back.state == "running"


def test_an_image_that_the_runtime_wants_kept() -> None:
    made = message("Image", id="sha256:1", repo_tags=["registry.k8s.io/pause:3.6"], size=7, pinned=True)
    assert spec.from_image(made) == ImageEntry(("registry.k8s.io/pause:3.6",), 7, "sha256:1", pinned=True)
    assert not spec.from_image(message("Image", id="sha256:2")).pinned


class Network:
    def __init__(self) -> None:
        self.connected: dict[str, str] = {}

    async def add(self, sandbox_id: str, netns: str) -> tuple[str, ...]:
        if netns == "/full":
            raise NetworkFailure("no address is free")
        self.connected[sandbox_id] = netns
        return ("10.0.0.7",)

    async def delete(self, sandbox_id: str) -> None:
        self.connected.pop(sandbox_id, None)

    async def check(self, sandbox_id: str) -> bool:
        return sandbox_id in self.connected


async def plugin(root: Path, command: str, netns: str = "/ns", kind: str = "sk8") -> tuple[int, dict | None]:
    """Run the installed plugin as a runtime does."""
    conflist = json.loads((root / "conf" / "05-sk8.conflist").read_text())
    config = {**conflist["plugins"][0], "type": kind, "cniVersion": "1.0.0", "name": "sk8"}
    names = {"CNI_COMMAND": command, "CNI_CONTAINERID": "box", "CNI_NETNS": netns, "CNI_IFNAME": "eth0"}
    pipe, binary = asyncio.subprocess.PIPE, str(root / "bin" / kind)
    process = await asyncio.create_subprocess_exec(binary, env={**os.environ, **names}, stdin=pipe, stdout=pipe)
    out, _ = await process.communicate(json.dumps(config).encode())
    return process.returncode or 0, json.loads(out) if out.strip() else None


async def test_the_plugin_asks_the_kubelet(tmp_path: Path) -> None:
    network = Network()
    install(str(tmp_path / "conf"), str(tmp_path / "bin"), str(tmp_path / "s"))
    code, answer = await plugin(tmp_path, "ADD")
    assert code == 1 and answer is not None and "does not answer" in answer["msg"]
    server = CniServer(str(tmp_path / "s"), network)
    await server.start()
    try:
        code, answer = await plugin(tmp_path, "ADD")
        assert code == 0 and answer is not None and answer["ips"] == [{"address": "10.0.0.7/32", "interface": 0}]
        assert network.connected == {"box": "/ns"} and await plugin(tmp_path, "CHECK") == (0, None)
        assert await plugin(tmp_path, "DEL") == (0, None) and network.connected == {}
        code, answer = await plugin(tmp_path, "CHECK")
        assert code == 1 and answer is not None and answer["code"] == 11
        code, answer = await plugin(tmp_path, "ADD", "/full")
        assert code == 1 and answer is not None and answer["msg"] == "no address is free"
        code, answer = await plugin(tmp_path, "VERSION")
        assert answer is not None and "1.0.0" in answer["supportedVersions"]
        code, answer = await plugin(tmp_path, "ADD", kind="loopback")
        assert code == 0 and answer is not None and answer["ips"][0]["address"] == "127.0.0.1/8"
    finally:
        await server.close()


class OutOfTime(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A runtime that ends nothing within its own time."""

    def service(self, _: Any) -> Any:
        async def refuse(_: bytes, context: Any) -> None:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded")

        return grpc.unary_unary_rpc_method_handler(refuse)


async def test_a_runtime_that_is_out_of_time_has_not_answered(tmp_path: Path) -> None:
    """Regression: it ended the task that stopped the container, which nobody looked at any more."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((OutOfTime(),))
    server.add_insecure_port(f"unix://{tmp_path}/cri.sock")
    await server.start()
    runtime = CriRuntime("m1", f"unix://{tmp_path}/cri.sock")
    try:
        with pytest.raises(RuntimeFailure, match="context deadline exceeded") as caught:
            await runtime.signal("c1", "SIGKILL")
        assert caught.value.reason == UNANSWERED
        with pytest.raises(TimeoutError, match="context deadline exceeded"):
            await runtime.exec_sync("c1", ["true"], 30)
    finally:
        await runtime.close()
        await server.stop(None)
