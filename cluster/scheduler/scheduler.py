"""The scheduler's shell: informers in, batched binds out. IO through the injected Client only.

        pods, nodes, claims (informers)
              |                                  every instance, leader or standby, keeps these warm
              v
    NodeColumns + SchedulingQueue
              |  leader only: pop a batch, `decide.place` (pure), assume
              v
    client.bind(batch)  --ok--> Event "Scheduled"; the watch confirms
                        --no--> taken off the columns, tried again

Invariants: a pod is decided by one batch at a time; an assumed pod stays accounted until the watch shows it bound or
its bind is known to have failed. A bind whose outcome is unknown is read back before anything else is done with it.
That no two schedulers overcommit is the store's doing: binds compare the pod's revision and the writer's fence.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.api.pods import is_terminal
from cluster.machinery.client import Binding, BindOutcomes, Client, Obj, is_not_found
from cluster.machinery.clock import Clock, monotonic, wall
from cluster.machinery.events import EventRecorder
from cluster.machinery.informer import Informers
from cluster.scheduler import metrics
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.config import SchedulerConfig
from cluster.scheduler.decide import Pending, Placement, Unschedulable, place
from cluster.scheduler.queue import Key, SchedulingQueue
from cluster.scheduler.scores import Rows
from cluster.scheduler.shape import shape_of
from cluster.scheduler.volumes import SELECTED_NODE, VolumeVerdict, check_claims

log = logging.getLogger(__name__)

Lead = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Runs its argument while this instance leads, cancels it when it no longer does (`Elector.run`)."""


class Scheduler:
    def __init__(
        self,
        config: SchedulerConfig,
        client: Client,
        lead: Lead,
        *,
        clock: Clock = monotonic,
        rng: random.Random | None = None,
    ) -> None:
        config.validate()
        self._config = config
        self._client = client
        self._lead = lead
        self._clock = clock
        self._rng = np.random.default_rng((rng or random.Random()).getrandbits(64))
        self._informers = Informers(client)
        self._pods = self._informers.of("pods")
        self._nodes = self._informers.of("nodes")
        self._claims = self._informers.of("persistentvolumeclaims")
        self._volumes = self._informers.of("persistentvolumes")
        self._classes = self._informers.of("storageclasses.storage.k8s.io")
        self._columns = NodeColumns()
        self._queue = SchedulingQueue()
        self._queued_at: dict[Key, float] = {}
        self._assumed: dict[str, Key] = {}
        self._events = EventRecorder(client, config.scheduler_name, config.identity)
        self._wake = asyncio.Event()
        self._binds = asyncio.Semaphore(config.parallel_binds)
        self._leading = False
        self._listen()

    async def run(self) -> None:
        """Keep warm, and schedule while leading; returns only by cancellation."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._informers.run(), name="scheduler-informers")
                await self._informers.wait_synced()
                await self._lead(self._schedule_forever)
        finally:
            await self._events.close()

    def health(self) -> dict[str, object]:
        return {
            "leading": self._leading,
            "synced": not self._informers.unsynced,
            "nodes": len(self._columns.rows),
            "pending": self._queue.counts(),
        }

    # ---- the world as it changes

    def _listen(self) -> None:
        self._pods.add_index("node", lambda pod: [pod["spec"]["nodeName"]] if pod["spec"].get("nodeName") else [])
        self._pods.add_handler(self._on_pod)
        self._nodes.add_handler(self._on_node)
        for informer in (self._claims, self._volumes, self._classes):
            informer.add_handler(lambda _old, _new: self._cluster_changed())

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._forget(old)
        if new is None:
            return
        uid, key = new["metadata"]["uid"], _key(new)
        if is_terminal(new):
            self._forget(new)
        elif new["spec"].get("nodeName"):
            self._columns.place_pod(uid, new["spec"]["nodeName"], shape_of(new))
            self._assumed.pop(uid, None)
            self._queue.remove(key)
            self._queued_at.pop(key, None)
        elif self._is_ours(new) and uid not in self._assumed and _matters(old, new):
            self._queue.add(key, int(new["spec"].get("priority") or 0), self._clock())
            self._queued_at.setdefault(key, self._clock())
            self._wake.set()

    def _forget(self, pod: Obj) -> None:
        uid, key = pod["metadata"]["uid"], _key(pod)
        self._assumed.pop(uid, None)
        self._queue.remove(key)
        self._queued_at.pop(key, None)
        if self._columns.remove_pod(uid):
            self._cluster_changed()

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            if old is not None:
                self._columns.remove_node(old["metadata"]["name"])
            return
        if old is not None and _placing_view(old) == _placing_view(new):
            return
        self._columns.set_node(new)
        if old is None:
            name = new["metadata"]["name"]
            for pod in self._pods.by_index("node", name):
                if not is_terminal(pod):
                    self._columns.place_pod(pod["metadata"]["uid"], name, shape_of(pod))
        self._cluster_changed()

    def _cluster_changed(self) -> None:
        self._queue.cluster_changed(self._clock())
        self._wake.set()

    def _is_ours(self, pod: Obj) -> bool:
        spec = pod["spec"]
        return (
            spec.get("schedulerName", "default-scheduler") == self._config.scheduler_name
            and not pod["metadata"].get("deletionTimestamp")
            and not spec.get("schedulingGates")
        )

    # ---- scheduling, while leading

    async def _schedule_forever(self) -> None:
        self._leading = True
        try:
            async with asyncio.TaskGroup() as binders:
                while True:
                    await self._binds.acquire()
                    keys = await self._next_batch()
                    binders.create_task(self._schedule_batch(keys), name="bind")
        finally:
            self._leading = False
            self._binds = asyncio.Semaphore(self._config.parallel_binds)
            for uid, key in list(self._assumed.items()):
                self._undo(uid, key)

    async def _next_batch(self) -> list[Key]:
        while True:
            self._wake.clear()
            now = self._clock()
            keys = self._queue.pop_batch(self._config.batch, now)
            for place_name, pods in self._queue.counts().items():
                metrics.PENDING_PODS.labels(place_name).set(pods)
            if keys:
                return keys
            try:
                async with asyncio.timeout(self._queue.next_due(now)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _schedule_batch(self, keys: list[Key]) -> None:
        started = self._clock()
        cycle = self._queue.cycle()
        try:
            pending, undecided = self._pending(keys)
            outcomes = place(self._columns, pending, self._tie_order())
            placements = [o for o in outcomes if isinstance(o, Placement)]
            await self._ask_for_volumes([p for p in placements if p.pod.uid in undecided], undecided, cycle)
            await self._bind([p for p in placements if p.pod.uid not in undecided], started)
            for outcome in outcomes:
                if isinstance(outcome, Unschedulable):
                    await self._reject(outcome, cycle, started)
        finally:
            self._binds.release()

    def _tie_order(self) -> Rows:
        """A fresh random order, so that equal nodes fill evenly (kube-scheduler picks among equals at random)."""
        order: Rows = self._rng.permutation(self._columns.size)
        return order

    def _pending(self, keys: list[Key]) -> tuple[list[Pending], dict[str, tuple[str, ...]]]:
        """The batch as the decision takes it, and the claims for which each pod is to choose a node."""
        batch: list[Pending] = []
        undecided: dict[str, tuple[str, ...]] = {}
        for namespace, name in keys:
            pod = self._pods.get(namespace, name)
            if pod is None or pod["spec"].get("nodeName"):
                self._queue.remove((namespace, name))
                continue
            shape, uid = shape_of(pod), pod["metadata"]["uid"]
            verdict = VolumeVerdict()
            if shape.claims:
                verdict = check_claims(
                    namespace, shape.claims, self._columns, self._claims.get, self._volumes.get, self._classes.get
                )
                if verdict.undecided:
                    undecided[uid] = verdict.undecided
            batch.append(Pending(uid, (namespace, name), shape, verdict.allowed, self._with_nodes(verdict.refusal)))
        return batch, undecided

    def _with_nodes(self, refusal: str) -> str:
        nodes = len(self._columns.rows)
        return f"0/{nodes} nodes are available: {refusal}." if refusal else ""

    async def _bind(self, placements: list[Placement], started: float) -> None:
        if not placements:
            return
        for placement in placements:
            self._assumed[placement.pod.uid] = placement.pod.key
        wanted = [Binding(*p.pod.key, p.pod.uid, p.node) for p in placements]
        outcomes: BindOutcomes
        try:
            outcomes = await self._client.bind(wanted)
        except ApiError as error:
            outcomes = [error] * len(wanted)
        for placement, outcome in zip(placements, outcomes, strict=True):
            if outcome is None:
                self._bound(placement, started)
            else:
                await self._bind_failed(placement, outcome, started)

    def _bound(self, placement: Placement, started: float) -> None:
        namespace, name = key = placement.pod.key
        now = self._clock()
        profile = self._config.scheduler_name
        metrics.ATTEMPTS.labels("scheduled", profile).inc()
        metrics.ATTEMPT_SECONDS.labels("scheduled", profile).observe(now - started)
        metrics.SLI_SECONDS.labels("1").observe(now - self._queued_at.pop(key, started))
        self._queue.remove(key)
        pod = self._pods.get(namespace, name)
        if pod is not None:
            self._events.event(
                pod, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {placement.node}"
            )

    async def _bind_failed(self, placement: Placement, error: ApiError, started: float) -> None:
        """Gone or already bound: the watch tells. Unknown outcome: read it back. Anything else: try again."""
        uid, key = placement.pod.uid, placement.pod.key
        if error.code == 504 and await self._was_bound(placement):
            self._bound(placement, started)
            return
        metrics.ATTEMPTS.labels("error", self._config.scheduler_name).inc()
        log.info("binding %s/%s to %s: %s", *key, placement.node, error.message)
        self._undo(uid, key, requeue=not is_not_found(error))

    async def _was_bound(self, placement: Placement) -> bool:
        namespace, name = placement.pod.key
        while True:
            try:
                pod = await self._client.get("pods", name, namespace)
            except ApiError as error:
                if is_not_found(error):
                    return False
                await asyncio.sleep(0.2)
                continue
            return bool(pod["metadata"]["uid"] == placement.pod.uid and pod["spec"].get("nodeName") == placement.node)

    def _undo(self, uid: str, key: Key, *, requeue: bool = True) -> None:
        """Take an assumed pod back, unless the watch has confirmed it meanwhile."""
        if self._assumed.pop(uid, None) is None:
            return
        self._columns.remove_pod(uid)
        pod = self._pods.get(*key)
        if requeue and pod is not None and pod["metadata"]["uid"] == uid and not pod["spec"].get("nodeName"):
            self._queue.retry(key, self._clock())
        else:
            self._queue.remove(key)
        self._wake.set()

    async def _ask_for_volumes(
        self, placements: list[Placement], undecided: dict[str, tuple[str, ...]], cycle: int
    ) -> None:
        """Write the chosen node on claims that wait for their first consumer; the pod waits for them to be bound."""
        for placement in placements:
            uid, key = placement.pod.uid, placement.pod.key
            self._columns.remove_pod(uid)
            for claim in undecided[uid]:
                change = {"metadata": {"annotations": {SELECTED_NODE: placement.node}}}
                try:
                    await self._client.patch("persistentvolumeclaims", claim, change, key[0])
                except ApiError as error:
                    log.info("selecting node %s for claim %s/%s: %s", placement.node, key[0], claim, error.message)
            self._queue.failed(key, cycle, self._clock())

    async def _reject(self, outcome: Unschedulable, cycle: int, started: float) -> None:
        key, profile = outcome.pod.key, self._config.scheduler_name
        metrics.ATTEMPTS.labels("unschedulable", profile).inc()
        metrics.ATTEMPT_SECONDS.labels("unschedulable", profile).observe(self._clock() - started)
        self._queue.failed(key, cycle, self._clock())
        pod = self._pods.get(*key)
        if pod is None:
            return
        self._events.event(pod, "Warning", "FailedScheduling", outcome.message)
        condition = _scheduled_condition(pod)
        if condition and condition.get("message") == outcome.message and condition.get("status") == "False":
            return
        change = {
            "status": {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": outcome.message,
                        "lastProbeTime": None,
                        "lastTransitionTime": (condition or {}).get("lastTransitionTime") or rfc3339(wall()),
                    }
                ]
            }
        }
        try:
            await self._client.patch("pods", key[1], change, key[0], kind="strategic", subresource="status")
        except ApiError as error:
            log.info("writing why %s/%s waits: %s", *key, error.message)


def _key(pod: Obj) -> Key:
    return pod["metadata"].get("namespace", ""), pod["metadata"]["name"]


def _scheduled_condition(pod: Obj) -> dict[str, Any] | None:
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == "PodScheduled"), None)


def _matters(old: Obj | None, new: Obj) -> bool:
    """A status-only change of a waiting pod (our own condition among them) is no reason to try it again."""
    return old is None or old["spec"] != new["spec"] or old["metadata"].get("labels") != new["metadata"].get("labels")


def _placing_view(node: Obj) -> tuple[Any, ...]:
    """What of a node the decision reads; heartbeats change none of it."""
    spec, status = node.get("spec", {}), node.get("status", {})
    return (
        spec.get("unschedulable"),
        spec.get("taints"),
        status.get("allocatable"),
        node["metadata"].get("labels"),
    )
