"""PostFilter: what happens to pods that fit nowhere. Decides by `preempt` (pure), writes through the Evictor.

Equal pods for which nobody can be evicted share one look. Every look is at the cluster as it is then, since writes
are awaited between pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from cluster.machinery.client import Obj
from cluster.machinery.clock import Clock
from cluster.scheduler import metrics
from cluster.scheduler.config import Profile
from cluster.scheduler.decide import Unschedulable, diagnose
from cluster.scheduler.diagnosis import fit_error
from cluster.scheduler.evict import Evictor
from cluster.scheduler.gangs import PLUGIN as GANG
from cluster.scheduler.preempt import NOT_HELPFUL, Candidate, preempt
from cluster.scheduler.scores import Rows
from cluster.scheduler.shape import PodShape
from cluster.scheduler.world import World


class PostFilter:
    def __init__(self, world: World, evictor: Evictor, clock: Clock, tie_order: Callable[[], Rows]) -> None:
        self._world = world
        self._evictor = evictor
        self._clock = clock
        self._tie_order = tie_order

    async def run(self, refused: list[Unschedulable], profile: Profile) -> None:
        """Room by eviction where that helps, else word of why the pod waits. Equal hopeless pods share one look."""
        hopeless: dict[tuple[PodShape, int], str] = {}
        for outcome in refused:
            pod = self._world.pods.get(*outcome.pod.key)
            if pod is None or pod["metadata"]["uid"] != outcome.pod.uid or pod["spec"].get("nodeName"):
                continue
            alike, had = (outcome.pod.shape, outcome.pod.priority), outcome.pod.uid in self._world.nominated
            answer: Candidate | str = ""
            helpless = outcome.error or bool(outcome.pod.shape.unsupported) or GANG in outcome.plugins
            if profile.preemption and not helpless:
                answer = hopeless[alike] if alike in hopeless and not had else self._preempt(outcome, pod, profile)
            if isinstance(answer, Candidate):
                await self._make_room(outcome, pod, answer)
                continue
            lost = had and outcome.pod.uid not in self._world.nominated
            if not had:
                hopeless[alike] = answer
            reason = "SchedulerError" if outcome.error else "Unschedulable"
            text = _joined(outcome.message, answer)
            await self._evictor.unschedulable(pod, text, nominated="" if lost else None, reason=reason)

    def _preempt(self, outcome: Unschedulable, pod: Obj, profile: Profile) -> Candidate | str:
        """Whom to evict for this pod, or why nobody. Looks at the cluster as it is now."""
        world, asked = self._world, outcome.pod
        if pod["spec"].get("preemptionPolicy") == "Never":
            return "not eligible due to preemptionPolicy=Never."
        if asked.refusal:
            nodes = len(world.columns.rows)
            return fit_error(world.columns, Counter({NOT_HELPFUL: nodes})) if nodes else ""
        row = world.columns.rows.get(world.nominated.node_of(asked.uid))
        there = {} if row is None else world.columns.on_row.get(row, {})
        if any(p.shape.terminating and p.priority < asked.priority for p in there.values()):
            return "not eligible due to a terminating pod on the nominated node."
        begun = self._clock()
        metrics.PREEMPTION_ATTEMPTS.inc()
        resolvable = diagnose(world.columns, asked, profile, world.nominated).resolvable
        answer = preempt(world.columns, asked, resolvable, profile, world.nominated, world.budgets(), self._tie_order())
        status = "Unschedulable" if isinstance(answer, str) else "Success"
        took = metrics.EXTENSION_POINT_SECONDS.labels("PostFilter", status, profile.scheduler_name)
        took.observe(self._clock() - begun)
        if isinstance(answer, Candidate):
            world.nominated.set(asked.uid, answer.node, asked.shape, asked.priority)
            metrics.PREEMPTION_VICTIMS.observe(len(answer.victims))
        else:
            world.nominated.remove(asked.uid)
        return answer

    async def _make_room(self, outcome: Unschedulable, pod: Obj, candidate: Candidate) -> None:
        """Evict the victims, write the nomination, and take it from less important pods that waited there."""
        ousted = self._world.nominated.on(candidate.node, outcome.pod.priority)
        for uid in ousted:
            self._world.nominated.remove(uid)
        await self._evictor.unschedulable(pod, outcome.message, nominated=candidate.node)
        await self._evictor.evict(candidate, pod)
        for waiting in self._world.nominees(ousted):
            await self._evictor.withdraw(waiting)


def _joined(message: str, answer: str) -> str:
    return f"{message} preemption: {answer}" if answer else message
