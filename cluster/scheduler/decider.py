"""Decides batches and groups on the world as it is, and remembers how. No IO, no await but to give others a turn.

Invariant: what is placed is assumed (in the columns, and in `assumed`) before anything else can run.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from cluster.machinery.client import Obj
from cluster.machinery.clock import Clock
from cluster.scheduler import metrics
from cluster.scheduler.config import Profile
from cluster.scheduler.decide import Pending, Placement, Unschedulable, place
from cluster.scheduler.explain import Decisions, explained
from cluster.scheduler.gang_place import place_gang
from cluster.scheduler.gangs import Gang
from cluster.scheduler.plugin import PluginError
from cluster.scheduler.queue import ANY, Key
from cluster.scheduler.scores import Rows
from cluster.scheduler.timings import Timings
from cluster.scheduler.world import World

log = logging.getLogger(__name__)

_SLICE = 128
"""Pods decided before others get a turn on the loop."""
_SAMPLE = 10
_FRESH = 16
Outcomes = list[Placement | Unschedulable]


class Decider:
    def __init__(
        self,
        world: World,
        assumed: dict[str, Key],
        clock: Clock,
        wall: Callable[[], float],
        rng: random.Random | None,
    ) -> None:
        self.decisions = Decisions(clock, wall)
        self._world = world
        self._assumed = assumed
        self._clock = clock
        self._rng = np.random.default_rng((rng or random.Random()).getrandbits(64))
        self._slices = 0
        self._drawn = 0
        self._order: Rows = np.zeros(0, dtype=np.intp)

    def tie_order(self) -> Rows:
        """A random order, so that equal nodes fill evenly (kube-scheduler picks among equals at random): drawn afresh
        now and then, and rolled by a random distance meanwhile, which costs a copy."""
        size = self._world.columns.size
        if self._drawn % _FRESH == 0 or len(self._order) != size:
            self._order = self._rng.permutation(size)
        self._drawn += 1
        order: Rows = np.roll(self._order, int(self._rng.integers(size)))
        return order

    async def decide(self, profile: Profile, pending: list[Pending]) -> Outcomes:
        """Place the pods in order; the loop gets a turn between slices."""
        order, world = self.tie_order(), self._world
        outcomes: Outcomes = []
        for start in range(0, len(pending), _SLICE):
            now = pending[start : start + _SLICE]
            if start:
                await asyncio.sleep(0)
                order = order if len(order) == world.columns.size else self.tie_order()
                now = [p for p in now if world.waits(p.key, p.uid)]
            outcomes += self._timed(profile, partial(self._place, now, order, profile))
        return outcomes

    def decide_gang(self, profile: Profile, gang: Gang, members: list[Pending], running: list[int]) -> Outcomes:
        """Place a whole group, or none of it; a raising plugin keeps the whole group waiting."""
        return self._timed(profile, lambda _: self._place_gang(profile, gang, members, running))

    def now(self, pod: Obj, profile: Profile) -> dict[str, Any]:
        """How a pod would be decided as things are, itself not counted where it runs already."""
        world, uid = self._world, pod["metadata"]["uid"]
        placed = world.columns.placed.get(uid)
        world.columns.remove_pod(uid)
        try:
            pending, _ = world.pending(pod)
            shape = replace(pending.shape, node_name="")
            return explained(world.columns, replace(pending, shape=shape), profile, world.nominated).to_dict()
        finally:
            if placed is not None:
                world.columns.put_back(placed)

    def _timed(self, profile: Profile, decide: Callable[[Timings | None], Outcomes]) -> Outcomes:
        begun = self._clock()
        timings = self._sampled()
        outcomes = decide(timings)
        self._report(timings, profile)
        self._assumed |= {o.pod.uid: o.pod.key for o in outcomes if isinstance(o, Placement)}
        self.decisions.after(outcomes, profile)
        metrics.ALGORITHM_SECONDS.observe(self._clock() - begun)
        return outcomes

    def _place(self, pods: list[Pending], order: Rows, profile: Profile, timings: Timings | None) -> Outcomes:
        """`decide.place`; when a plugin raises, the pods are tried one by one and only the culprit waits."""
        world = self._world
        try:
            return place(world.columns, pods, order, profile, world.nominated, timings, self.decisions)
        except Exception as error:  # a raising plugin must not stop the others; the culprit says so in its condition
            log.exception("deciding %d pods failed", len(pods))
            self._take_back(pods)
            if len(pods) == 1:
                return self._failed(pods, profile, error)
        return [outcome for pod in pods for outcome in self._place([pod], order, profile, None)]

    def _place_gang(self, profile: Profile, gang: Gang, members: list[Pending], running: list[int]) -> Outcomes:
        world = self._world
        try:
            return place_gang(
                world.columns, gang, members, running, self.tie_order(), profile, world.nominated, self.decisions
            )
        except Exception as error:  # as in `_place`
            log.exception("deciding pod group %s/%s failed", *gang.group)
            self._take_back(members)
            return self._failed(members, profile, error)

    def _take_back(self, pods: list[Pending]) -> None:
        for pod in pods:
            self._world.columns.remove_pod(pod.uid)

    @staticmethod
    def _failed(pods: list[Pending], profile: Profile, error: Exception) -> Outcomes:
        metrics.ATTEMPTS.labels("error", profile.scheduler_name).inc(len(pods))
        text = str(error) if isinstance(error, PluginError) else f"deciding failed: {error!r}"
        return [Unschedulable(pod, text, frozenset((ANY,)), error=True) for pod in pods]

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
