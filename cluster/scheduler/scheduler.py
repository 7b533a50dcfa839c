"""The scheduler's shell: informers in, batched binds out. IO through the injected Client only.

        informers ------> World (columns, nominations)     every instance, leader or standby, keeps these warm
              |                     |
              v                     v
        SchedulingQueue --> leader only: pop a batch, `Decider` (pure decisions), assume
                                    |
              Binder: client.bind(batch)  --ok--> Event "Scheduled"; the watch confirms
                                          --no--> taken off the columns, tried again
              fits nowhere        ------> `preempt` (pure): victims evicted, the pod nominated; or it waits for a change

Invariants: a pod is decided by one batch at a time; the pods of a group all come into the batch of the first of them.
That no two schedulers overcommit is the store's doing: binds compare the pod's revision, the writer's fence, and the
turn within which they were decided (`turn.py`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.api.errors import not_found
from cluster.api.pods import is_terminal
from cluster.api.tracing import Attributes, Tracer
from cluster.machinery.client import Client, Obj
from cluster.machinery.clock import Clock, monotonic, wall
from cluster.machinery.events import EventRecorder
from cluster.machinery.informer import Informers
from cluster.scheduler import metrics
from cluster.scheduler.binder import VOLUMES, Binder
from cluster.scheduler.config import Profile, SchedulerConfig
from cluster.scheduler.decide import Pending, Placement, Unschedulable, feasible
from cluster.scheduler.decider import Decider, Outcomes
from cluster.scheduler.evict import Evictor
from cluster.scheduler.gangs import PLUGIN as GANG
from cluster.scheduler.gangs import gang_of, group_of
from cluster.scheduler.postfilter import PostFilter
from cluster.scheduler.queue import Key, SchedulingQueue
from cluster.scheduler.shape import PodShape
from cluster.scheduler.turn import Turns
from cluster.scheduler.world import World

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Alike:
    """Pods that one answer serves."""

    profile: Profile
    shape: PodShape
    priority: int


@dataclass(slots=True)
class _Part:
    """Pods of a batch that are decided with one profile. `undecided`: claims by pod uid that want a node first;
    `group`: they are all of one, placed together or not at all."""

    profile: Profile
    pending: list[Pending] = field(default_factory=list)
    undecided: dict[str, tuple[str, ...]] = field(default_factory=dict)
    group: tuple[str, str] | None = None


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
        wall: Clock = wall,
        rng: random.Random | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        config.validate()
        self._config = config
        self._lead = lead
        self._clock = clock
        self._tracer = tracer
        self._profiles = {profile.scheduler_name: profile for profile in config.profiles}
        self._queue = SchedulingQueue(
            self._hint, initial_backoff_s=config.initial_backoff_s, max_backoff_s=config.max_backoff_s
        )
        self._own = frozenset(plugin.name for profile in config.profiles for plugin in profile.plugins)
        self._wake = asyncio.Event()
        self._binds = asyncio.Semaphore(config.parallel_binds)
        self._leading = False
        self._informers = Informers(client)
        self._world = World(
            self._informers,
            self._changed,
            self._on_pod,
            hard_pod_affinity_weight=config.hard_pod_affinity_weight,
        )
        self._events = EventRecorder(client, config.scheduler_name, config.identity, clock=wall)
        rng = rng or random.Random()
        self._turns = Turns(client, self._world.pods, config.identity, rng, clock)
        self._binder = Binder(client, self._turns, self._world, self._queue, self._events, clock, self._wake.set)
        self._decider = Decider(self._world, self._binder.assumed, clock, wall, rng)
        evictor = Evictor(client, self._events, self._world.pods)
        self._post_filter = PostFilter(self._world, evictor, clock, self._decider.tie_order)

    async def run(self) -> None:
        """Keep warm, and schedule while leading; returns only by cancellation. Raises NoTurn, in a group of errors."""
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
            "turn_awaited_s": round(self._turns.awaited_s, 1),
            "synced": not self._informers.unsynced,
            "nodes": len(self._world.columns.rows),
            "pending": self._queue.counts(),
        }

    # ---- the queue, as the world changes

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._binder.forget(old["metadata"]["uid"], _key(old))
        if new is None:
            return
        uid, key = new["metadata"]["uid"], _key(new)
        over = is_terminal(new) or "deletionTimestamp" in new["metadata"]
        if over or new["spec"].get("nodeName"):
            self._binder.forget(uid, key)
        elif self._profile_of(new) is not None and uid not in self._binder.assumed and _matters(old, new):
            gated = bool(new["spec"].get("schedulingGates"))
            self._queue.add(key, int(new["spec"].get("priority") or 0), self._clock(), gated=gated)
            if not gated:
                self._binder.queued_at.setdefault(key, self._clock())
                self._wake.set()

    def _changed(self, plugins: frozenset[str]) -> None:
        self._queue.cluster_changed(self._clock(), plugins | self._own)  # what own plugins look at, nobody knows
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
            await self._turns.hold()  # now, so that the first pod need not wait for it
            async with asyncio.TaskGroup() as binders:
                while True:
                    await self._binds.acquire()
                    keys = await self._next_batch()
                    turn = await self._turns.hold()
                    binders.create_task(self._traced_batch(keys, turn), name="bind")
        finally:
            self._leading = False
            self._turns.give_up()
            self._binds = asyncio.Semaphore(self._config.parallel_binds)
            self._binder.undo_all()
            self._queue.release_deciding()

    async def _next_batch(self) -> list[Key]:
        while True:
            self._wake.clear()
            now = self._clock()
            keys = self._queue.pop_batch(self._config.batch, now)
            self._show_counts()
            if keys:
                return keys
            try:
                async with asyncio.timeout(self._queue.next_due(now)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _show_counts(self) -> None:
        columns = self._world.columns
        sizes = {"nodes": len(columns.rows), "pods": len(columns.placed), "assumed_pods": len(self._binder.assumed)}
        for kind, size in sizes.items():
            metrics.CACHE_SIZE.labels(kind).set(size)
        for place_name, pods in self._queue.counts().items():
            metrics.PENDING_PODS.labels(place_name).set(pods)
        for plugin, pods in self._queue.refused_by().items():
            metrics.UNSCHEDULABLE_PODS.labels(plugin, self._config.scheduler_name).set(pods)

    async def _traced_batch(self, keys: list[Key], turn: int) -> None:
        if self._tracer is None:
            return await self._schedule_batch(keys, turn)
        of: Attributes = {"namespace": keys[0][0], "name": keys[0][1], "pods": len(keys)}
        with self._tracer.span("Scheduling", attributes=of):
            await self._schedule_batch(keys, turn)

    async def _schedule_batch(self, keys: list[Key], turn: int) -> None:
        """Decide, bind; then, no longer counted among the binding, tell those that fit nowhere."""
        started = self._clock()
        cycle = self._queue.cycle()
        waiting: list[tuple[Profile, list[Unschedulable]]] = []
        try:
            for part in self._parts(keys, cycle):
                outcomes = await self._decide(part)
                placements = [o for o in outcomes if isinstance(o, Placement)]
                refused = [o for o in outcomes if isinstance(o, Unschedulable)]
                early = [p for p in placements if p.pod.uid in part.undecided]
                early = placements if early and part.group else early
                await self._binder.ask_for_volumes(early, part.undecided, cycle)
                ready = [] if early and part.group else [p for p in placements if p.pod.uid not in part.undecided]
                await self._binder.bind(ready, part.profile, started, turn, together=part.group is not None)
                waiting.append((part.profile, refused))
                for outcome in refused:
                    self._set_aside(outcome, part, cycle, started)
        finally:
            self._binds.release()
            self._wake.set()  # what was set aside may be due sooner than what the loop waits for
        for profile, refused in waiting:
            await self._post_filter.run(refused, profile)

    async def _decide(self, part: _Part) -> Outcomes:
        if part.group is None:
            return await self._decider.decide(part.profile, part.pending)
        pods = self._world.members(part.group)
        placed = self._world.columns.placed
        running = [placed[uid].row for uid in (p["metadata"]["uid"] for p in pods) if uid in placed]
        return self._decider.decide_gang(part.profile, gang_of(part.group, pods), part.pending, running)

    def _parts(self, keys: list[Key], cycle: int) -> list[_Part]:
        """The batch as decisions take it: neighbours of one profile together, order kept, a group where its first
        member stands and with all that wait anywhere in the queue."""
        parts: list[_Part] = []
        groups: set[tuple[str, str]] = set()
        for key in keys:
            pod = self._world.pods.get(*key)
            profile = self._eligible(pod)
            if pod is None or profile is None:
                self._queue.remove(key)
                continue
            group = group_of(pod)
            if group is None:
                if not parts or parts[-1].profile is not profile or parts[-1].group is not None:
                    parts.append(_Part(profile))
                self._join(parts[-1], pod, cycle)
            elif group not in groups:
                groups.add(group)
                parts += self._group_part(group, profile, set(keys), cycle)
        return parts

    def _group_part(self, group: tuple[str, str], profile: Profile, popped: set[Key], cycle: int) -> list[_Part]:
        """All members that wait, as one part; none when one of them still waits for a volume on its way."""
        part = _Part(profile, group=group)
        joined = [
            self._join(part, pod, cycle)
            for pod in self._world.members(group)
            if self._eligible(pod) is profile and (_key(pod) in popped or self._queue.take(_key(pod)))
        ]
        if all(joined):
            return [part] if part.pending else []
        for one in part.pending:
            self._queue.failed(one.key, cycle, self._clock(), VOLUMES | {GANG})
        return []

    def _join(self, part: _Part, pod: Obj, cycle: int) -> bool:
        """Into the part; False when the pod has to wait for a volume on its way."""
        pending, verdict = self._world.pending(pod)
        if verdict.provisioning:
            self._queue.failed(pending.key, cycle, self._clock(), VOLUMES, patient=True)
            return False
        part.pending.append(pending)
        if verdict.undecided:
            part.undecided[pending.uid] = verdict.undecided
        return True

    def _eligible(self, pod: Obj | None) -> Profile | None:
        """The profile of a pod that still wants a node."""
        if pod is None or pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
            return None
        return self._profile_of(pod)

    # ---- pods that fit nowhere

    def _set_aside(self, outcome: Unschedulable, part: _Part, cycle: int, started: float) -> None:
        now, name = self._clock(), part.profile.scheduler_name
        if outcome.error:
            self._queue.retry(outcome.pod.key, now)
            return
        metrics.ATTEMPTS.labels("unschedulable", name).inc()
        metrics.ATTEMPT_SECONDS.labels("unschedulable", name).observe(now - started)
        alike = _Alike(part.profile, outcome.pod.shape, outcome.pod.priority) if part.group is None else None
        self._queue.failed(outcome.pod.key, cycle, now, outcome.plugins, alike)

    # ---- for those who ask

    def explain(self, namespace: str, name: str, *, now: bool = False) -> dict[str, Any]:
        """The decisions about a pod that are remembered, oldest first; and, when `now` or there is none in detail, how
        it would be decided now. Raises ApiError 404 for a pod that nobody knows."""
        pod = self._world.pods.get(namespace, name)
        decisions = [one.to_dict() for one in self._decider.decisions.of(namespace, name)]
        if pod is None and not decisions:
            raise not_found("pods", name)
        found: dict[str, Any] = {"pod": f"{namespace}/{name}", "scheduler": self._config.identity}
        found |= {"leading": self._leading, "decisions": decisions, "now": None}
        profile = None if pod is None else self._profile_of(pod)
        if pod is not None and profile is not None and (now or not any(one["nodes"] for one in decisions)):
            found["now"] = self._decider.now(pod, profile)
        return found


def _key(pod: Obj) -> Key:
    return pod["metadata"].get("namespace", ""), pod["metadata"]["name"]


def _matters(old: Obj | None, new: Obj) -> bool:
    """A status-only change of a waiting pod (our own condition among them) is no reason to try it again."""
    return old is None or old["spec"] != new["spec"] or old["shape"] != new["shape"]
