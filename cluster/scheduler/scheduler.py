"""The scheduler's shell: informers in, batched binds out. IO through the injected Client only.

        informers ------> World (columns, nominations)     every instance, leader or standby, keeps these warm
              |                     |
              v                     v
        SchedulingQueue --> leader only: pop a batch, `decide.place` (pure), assume
                                    |
              client.bind(batch)  --ok--> Event "Scheduled"; the watch confirms
                                  --no--> taken off the columns, tried again
              fits nowhere        ------> `preempt` (pure): victims evicted, the pod nominated; or it waits for a change

Invariants: a pod is decided by one batch at a time; an assumed pod stays accounted until the watch shows it bound or
its bind is known to have failed. A bind whose outcome is unknown is read back before anything else is done with it.
That no two schedulers overcommit is the store's doing: binds compare the pod's revision and the writer's fence.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

import numpy as np

from cluster.api.errors import ApiError
from cluster.machinery.client import Binding, BindOutcomes, Client, Obj, is_not_found
from cluster.machinery.clock import Clock, monotonic
from cluster.machinery.events import EventRecorder
from cluster.machinery.informer import Informers
from cluster.scheduler import metrics
from cluster.scheduler.config import Profile, SchedulerConfig
from cluster.scheduler.decide import Pending, Placement, Unschedulable, feasible, place
from cluster.scheduler.evict import Evictor
from cluster.scheduler.postfilter import PostFilter
from cluster.scheduler.queue import ANY, Key, SchedulingQueue
from cluster.scheduler.scores import Rows
from cluster.scheduler.shape import PodShape
from cluster.scheduler.timings import Timings
from cluster.scheduler.volumes import SELECTED_NODE
from cluster.scheduler.world import World

log = logging.getLogger(__name__)


_VOLUMES = frozenset(("VolumeBinding",))
_SLICE = 128
"""Pods decided before others get a turn on the loop."""
_SAMPLE = 10


@dataclass(frozen=True, slots=True)
class _Alike:
    """Pods that one answer serves."""

    profile: Profile
    shape: PodShape
    priority: int


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
        self._profiles = {profile.scheduler_name: profile for profile in config.profiles}
        self._queue = SchedulingQueue(self._hint)
        self._queued_at: dict[Key, float] = {}
        self._assumed: dict[str, Key] = {}
        self._wake = asyncio.Event()
        self._binds = asyncio.Semaphore(config.parallel_binds)
        self._leading = False
        self._slices = 0
        self._informers = Informers(client)
        self._world = World(self._informers, self._changed, self._on_pod)
        self._events = EventRecorder(client, config.scheduler_name, config.identity)
        evictor = Evictor(client, self._events, self._world.pods)
        self._post_filter = PostFilter(self._world, evictor, clock, self._tie_order)

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
            "nodes": len(self._world.columns.rows),
            "pending": self._queue.counts(),
        }

    # ---- the queue, as the world changes

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._forget(old)
        if new is None:
            return
        uid, key = new["metadata"]["uid"], _key(new)
        if new["spec"].get("nodeName"):
            self._assumed.pop(uid, None)
            self._queue.remove(key)
            self._queued_at.pop(key, None)
        elif (new.get("status") or {}).get("phase") in ("Succeeded", "Failed") or new["metadata"].get(
            "deletionTimestamp"
        ):
            self._forget(new)
        elif self._profile_of(new) is not None and uid not in self._assumed and _matters(old, new):
            gated = bool(new["spec"].get("schedulingGates"))
            self._queue.add(key, int(new["spec"].get("priority") or 0), self._clock(), gated=gated)
            if not gated:
                self._queued_at.setdefault(key, self._clock())
                self._wake.set()

    def _forget(self, pod: Obj) -> None:
        """Gone before it was seen bound."""
        self._assumed.pop(pod["metadata"]["uid"], None)
        self._queue.remove(_key(pod))
        self._queued_at.pop(_key(pod), None)

    def _changed(self, plugins: frozenset[str]) -> None:
        self._queue.cluster_changed(self._clock(), plugins)
        self._wake.set()

    def _hint(self, group: Hashable, plugins: frozenset[str]) -> int | None:
        """How many of a group of equal pods could run now, if what nodes and pods say is all that refused them."""
        alike = group[0] if isinstance(group, tuple) else None
        if not isinstance(alike, _Alike) or "VolumeBinding" in plugins:
            return None
        columns, shape = self._world.columns, alike.shape
        vector = columns.request_vector(shape)
        possible = feasible(columns, Pending("", ("", ""), shape, priority=alike.priority), alike.profile)
        asked = np.flatnonzero(vector)
        room = np.floor(columns.free[np.ix_(asked, np.flatnonzero(possible))] / vector[asked, None])
        return int(room.min(axis=0).sum()) if room.size else 0

    def _profile_of(self, pod: Obj) -> Profile | None:
        return self._profiles.get(pod["spec"].get("schedulerName", "default-scheduler"))

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
            self._queue.release_deciding()

    async def _next_batch(self) -> list[Key]:
        while True:
            self._wake.clear()
            now = self._clock()
            keys = self._queue.pop_batch(self._config.batch, now)
            for place_name, pods in self._queue.counts().items():
                metrics.PENDING_PODS.labels(place_name).set(pods)
            for plugin, pods in self._queue.refused_by().items():
                metrics.UNSCHEDULABLE_PODS.labels(plugin, self._config.scheduler_name).set(pods)
            if keys:
                return keys
            try:
                async with asyncio.timeout(self._queue.next_due(now)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _schedule_batch(self, keys: list[Key]) -> None:
        """Decide, bind; then, no longer counted among the binding, tell those that fit nowhere."""
        started = self._clock()
        cycle = self._queue.cycle()
        waiting: list[tuple[Profile, list[Unschedulable]]] = []
        try:
            for profile, pending, undecided in self._by_profile(keys, cycle):
                outcomes = await self._decide(profile, pending)
                placements = [o for o in outcomes if isinstance(o, Placement)]
                refused = [o for o in outcomes if isinstance(o, Unschedulable)]
                await self._ask_for_volumes([p for p in placements if p.pod.uid in undecided], undecided, cycle)
                await self._bind([p for p in placements if p.pod.uid not in undecided], profile, started)
                waiting.append((profile, refused))
                for outcome in refused:
                    self._set_aside(outcome, profile, cycle, started)
        finally:
            self._binds.release()
        for profile, refused in waiting:
            await self._post_filter.run(refused, profile)

    async def _decide(self, profile: Profile, pending: list[Pending]) -> list[Placement | Unschedulable]:
        """Place the pods in order. What is placed is assumed at once; the loop gets a turn between slices."""
        order, world = self._tie_order(), self._world
        outcomes: list[Placement | Unschedulable] = []
        for start in range(0, len(pending), _SLICE):
            now = pending[start : start + _SLICE]
            if start:
                await asyncio.sleep(0)
                order = order if len(order) == world.columns.size else self._tie_order()
                now = [p for p in now if world.waits(p.key, p.uid)]
            begun = self._clock()
            timings = self._sampled()
            some = self._place(now, order, profile, timings)
            self._report(timings, profile)
            self._assumed |= {o.pod.uid: o.pod.key for o in some if isinstance(o, Placement)}
            metrics.ALGORITHM_SECONDS.observe(self._clock() - begun)
            outcomes += some
        return outcomes

    def _place(
        self, pods: list[Pending], order: Rows, profile: Profile, timings: Timings | None
    ) -> list[Placement | Unschedulable]:
        """`decide.place`; when a plugin raises, the pods are tried one by one and only the culprit waits."""
        world = self._world
        try:
            return place(world.columns, pods, order, profile, world.nominated, timings)
        except Exception as error:  # a raising plugin must not stop the others; the culprit says so in its condition
            log.exception("deciding %d pods failed", len(pods))
            for pod in pods:
                world.columns.remove_pod(pod.uid)
            if len(pods) == 1:
                metrics.ATTEMPTS.labels("error", profile.scheduler_name).inc()
                return [Unschedulable(pods[0], f"deciding failed: {error!r}", frozenset((ANY,)))]
        return [outcome for pod in pods for outcome in self._place([pod], order, profile, None)]

    def _sampled(self) -> Timings | None:
        """One slice in ten is timed in detail."""
        self._slices += 1
        return Timings(self._clock) if self._slices % _SAMPLE == 1 else None

    @staticmethod
    def _report(timings: Timings | None, profile: Profile) -> None:
        if timings is None:
            return
        for point, seconds in timings.points().items():
            metrics.EXTENSION_POINT_SECONDS.labels(point, "Success", profile.scheduler_name).observe(seconds)
        for (point, plugin), seconds in timings.spent.items():
            if plugin:
                metrics.PLUGIN_SECONDS.labels(plugin, point, "Success").observe(seconds)

    def _tie_order(self) -> Rows:
        """A fresh random order, so that equal nodes fill evenly (kube-scheduler picks among equals at random)."""
        order: Rows = self._rng.permutation(self._world.columns.size)
        return order

    def _by_profile(
        self, keys: list[Key], cycle: int
    ) -> list[tuple[Profile, list[Pending], dict[str, tuple[str, ...]]]]:
        """The batch as decisions take it: neighbours of one profile together, order kept."""
        parts: list[tuple[Profile, list[Pending], dict[str, tuple[str, ...]]]] = []
        for namespace, name in keys:
            pod = self._world.pods.get(namespace, name)
            profile = None if pod is None else self._profile_of(pod)
            if (
                pod is None
                or profile is None
                or pod["spec"].get("nodeName")
                or pod["metadata"].get("deletionTimestamp")
            ):
                self._queue.remove((namespace, name))
                continue
            pending, verdict = self._world.pending(pod)
            if verdict.provisioning:
                self._queue.failed(pending.key, cycle, self._clock(), _VOLUMES, patient=True)
                continue
            if not parts or parts[-1][0] is not profile:
                parts.append((profile, [], {}))
            parts[-1][1].append(pending)
            if verdict.undecided:
                parts[-1][2][pending.uid] = verdict.undecided
        return parts

    # ---- binding

    async def _bind(self, placements: list[Placement], profile: Profile, started: float) -> None:
        if not placements:
            return
        wanted = [Binding(*p.pod.key, p.pod.uid, p.node) for p in placements]
        begun = self._clock()
        outcomes: BindOutcomes
        try:
            outcomes = await self._client.bind(wanted)
        except ApiError as error:
            outcomes = [error] * len(wanted)
        self._observe("Bind", "Success" if not any(outcomes) else "Error", profile, begun)
        for placement, outcome in zip(placements, outcomes, strict=True):
            if outcome is None:
                self._bound(placement, profile, started)
            else:
                await self._bind_failed(placement, outcome, profile, started)

    def _bound(self, placement: Placement, profile: Profile, started: float) -> None:
        namespace, name = key = placement.pod.key
        now = self._clock()
        attempts = self._queue.attempts(key) or 1
        metrics.ATTEMPTS.labels("scheduled", profile.scheduler_name).inc()
        metrics.ATTEMPT_SECONDS.labels("scheduled", profile.scheduler_name).observe(now - started)
        metrics.POD_ATTEMPTS.observe(attempts)
        metrics.SLI_SECONDS.labels(str(min(attempts, 16))).observe(now - self._queued_at.pop(key, started))
        self._queue.remove(key)
        pod = self._world.pods.get(namespace, name)
        if pod is not None:
            self._events.event(
                pod, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {placement.node}"
            )

    async def _bind_failed(self, placement: Placement, error: ApiError, profile: Profile, started: float) -> None:
        """Gone or already bound: the watch tells. Unknown outcome: read it back. Anything else: try again."""
        uid, key = placement.pod.uid, placement.pod.key
        if error.code == 504 and await self._was_bound(placement):
            self._bound(placement, profile, started)
            return
        metrics.ATTEMPTS.labels("error", profile.scheduler_name).inc()
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
        self._world.columns.remove_pod(uid)
        pod = self._world.pods.get(*key)
        if pod is not None and pod["metadata"]["uid"] == uid and pod["spec"].get("nodeName"):
            self._world.account(pod)
        if requeue and pod is not None and pod["metadata"]["uid"] == uid and not pod["spec"].get("nodeName"):
            self._queue.retry(key, self._clock())
        elif pod is None or pod["metadata"]["uid"] == uid:
            self._queue.remove(key)
        self._wake.set()

    async def _ask_for_volumes(
        self, placements: list[Placement], undecided: dict[str, tuple[str, ...]], cycle: int
    ) -> None:
        """Write the chosen node on claims that wait for their first consumer; the pod waits for them to be bound."""
        for placement in placements:
            uid, key = placement.pod.uid, placement.pod.key
            self._assumed.pop(uid, None)
            self._world.columns.remove_pod(uid)
            for claim in undecided[uid]:
                change = {"metadata": {"annotations": {SELECTED_NODE: placement.node}}}
                try:
                    await self._client.patch("persistentvolumeclaims", claim, change, key[0])
                except ApiError as error:
                    log.info("selecting node %s for claim %s/%s: %s", placement.node, key[0], claim, error.message)
            self._queue.failed(key, cycle, self._clock(), _VOLUMES, patient=True)

    # ---- pods that fit nowhere

    def _set_aside(self, outcome: Unschedulable, profile: Profile, cycle: int, started: float) -> None:
        now = self._clock()
        metrics.ATTEMPTS.labels("unschedulable", profile.scheduler_name).inc()
        metrics.ATTEMPT_SECONDS.labels("unschedulable", profile.scheduler_name).observe(now - started)
        alike = _Alike(profile, outcome.pod.shape, outcome.pod.priority)
        self._queue.failed(outcome.pod.key, cycle, now, outcome.plugins, alike)

    def _observe(self, point: str, status: str, profile: Profile, begun: float) -> None:
        took = self._clock() - begun
        metrics.EXTENSION_POINT_SECONDS.labels(point, status, profile.scheduler_name).observe(took)


def _key(pod: Obj) -> Key:
    return pod["metadata"].get("namespace", ""), pod["metadata"]["name"]


def _matters(old: Obj | None, new: Obj) -> bool:
    """A status-only change of a waiting pod (our own condition among them) is no reason to try it again."""
    return old is None or old["spec"] != new["spec"] or old["metadata"].get("labels") != new["metadata"].get("labels")
