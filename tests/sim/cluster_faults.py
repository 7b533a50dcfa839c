"""What breaks, and when: a seeded nemesis, and the end of it, when everything is mended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.sim.cluster_store import Weather
from tests.sim.cluster_world import Machine, Sim


class Nemesis:
    def __init__(self, sim: Sim) -> None:
        self._sim = sim
        self._rng = sim.stream("nemesis")
        self.faults = 0
        self._kinds: list[tuple[int, Callable[[], Awaitable[str]]]] = [
            (5, self._controllers_die),
            (3, self._scheduler_dies),
            (4, self._kubelet_dies),
            (3, self._power_failure),
            (3, self._cut_off),
            (3, self._watches_break),
            (3, self._answers_get_lost),
            (1, self._compaction),
        ]

    async def run(self) -> None:
        """One fault after another, until cancelled; what it broke is mended by `mend`."""
        weights = [w for w, _ in self._kinds]
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self._rng.uniform(1, 20))
                (fault,) = self._rng.choices([f for _, f in self._kinds], weights)
                self.faults += 1
                group.create_task(self._strike(fault))

    async def _strike(self, fault: Callable[[], Awaitable[str]]) -> None:
        self._sim.note(f"fault: {await fault()}")

    def mend(self) -> None:
        sim = self._sim
        self._calm()
        for actor in (*sim.controllers, *sim.schedulers):
            if not actor.running:
                actor.start()
        for machine in sim.machines:
            machine.kubelet.cut(False)
            machine.boots()
        sim.note("everything is mended")

    def _calm(self) -> None:
        calm, weather = Weather(), self._sim.weather
        for name in Weather.__slots__:
            setattr(weather, name, getattr(calm, name))

    async def _restart(self, actors: list, what: str) -> str:
        actor = self._rng.choice(actors)
        if actor.running:
            actor.kill()
            await asyncio.sleep(self._rng.uniform(0.1, 6))
            actor.start()
        return f"{what} {actor.name} was killed"

    async def _controllers_die(self) -> str:
        return await self._restart(self._sim.controllers, "controllers")

    async def _scheduler_dies(self) -> str:
        return await self._restart(self._sim.schedulers, "scheduler")

    def _victim(self) -> Machine:
        return self._rng.choice(self._sim.machines)

    async def _kubelet_dies(self) -> str:
        machine = self._victim()
        machine.kubelet_dies()
        await asyncio.sleep(self._rng.uniform(0.5, 60))
        machine.kubelet_starts()
        return f"the kubelet of {machine.node} was away"

    async def _power_failure(self) -> str:
        machine = self._victim()
        if not machine.on:
            return f"{machine.node} is off already"
        machine.power_failure()
        await asyncio.sleep(self._rng.uniform(0, 3))
        if self._rng.random() < 0.8:
            self._sim.provider.set_state(machine.node, "off")
            await asyncio.sleep(self._rng.uniform(1, 90))
        machine.boots()
        return f"{machine.node} lost power"

    async def _cut_off(self) -> str:
        machine = self._victim()
        machine.kubelet.cut(True)
        await asyncio.sleep(self._rng.uniform(1, 150))
        machine.kubelet.cut(False)
        return f"{machine.node} was cut off"

    async def _watches_break(self) -> str:
        weather = self._sim.weather
        weather.expired_watch, weather.lag_s = 0.02, self._rng.choice([0.0, 0.05, 1.0])
        await asyncio.sleep(self._rng.uniform(1, 20))
        self._calm()
        return "watches broke"

    async def _answers_get_lost(self) -> str:
        weather = self._sim.weather
        weather.lost_answer, weather.unavailable = 0.05, self._rng.choice([0.0, 0.02])
        await asyncio.sleep(self._rng.uniform(1, 20))
        self._calm()
        return "answers got lost"

    async def _compaction(self) -> str:
        store = self._sim.store
        if store.revision > store.compacted + 1:
            await store.compact(store.revision - 1)
        return "the store was compacted"
