"""Node IPAM: every node gets its own block of pod addresses of each family (spec.podCIDR, spec.podCIDRs), never one
that is in use.

The choice is pure (`pick_block`); the shell serialises: one worker, and a block handed out but not yet seen in the
informer stays in `_pending`. Two leaders cannot race: the write carries the leader's fence, and podCIDR is immutable
once set (the API refuses a change).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from cluster.api.nodes import pod_cidrs
from cluster.controllers.env import Env
from cluster.machinery.client import Obj
from cluster.machinery.reconciler import Reconciler, Result

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def pick_block(cluster_cidr: str, mask_size: int, used: Iterable[str]) -> str | None:
    """The lowest free block; None when the range is used up. Blocks of another size count where they overlap."""
    cluster = ipaddress.ip_network(cluster_cidr)
    step = 1 << (cluster.max_prefixlen - mask_size)
    first = int(cluster.network_address)
    count = 1 << (mask_size - cluster.prefixlen)
    taken: set[int] = set()
    for text in used:
        block = ipaddress.ip_network(text)
        if block.version != cluster.version or not block.overlaps(cluster):
            continue
        low = (max(int(block.network_address), first) - first) // step
        high = (int(block.broadcast_address) - first) // step
        taken.update(range(low, min(high, count - 1) + 1))
    for i in range(count):
        if i not in taken:
            return f"{ipaddress.ip_address(first + i * step)}/{mask_size}"
    return None


class NodeIpamController:
    name = "node_ipam"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._nodes = env.informer("nodes")
        self._events = env.recorder("cidrAllocator")
        self._pending: dict[str, list[str]] = {}
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._nodes.add_handler(self._on_node)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self._pending.clear()
        self.reconciler.enqueue_all(self._nodes.items())

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and not new["spec"].get("podCIDR"):
            self.reconciler.queue.add(new["metadata"]["name"])
        elif old is not None:
            name = old["metadata"]["name"]
            self._pending.pop(name, None)
            if new is None:
                self._wake_waiting()

    def _wake_waiting(self) -> None:
        for node in self._nodes.items():
            if not node["spec"].get("podCIDR"):
                self.reconciler.queue.add(node["metadata"]["name"])

    async def _reconcile(self, name: str) -> Result | None:
        node = self._nodes.get("", name)
        if node is None or node["spec"].get("podCIDR"):
            return None
        blocks = self._pending.get(name) or self._pick()
        if not blocks:
            message = f"Node {name} status is now: CIDRNotAvailable"
            self._events.event(node, "Normal", "CIDRNotAvailable", message)
            return None
        self._pending[name] = blocks
        patch = {
            "metadata": {"uid": node["metadata"]["uid"]},
            "spec": {"podCIDR": blocks[0], "podCIDRs": blocks},
        }
        await self._env.client.patch("nodes", name, patch)
        return None

    def _pick(self) -> list[str]:
        """A free block of each range; [] when one of them is used up."""
        used = [b for n in self._nodes.items() for b in pod_cidrs(n)] + [b for p in self._pending.values() for b in p]
        blocks = [pick_block(cidr, mask_size, used) for cidr, mask_size in self._env.config.node_ranges]
        return [b for b in blocks if b is not None] if None not in blocks else []
