"""A machine for kubelet tests: a network namespace of its own, a registry on an in-memory store, the real engine.

The test's thread enters the namespace (threads it starts inherit it) and leaves it at the end. Everything is labelled
with the machine's name, which begins with `sk8t-node`; `leftovers` lists what a test failed to give back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from benchmarks import _namespaces
from cluster.cloud import cgroups
from cluster.machinery.client import Client
from cluster.machinery.http_client import HttpClient, HttpConfig
from cluster.machinery.registry_client import RegistryClient
from cluster.node.cgroup_plan import pods_root
from cluster.node.cni import PodNetwork
from cluster.node.config import KubeletConfig
from cluster.node.cri.cni_server import CniServer
from cluster.node.docker_runtime import DockerRuntime
from cluster.node.kubelet import Kubelet
from cluster.node.machine_netns import machine_netns
from cluster.node.runtime import Runtime
from cluster.registry.context import MASTERS, RequestContext
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from tests.support.apiserver_harness import Edge, Pki, edge
from tests.support.memory_store import MemoryStore

IMAGE = "sk8t-node/busybox:1"
CIDR = "10.244.77.0/24"
Obj = dict[str, Any]


def engine_answers() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


# What every module of kubelet tests needs; `node_image` (tests/integration/conftest.py) makes IMAGE.
NODE_TESTS = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not engine_answers(), reason="needs a container engine"),
    pytest.mark.usefixtures("node_image"),
]


def sh(*command: str, check: bool = True) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout


def build_image() -> None:
    """A busybox image with its applets, from the pause image's busybox."""
    repository = Path(__file__).parents[2]
    subprocess.run([str(repository / "infra/images/pause/build.sh")], check=True, capture_output=True)
    if sh("docker", "images", "-q", IMAGE):
        return
    setup = "mkdir -p /tmp; /bin/busybox --install -s /bin; chmod 1777 /tmp"
    name = f"sk8t-node-image-{os.getpid()}"
    sh(
        "docker",
        "run",
        "--network=none",
        f"--name={name}",
        "--entrypoint=/bin/busybox",
        "sk8/pause:1",
        "sh",
        "-c",
        setup,
    )
    changes = """--change 'LABEL sk8t=node' --change 'CMD ["/bin/sh"]'"""
    sh("sh", "-c", f"docker export {name} | docker import {changes} - {IMAGE}")
    sh("docker", "rm", name)


def remove_image() -> None:
    sh("docker", "rmi", IMAGE, check=False)


@contextlib.contextmanager
def machine_namespace(name: str) -> Iterator[None]:
    """Make a network namespace and put this thread into it; the way back is always taken."""
    with _namespaces.made(name), _namespaces.entered(name):
        yield


class NodeWorld:
    """`async with NodeWorld(tmp_path) as w`: the API, and a kubelet that can be restarted.

    With `edge` the kubelet speaks HTTPS to a real API server, with its node identity; else straight to a registry.
    """

    def __init__(self, root: Path, name: str = "sk8t-node1", *, edge: bool = False, **settings: Any) -> None:
        self.root = root
        self.name = name
        self._edge = edge
        self._stack = contextlib.AsyncExitStack()
        pki = root / "pki"
        pki.mkdir()
        self.pki = Pki(pki)
        self.pki.issue("node", f"system:node:{name}", ("system:nodes",), server=True)
        self.pki.issue("stranger", "somebody", ("system:authenticated",))
        self.store = MemoryStore()
        self.registry = Registry(self.store, RegistryConfig(), clock=time.time, rng=random.Random(7))
        self.client: Client = RegistryClient(self.registry, lambda: RequestContext(user=MASTERS, field_manager="test"))
        self.node_client = self.client
        fast = {"config_map_and_secret_ttl_s": 0.2, "volume_refresh_s": 0.3, "relist_period_s": 1.0}
        self.config = KubeletConfig(
            node_name=name,
            node_ip="127.0.0.1",
            root_dir=str(root / "kubelet"),
            server_cert_file=str(pki / "node.crt"),
            server_key_file=str(pki / "node.key"),
            client_ca_file=str(pki / "ca.crt"),
            cpu="2",
            memory="1Gi",
            cgroup_root=f"/{name}",
            pod_logs_dir=str(root / "log" / "pods"),
            container_logs_dir=str(root / "log" / "containers"),
            **{**fast, **settings},
        )
        self.cidrs: tuple[str, ...] = (CIDR,)
        self.server: Edge  # with `edge`
        self.kubelet: Kubelet | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._edge:
            await self._start_edge()
        for namespace in ("default", "kube-node-lease", "kube-system"):
            with contextlib.suppress(Exception):
                await self.client.create(
                    "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
                )
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        await self.client.create("serviceaccounts", account, "default")
        root = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}}
        authority = (self.root / "pki" / "ca.crt").read_text()
        await self.client.create("configmaps", {**root, "data": {"ca.crt": authority}}, "default")
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for pod in (await self.client.list("pods")).items:
            with contextlib.suppress(Exception):
                await self.client.delete(
                    "pods", pod["metadata"]["name"], pod["metadata"]["namespace"], grace_period_s=1
                )
        with contextlib.suppress(TimeoutError):
            await self.until(self._empty, 20)
        if self.kubelet is not None:
            await self.kubelet._network.teardown()
        await self.stop()
        cgroups.remove_empty(self.name)
        await self._stack.aclose()

    async def _empty(self) -> bool:
        """No pod is left, neither in the API (a kubelet that has just started may not know its pods yet) nor here."""
        return not (await self.client.list("pods")).items and not (self.kubelet and self.kubelet.pods())

    async def _start_edge(self) -> None:
        server = self.server = await self._stack.enter_async_context(edge(self.pki))

        def http(certificate: str) -> HttpClient:
            files = {"cert_file": self.pki.path(f"{certificate}.crt"), "key_file": self.pki.path(f"{certificate}.key")}
            return HttpClient(HttpConfig(server=server.url, ca_file=self.pki.path("ca.crt"), **files))

        self.client = await self._stack.enter_async_context(http("admin"))
        self.node_client = await self._stack.enter_async_context(http("node"))

    def engine(self) -> Runtime:
        groups = pods_root(self.config.cgroup_root)
        return DockerRuntime(self.name, netns=machine_netns("/proc/thread-self/ns/net"), pods_cgroup=groups)

    def cni(self, network: PodNetwork) -> CniServer | None:
        """For an engine that connects its sandboxes itself."""
        return None

    async def start(self) -> None:
        network = PodNetwork(str(self.root / "kubelet" / "network"))
        self.kubelet = Kubelet(self.config, self.node_client, self.engine(), network, cni=self.cni(network))
        self._task = asyncio.create_task(self.kubelet.run())
        await self.until(self._registered, 10)
        node = await self.client.get("nodes", self.name)
        if not node["spec"].get("podCIDR"):
            spec = {"podCIDR": self.cidrs[0], "podCIDRs": list(self.cidrs)}
            await self.client.patch("nodes", self.name, {"spec": spec})
        await self.until(lambda: self._over() or bool(self.kubelet and self.kubelet.health()["ready"]), 10)

    async def stop(self) -> None:
        """As a crash of the process: containers go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = self.kubelet = None

    def _over(self) -> bool:
        if self._task is not None and self._task.done():
            self._task.result()
        return False

    async def _registered(self) -> bool:
        self._over()
        return any(n["metadata"]["name"] == self.name for n in (await self.client.list("nodes")).items)

    async def until(self, condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
        """The first true answer of `condition` (which may be async)."""
        async with asyncio.timeout(timeout_s):
            while True:
                answer = condition()
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0.02)

    # ------------------------------------------------------------ pods

    async def run_pod(self, name: str, command: str = "sleep 1000", **spec: Any) -> Obj:
        container = {"name": "app", "image": IMAGE, "command": ["sh", "-c", command], **spec.pop("container", {})}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "nodeName": self.name,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 2,
                "containers": [container],
                **spec,
            },
        }
        return await self.client.create("pods", pod, "default")

    async def pod(self, name: str) -> Obj:
        return await self.client.get("pods", name, "default")

    async def status(self, name: str, want: Callable[[Obj], Any], timeout_s: float = 15.0) -> Obj:
        """The pod's status once `want(status)` is true."""
        last: Obj = {}

        async def look() -> Obj | None:
            nonlocal last
            self._over()
            last = (await self.pod(name)).get("status") or {}
            return last if want(last) else None

        try:
            return await self.until(look, timeout_s)
        except TimeoutError:
            raise AssertionError(f"{name} has status {last}") from None

    async def ready(self, name: str, timeout_s: float = 15.0) -> Obj:
        return await self.status(name, lambda s: condition(s, "Ready") == "True", timeout_s)

    async def gone(self, name: str, timeout_s: float = 15.0) -> None:
        async def look() -> bool:
            return all(p["metadata"]["name"] != name for p in (await self.client.list("pods", "default")).items)

        await self.until(look, timeout_s)

    async def reasons(self, name: str) -> list[str]:
        events = (await self.client.list("events", "default")).items
        return [e["reason"] for e in events if e["involvedObject"]["name"] == name]

    async def told(self, name: str, *reasons: str) -> None:
        """Wait for Events about it with these reasons: they are written a moment after what they tell of."""

        async def all_told() -> bool:
            return {*reasons} <= {*await self.reasons(name)}

        await self.until(all_told, 60)

    def story(self, name: str) -> str:
        """What the kubelet's core of a pod went through, for messages of failed asserts."""
        core = self.kubelet.core_of("default", name) if self.kubelet else None
        return "\n".join(
            f"{n} {at:.3f} {event} -> {actions}" for n, at, event, actions in (core.story() if core else ())
        )

    def leftovers(self) -> list[str]:
        """Containers, links, mounts and control groups that are still there."""
        left = sh("docker", "ps", "-aq", "--filter", f"label=sk8.machine={self.name}").split()
        left += [line for line in sh("ip", "-o", "link").splitlines() if "veth" in line]
        left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.root) in line]
        for directory in ("kubelet/pods", "log/pods", "log/containers"):
            path = self.root / directory
            left += [str(p) for p in path.iterdir()] if path.is_dir() else []
        return left


def condition(status: Obj, kind: str) -> str:
    return str(next((c["status"] for c in status.get("conditions") or () if c["type"] == kind), ""))
