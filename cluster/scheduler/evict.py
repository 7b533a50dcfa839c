"""What is written about pods that fit nowhere: why they wait, where they are nominated, whom they push out.

IO through the injected Client only; a write that fails is logged, the next attempt makes it again.
Messages and conditions are kube-scheduler's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.machinery.client import Client, Obj, is_not_found
from cluster.machinery.clock import wall
from cluster.machinery.events import EventRecorder
from cluster.machinery.informer import Informer
from cluster.scheduler.columns import Placed
from cluster.scheduler.preempt import Candidate

log = logging.getLogger(__name__)


class Evictor:
    def __init__(self, client: Client, events: EventRecorder, pods: Informer) -> None:
        self._client = client
        self._events = events
        self._pods = pods

    async def evict(self, candidate: Candidate, preemptor: Obj) -> None:
        """Mark and delete the victims, gracefully; those that go already are left alone."""
        scheduler = preemptor["spec"].get("schedulerName", "default-scheduler")
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": f"{scheduler}: preempting to accommodate a higher priority pod",
            "lastTransitionTime": rfc3339(wall()),
        }
        note = f"Preempted by pod {preemptor['metadata']['uid']} on node {candidate.node}"
        await asyncio.gather(*(self._evict(victim, condition, note) for victim in candidate.victims))

    async def _evict(self, victim: Placed, condition: dict[str, Any], note: str) -> None:
        namespace, name = victim.key
        pod = self._pods.get(namespace, name)
        if pod is None or pod["metadata"]["uid"] != victim.uid or "deletionTimestamp" in pod["metadata"]:
            return
        try:
            await self._status(pod, {"conditions": [condition]})
            await self._client.delete("pods", name, namespace, uid=victim.uid)
        except ApiError as error:
            if not is_not_found(error):
                log.info("evicting %s/%s: %s", namespace, name, error.message)
            return
        self._events.event(pod, "Normal", "Preempted", note)

    async def unschedulable(
        self, pod: Obj, message: str, *, nominated: str | None = None, reason: str = "Unschedulable"
    ) -> None:
        """Say on the pod (Event, condition PodScheduled) why it waits; `nominated`: the node whose room it will get,
        "" when it lost it; `reason`: SchedulerError when deciding failed."""
        self._events.event(pod, "Warning", "FailedScheduling", message)
        condition = _scheduled_condition(pod)
        status = pod.get("status") or {}
        known = condition is not None and condition.get("message") == message and condition.get("status") == "False"
        if known and (nominated is None or status.get("nominatedNodeName", "") == nominated):
            return
        change: dict[str, Any] = {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": reason,
                    "message": message,
                    "lastProbeTime": None,
                    "lastTransitionTime": (condition or {}).get("lastTransitionTime") or rfc3339(wall()),
                }
            ]
        }
        if nominated is not None:
            change["nominatedNodeName"] = nominated or None
        try:
            await self._status(pod, change)
        except ApiError as error:
            log.info(
                "writing why %s/%s waits: %s", pod["metadata"]["namespace"], pod["metadata"]["name"], error.message
            )

    async def withdraw(self, pod: Obj) -> None:
        """A more important pod takes the room it was nominated for."""
        try:
            await self._status(pod, {"nominatedNodeName": None})
        except ApiError as error:
            log.info("withdrawing a nomination of %s: %s", pod["metadata"]["name"], error.message)

    async def _status(self, pod: Obj, change: dict[str, Any]) -> None:
        meta = pod["metadata"]
        await self._client.patch(
            "pods", meta["name"], {"status": change}, meta["namespace"], kind="strategic", subresource="status"
        )


def _scheduled_condition(pod: Obj) -> dict[str, Any] | None:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == "PodScheduled"), None)
