"""The pods of one node: a worker for each, made when the pod comes and gone when nothing of it is left.

IO through the workers. `on_pod` is an informer's handler; the kubelet and hollow nodes use the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from prometheus_client import Gauge

from cluster.node import core_events as ev
from cluster.node.core import PodCore
from cluster.node.pod_tools import Tools
from cluster.node.pod_worker import PodWorker
from cluster.node.static_spec import is_static

Obj = dict[str, Any]
Admit = Callable[[Obj, Sequence[Obj]], tuple[str, str] | None]

RUNNING = Gauge("kubelet_running_pods", "Pods this kubelet works on")


class PodSet:
    """`admit(pod, others)`: (reason, message) when a new pod cannot run beside the others. `static`: what workers of
    static pods have, whose objects are not the API's; `forgotten()` is called when nothing of a pod is left.
    """

    def __init__(
        self,
        tools: Tools,
        admit: Admit,
        *,
        static: Tools | None = None,
        forgotten: Callable[[], None] = lambda: None,
    ) -> None:
        self._tools = tools
        self._static = static or tools
        self._forgotten = forgotten
        self._admit = admit
        self._workers: dict[str, PodWorker] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def workers(self) -> list[PodWorker]:
        return list(self._workers.values())

    def get(self, uid: str) -> PodWorker | None:
        return self._workers.get(uid)

    def core_of(self, namespace: str, name: str) -> PodCore | None:
        for worker in self._workers.values():
            meta = worker.pod["metadata"]
            if meta["name"] == name and meta["namespace"] == namespace:
                return worker.core
        return None

    def uids(self) -> set[str]:
        return set(self._workers)

    def on_pod(self, old: Obj | None, new: Obj | None) -> None:
        """A name may have passed to another pod between two looks."""
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            worker = self._workers.get(old["metadata"]["uid"])
            if worker is not None:
                worker.post(ev.PodGone())
        if new is None:
            return
        worker = self._workers.get(new["metadata"]["uid"])
        if worker is None:
            self.add(new, ev.Adopt(None))
            return
        self._tools.statuses.seen(new)
        worker.post(ev.PodSeen(new))

    def add(self, pod: Obj, adopt: ev.Adopt) -> None:
        """Begin to work on a pod; a new one must be admitted."""
        others = self.holders()
        worker = PodWorker(pod, self._static if is_static(pod) else self._tools, self._forget)
        self._workers[worker.uid] = worker
        RUNNING.inc()
        fresh = adopt.sandbox is None and not adopt.containers and worker.core.mode == "run"
        verdict = self._admit(pod, others) if fresh else None
        worker.post(adopt if verdict is None else ev.PodRejected(*verdict))

    def holders(self, but: str = "") -> list[Obj]:
        """The pods that hold resources of the machine, with what they were granted; without the one of uid `but`."""
        active = [w for w in self._workers.values() if w.core.mode in ("run", "terminate") and w.uid != but]
        return [w.core.allocated for w in active]

    def drop_all_but(self, present: Collection[str]) -> None:
        """Pods that were deleted while nobody listened."""
        for worker in [w for w in self._workers.values() if w.uid not in present]:
            worker.post(ev.PodGone())

    def died(self, uid: str, container_id: str, name: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.died(container_id, name)

    async def close(self) -> None:
        """Stop working and leave everything running."""
        tasks = [task for worker in self._workers.values() for task in worker.close()]
        await asyncio.gather(*tasks, return_exceptions=True)
        RUNNING.dec(len(self._workers))
        self._workers.clear()

    def _forget(self, uid: str) -> None:
        if self._workers.pop(uid, None) is not None:
            RUNNING.dec()
            self._forgotten()
