"""Stock kubectl, the API server and all controllers; machines are played.

The played kubelet binds pods where their affinity says, runs what restarts and completes what does not.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.controllers.config import ControllerConfig
from cluster.controllers.daemonset_pods import target_node
from cluster.controllers.env import Outside
from cluster.controllers.manager import ControllerManager
from cluster.machine.pki import KeyPair
from cluster.machinery.client import clone
from cluster.machinery.registry_client import RegistryClient
from cluster.registry.context import MASTERS, RequestContext
from tests.support.apiserver_harness import Pki, edge
from tests.support.kubectl import Kubectl
from tests.support.memory_store import MemoryStore
from tests.support.signing_requests import Issuer


class Cluster:
    """kubectl and the played kubelet over one server."""

    def __init__(self, server, root: Path) -> None:
        self.root, self.server = root, server
        self.run = Kubectl(server, root=root).run
        self.client = RegistryClient(server.registry, lambda: RequestContext(MASTERS, field_manager="kubelet"))
        self._ip = 1

    async def kubectl(self, *args: str, stdin: str = "", fails: bool = False) -> str:
        code, out, err = await self.run(*args, stdin=stdin)
        assert fails == (code != 0), (args, out, err)
        return err if fails else out

    async def columns(self, *args: str) -> list[list[str]]:
        return [line.split() for line in (await self.kubectl("get", *args, "--no-headers")).splitlines()]

    async def machines(self) -> None:
        """Nodes n1 and n2, and what their kubelets do, until cancelled."""
        for name in ("n1", "n2"):
            await self.client.create("nodes", {"metadata": {"name": name}})
            node = clone(await self.client.get("nodes", name))
            stamp = rfc3339(time.time())
            node["status"] = {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": stamp}]}
            await self.client.update("nodes", node, subresource="status")
        while True:
            for pod in (await self.client.list("pods")).items:
                with contextlib.suppress(ApiError):
                    await self._keep(pod)
            await asyncio.sleep(0.1)

    async def _keep(self, pod) -> None:
        meta, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
        if "deletionTimestamp" in meta:
            await self.client.delete("pods", meta["name"], meta["namespace"], grace_period_s=0)
        elif not spec.get("nodeName"):
            target = {"kind": "Node", "name": target_node(pod) or "n1"}
            body = {"metadata": {"name": meta["name"]}, "target": target}
            await self.client.create("pods", body, meta["namespace"], subresource="binding", name=meta["name"])
        elif status.get("phase") == "Pending":
            await self._status(pod, "Running", ready=True)
        elif status.get("phase") == "Running" and spec["restartPolicy"] != "Always" and "sleep" not in str(spec):
            await self._status(pod, "Succeeded", ready=False)

    async def _status(self, pod, phase: str, *, ready: bool) -> None:
        changed = clone(pod)
        self._ip += 1
        stamp = "2026-01-01T00:00:00Z"
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": stamp}
        others = [c for c in changed["status"].get("conditions") or [] if c["type"] != "Ready"]
        changed["status"] = {**changed["status"], "phase": phase, "conditions": [*others, condition]}
        changed["status"]["podIP"] = f"10.244.0.{self._ip % 250 + 2}"
        await self.client.update("pods", changed, subresource="status")


@contextlib.asynccontextmanager
async def kubectl_cluster(root: Path) -> AsyncIterator[Cluster]:
    store = MemoryStore()
    async with edge(Pki(root), store=store) as server:
        played = Cluster(server, root)
        config = ControllerConfig(root_ca_file=server.pki.path("ca.crt"), node_startup_grace_period_s=3600.0)
        config = replace(config, node_monitor_grace_period_s=3600.0)
        ca = KeyPair((root / "ca.crt").read_bytes(), (root / "ca.key").read_bytes())
        manager = ControllerManager(store, server.registry, config, "m1", Outside(issuer=Issuer(time.time, ca)))
        tasks = [asyncio.create_task(manager.run()), asyncio.create_task(played.machines())]
        try:
            yield played
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
