"""The taint eviction controller: deletes pods that do not tolerate their node's NoExecute taints, when it is time.

A shell around `node_lifecycle_core.eviction_due`. Keys are pods; a node's change queues its pods.
What is due later waits in the queue's timer; since the due time comes from the taint's timeAdded and not from a memory
of our own, a restart or a new leader keeps it.
"""

from __future__ import annotations

from cluster.api.meta import rfc3339, set_condition
from cluster.api.pods import is_terminal
from cluster.controllers.env import Env
from cluster.controllers.node_lifecycle import pod_node
from cluster.controllers.node_lifecycle_core import eviction_due
from cluster.machinery.client import Obj, clone, ignore_not_found, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result


class TaintEvictionController:
    name = "taint_eviction"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._nodes = env.informer("nodes")
        self._pods = env.informer("pods")
        self._events = env.recorder("taint-eviction-controller")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=8)
        self._pods.add_index("node", pod_node)
        self._nodes.add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for node in self._nodes.items():
            self._on_node(None, node)

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if new is None or _no_execute(old) == _no_execute(new):
            return
        for pod in self._pods.by_index("node", new["metadata"]["name"]):
            self.reconciler.queue.add(key_of(pod))

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if new is None or not new["spec"].get("nodeName"):
            return
        if old is not None and _concerns(old) == _concerns(new):
            return
        if _no_execute(self._nodes.get("", new["spec"]["nodeName"])):
            self.reconciler.queue.add(key_of(new))

    async def _reconcile(self, key: str) -> Result | None:
        pod = self._pods.get(*split_key(key))
        if pod is None or "deletionTimestamp" in pod["metadata"] or is_terminal(pod):
            return None
        node = self._nodes.get("", pod["spec"].get("nodeName", ""))
        now = self._env.clock()
        due = eviction_due(pod, _no_execute(node), now, self._default_s())
        if due is None:
            return None
        if due > now:
            return Result(due - now)
        await self._evict(pod, now)
        return None

    def _default_s(self) -> float | None:
        """pod-eviction-timeout runs from a node's last sign of life; its taint comes a grace period after that."""
        config = self._env.config
        if config.pod_eviction_timeout_s is None:
            return None
        return max(config.pod_eviction_timeout_s - config.node_monitor_grace_period_s, 0.0)

    async def _evict(self, pod: Obj, now: float) -> None:
        meta = pod["metadata"]
        self._events.event(
            pod, "Normal", "TaintManagerEviction", f"Marking for deletion Pod {meta['namespace']}/{meta['name']}"
        )
        with ignore_not_found():
            await self._mark(pod, now)
            await self._env.client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"])

    async def _mark(self, pod: Obj, now: float) -> None:
        changed = clone(pod)
        conditions = changed.setdefault("status", {}).setdefault("conditions", [])
        why = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": rfc3339(now),
        }
        if set_condition(conditions, why, now):
            await self._env.client.update("pods", changed, subresource="status")


def _no_execute(node: Obj | None) -> list[Obj]:
    if node is None:
        return []
    return [t for t in node["spec"].get("taints") or [] if t.get("effect") == "NoExecute"]


def _concerns(pod: Obj) -> tuple[object, ...]:
    return (pod["metadata"]["uid"], pod["spec"].get("nodeName"), pod["spec"].get("tolerations"))
