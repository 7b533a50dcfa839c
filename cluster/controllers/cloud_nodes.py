"""The cloud's word on Nodes: initialized when they come, kept current, deleted when their machine is no more.

A shell around `cloud_nodes_core`. A Node is looked at when it is new or stops being Ready, and every five minutes; one
that is not Ready every five seconds, as in Kubernetes: a provider cannot be watched. Only a Node whose providerID is
of this provider is ever deleted.
"""

from __future__ import annotations

from cluster.api.errors import ApiError
from cluster.api.meta import is_true
from cluster.controllers import cloud_nodes_core as core
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, is_not_found
from cluster.machinery.provider import Instance, Instances, ProviderError
from cluster.machinery.reconciler import Reconciler, Result

_REFRESH_S = 300.0
_WATCH_S = 5.0


class CloudNodeController:
    name = "cloud_node"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._nodes = env.informer("nodes")
        self._events = env.recorder("cloud-node-controller")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=4)
        self._nodes.add_handler(self._on_node)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for node in self._nodes.items():
            self._on_node(None, node)

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if self._env.outside.instances is None or new is None:
            return
        if old is None or core.is_uninitialized(new) or is_true(old, "Ready") != is_true(new, "Ready"):
            self.reconciler.queue.add(new["metadata"]["name"])

    async def _reconcile(self, name: str) -> Result | None:
        node, instances = self._nodes.get("", name), self._env.outside.instances
        if node is None or instances is None:
            return None
        try:
            instance = await instances.instance(node)
            if not self._is_ours(node, instances):
                return await self._initialize(node, instance)
            if await self._judge(node, instance):
                return None
            if instance is not None:
                await self._refresh(node, instance)
        except ProviderError as err:
            self._events.event(node, "Warning", "CloudProviderFailed", f"asking the cloud provider: {err}")
            return Result(_WATCH_S)
        except ApiError as err:
            if not is_not_found(err):
                raise
        return Result(_REFRESH_S if is_true(node, "Ready") else _WATCH_S)

    @staticmethod
    def _is_ours(node: Obj, instances: Instances) -> bool:
        """It was initialized, by this provider."""
        provider_id = str(node["spec"].get("providerID") or "")
        return provider_id.startswith(instances.prefix) and not core.is_uninitialized(node)

    async def _initialize(self, node: Obj, instance: Instance | None) -> Result | None:
        if node["spec"].get("providerID") and not core.is_uninitialized(node):
            return None  # another provider's
        if instance is None:
            return Result(_WATCH_S if core.is_uninitialized(node) else _REFRESH_S)
        await self._refresh(node, instance)
        return Result(_REFRESH_S)

    async def _refresh(self, node: Obj, instance: Instance) -> None:
        found = core.addresses(node, instance)
        if found is not None:
            changed = clone(node)
            changed.setdefault("status", {})["addresses"] = found
            node = await self._env.client.update("nodes", changed, subresource="status")
        changed = core.initialized(node, instance)
        if changed is node:
            return
        await self._env.client.update("nodes", changed)
        if core.is_uninitialized(node):
            self._events.event(node, "Normal", "Synced", "Node synced successfully")

    async def _judge(self, node: Obj, instance: Instance | None) -> bool:
        """Whether the Node is gone now."""
        name, verdict = node["metadata"]["name"], core.verdict(node, instance)
        if verdict == "delete":
            message = f"Deleting node {name} because it does not exist in the cloud provider"
            self._events.event(node, "Normal", "DeletingNode", message)
            await self._env.client.delete("nodes", name, uid=node["metadata"]["uid"])
            return True
        if verdict in ("shutdown", "running"):
            await self._env.client.update("nodes", core.with_shutdown(node, verdict == "shutdown"))
        return False
