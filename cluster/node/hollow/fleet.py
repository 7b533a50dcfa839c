"""Any number of hollow nodes in one process, at the price of their requests: one watch of pods, one of nodes for all.

IO: the API, through the injected Client, which needs the rights of every node (an administrator's). `run` registers the
nodes, takes over what an earlier fleet ran, and then plays kubelet until it is cancelled; the Node objects stay, and
become Unknown as silent nodes do, unless `remove` is called.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cluster.api.errors import ApiError
from cluster.machinery.client import Client, ignore_not_found
from cluster.machinery.clock import monotonic
from cluster.machinery.informer import Informer
from cluster.node.hollow.node import LABEL, HollowNode, HollowSpec
from cluster.node.status_writer import StatusWriter

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_AT_ONCE = 64


class HollowFleet:
    """Nodes `<prefix>0`, `<prefix>1`, ..."""

    def __init__(
        self,
        client: Client,
        nodes: int,
        spec: HollowSpec,
        *,
        prefix: str = "hollow-",
        clock: Callable[[], float],
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self._client = client
        self._spec = spec
        self._statuses = StatusWriter(client, clock)
        self._nodes = {
            name: HollowNode(spec, name, index, client, self._statuses, clock, monotonic)
            for index, name in enumerate(f"{prefix}{n}" for n in range(nodes))
        }
        self._pods = Informer(client, "pods", field_selector="spec.nodeName!=")
        self._objects = Informer(client, "nodes", label_selector=f"{LABEL}=true")
        self.ready = asyncio.Event()
        """Every node is registered and its pods are worked on."""

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._each(lambda node: node.agent.register())
            async with asyncio.TaskGroup() as group:
                for informer in (self._objects, self._pods):
                    group.create_task(informer.run(), name=f"informer {informer.resource}")
                await self._objects.wait_synced()
                await self._pods.wait_synced()
                self._adopt()
                self._objects.add_handler(self._on_node)
                pause = self._spec.lease_renew_s / max(len(self._nodes), 1)
                for index, node in enumerate(self._nodes.values()):
                    group.create_task(node.run_runtime(), name=f"hollow runtime {node.name}")
                    group.create_task(node.run(index * pause), name=f"hollow node {node.name}")
                await self._each(lambda node: _first_status(node))
                self.ready.set()
        finally:
            await asyncio.gather(*(node.close() for node in self._nodes.values()))
            await self._statuses.close()

    async def remove(self) -> None:
        """Delete the Node objects. Raises ApiError."""
        await self._each(lambda node: self._delete(node.name))

    async def _delete(self, name: str) -> None:
        with ignore_not_found():
            await self._client.delete("nodes", name)

    async def _each(self, work: Callable[[HollowNode], Any]) -> None:
        """For every node, some at once."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(node: HollowNode) -> None:
            async with limit:
                await work(node)

        async with asyncio.TaskGroup() as group:
            for node in self._nodes.values():
                group.create_task(one(node))

    def _adopt(self) -> None:
        """Pods that are there already; from then on the handler sees every change."""
        known = self._pods.items()
        for pod in known:
            node = self._nodes.get(pod["spec"].get("nodeName", ""))
            if node is not None:
                node.adopt(pod)
        self._pods.add_handler(self._on_pod)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        node = self._nodes.get(((new or old or {}).get("spec") or {}).get("nodeName", ""))
        if node is not None:
            node.pods.on_pod(old, new)

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        node = self._nodes.get((new or old or {})["metadata"]["name"])
        if node is None:
            return
        if new is not None:
            node.agent.seen(new)
        else:
            node.agent.changed()


async def _first_status(node: HollowNode) -> None:
    for delay in (0.2, 0.5, 1.0, 2.0, 4.0):
        try:
            await node.agent.write_status()
            return
        except ApiError as err:  # a busy server says that it is
            log.info("first status of %s: %s", node.name, err.message)
            await asyncio.sleep(delay)
    log.warning("the first status of %s is not written yet", node.name)
