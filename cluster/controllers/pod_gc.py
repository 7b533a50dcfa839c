"""Pod garbage collection: pods nobody else will ever finish.

- orphaned: bound to a node that does not exist (after a quarantine, and asked at the API): deleted with grace 0;
- terminating and never scheduled: no kubelet will ever complete the deletion;
- finished pods beyond `terminated_pod_gc_threshold`: the oldest go first.
Keys are pods, except the key "terminated", which counts finished ones. Driven by events and by their timers.
"""

from __future__ import annotations

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339, set_condition
from cluster.api.pods import is_terminal
from cluster.controllers.env import Env
from cluster.controllers.node_lifecycle import pod_node
from cluster.machinery.client import Obj, clone, ignore_not_found, is_not_found, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_TERMINATED = "terminated"


class PodGcController:
    name = "pod_gc"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._nodes = env.informer("nodes")
        self._pods = env.informer("pods")
        self._events = env.recorder("pod-garbage-collector-controller")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=4)
        self._pods.add_index("node", pod_node)
        self._pods.add_index("finished", _finished)
        self._nodes.add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for pod in self._pods.items():
            self._on_pod(None, pod)

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if new is None and old is not None:
            for pod in self._pods.by_index("node", old["metadata"]["name"]):
                self.reconciler.queue.add_after(key_of(pod), self._env.config.pod_gc_quarantine_s)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            return
        node = new["spec"].get("nodeName", "")
        if node and self._nodes.synced and self._nodes.get("", node) is None:
            self.reconciler.queue.add_after(key_of(new), self._env.config.pod_gc_quarantine_s)
        if not node and "deletionTimestamp" in new["metadata"]:
            self.reconciler.queue.add(key_of(new))
        ended = is_terminal(new) and (old is None or not is_terminal(old))
        if ended and self._pods.count_by_index("finished", "yes") > self._env.config.terminated_pod_gc_threshold:
            self.reconciler.queue.add(_TERMINATED)

    async def _reconcile(self, key: str) -> Result | None:
        if key == _TERMINATED:
            await self._trim()
            return None
        pod = self._pods.get(*split_key(key))
        if pod is None:
            return None
        node = pod["spec"].get("nodeName", "")
        if not node:
            if "deletionTimestamp" in pod["metadata"]:
                await self._delete(pod)
        elif self._nodes.get("", node) is None and await self._is_missing(node):
            self._events.event(pod, "Normal", "OrphanedPod", f"PodGC: node {node} no longer exists")
            await self._mark(pod)
            await self._delete(pod)
        return None

    async def _is_missing(self, node: str) -> bool:
        try:
            await self._env.client.get("nodes", node)
        except ApiError as err:
            if is_not_found(err):
                return True
            raise
        return False

    async def _trim(self) -> None:
        finished = self._pods.by_index("finished", "yes")
        excess = len(finished) - self._env.config.terminated_pod_gc_threshold
        finished.sort(key=lambda p: (p["metadata"].get("creationTimestamp", ""), p["metadata"]["name"]))
        for pod in finished[: max(excess, 0)]:
            await self._delete(pod)

    async def _mark(self, pod: Obj) -> None:
        """An orphan failed, as far as its owner is concerned, and by disruption."""
        if is_terminal(pod):
            return
        now = self._env.clock()
        changed = clone(pod)
        status = changed.setdefault("status", {})
        status["phase"] = "Failed"
        why = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": rfc3339(now),
        }
        set_condition(status.setdefault("conditions", []), why, now)
        with ignore_not_found():
            await self._env.client.update("pods", changed, subresource="status")

    async def _delete(self, pod: Obj) -> None:
        meta = pod["metadata"]
        with ignore_not_found():
            await self._env.client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"], grace_period_s=0)


def _finished(pod: Obj) -> list[str]:
    return ["yes"] if is_terminal(pod) else []
