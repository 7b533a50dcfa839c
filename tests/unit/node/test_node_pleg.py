"""The PLEG: a container that died is told of, by the engine's event or by the next relist."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.node.pleg import Pleg
from cluster.node.runtime import ContainerInfo, PodRef, RuntimeEvent, RuntimeFailure

POD = PodRef("default", "p", "u1")
LONG_S = 3600.0


class Engine:
    """What it has, and what it says; `broken` answers nothing."""

    def __init__(self) -> None:
        self.has: list[ContainerInfo] = []
        self.says: asyncio.Queue[RuntimeEvent] = asyncio.Queue()
        self.broken = False

    async def containers(self) -> list[ContainerInfo]:
        if self.broken:
            raise RuntimeFailure("no answer")
        return self.has

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        while True:
            yield await self.says.get()


class Pods:
    """One pod that believes its sandbox and one container to be running."""

    def __init__(self) -> None:
        self.dead: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        container = SimpleNamespace(id="c1", name="app", phase="running")
        sandbox = SimpleNamespace(id="s1", phase="ready", lost=False)
        self._worker = SimpleNamespace(uid="u1", core=SimpleNamespace(containers={"app": container}, sandbox=sandbox))

    def workers(self) -> list[Any]:
        return [self._worker]

    def died(self, uid: str, container_id: str, name: str) -> None:
        self.dead.put_nowait((uid, container_id, name))


@contextlib.asynccontextmanager
async def running(engine: Engine, pods: Pods, period_s: float) -> AsyncIterator[asyncio.Queue[str]]:
    """A PLEG at work; gives what became of its relists."""
    relists: asyncio.Queue[str] = asyncio.Queue()

    async def listed(found: list[ContainerInfo]) -> None:
        relists.put_nowait(f"{len(found)} found")

    pleg = Pleg(
        engine,  # type: ignore[arg-type]
        pods,  # type: ignore[arg-type]
        period_s=period_s,
        listed=listed,
        failed=lambda: relists.put_nowait("failed"),
    )
    task = asyncio.create_task(pleg.run())
    try:
        async with asyncio.timeout(60):
            yield relists
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_death_is_told_by_the_engines_event() -> None:
    engine, pods = Engine(), Pods()
    async with running(engine, pods, LONG_S) as relists:
        engine.says.put_nowait(RuntimeEvent("died", id="c1", name="app", uid="u1"))
        assert await pods.dead.get() == ("u1", "c1", "app")
        assert relists.empty()


@pytest.mark.parametrize("state", ["exited", "absent"])
async def test_a_death_that_no_event_told_of_is_found_by_the_relist(state: str) -> None:
    engine, pods = Engine(), Pods()
    engine.has = [ContainerInfo("s1", POD, "POD", 0, "running")]
    if state == "exited":
        engine.has.append(ContainerInfo("c1", POD, "app", 0, "exited"))
    async with running(engine, pods, 0.001) as relists:
        assert await pods.dead.get() == ("u1", "c1", "app")
        assert await relists.get() == f"{len(engine.has)} found"


async def test_a_gap_in_the_events_brings_the_relist_about_at_once() -> None:
    engine, pods = Engine(), Pods()
    async with running(engine, pods, LONG_S):
        engine.says.put_nowait(RuntimeEvent("resync"))
        assert {await pods.dead.get(), await pods.dead.get()} == {("u1", "c1", "app"), ("u1", "s1", "POD")}


async def test_an_engine_that_does_not_answer_kills_nobody() -> None:
    engine, pods = Engine(), Pods()
    engine.broken = True
    async with running(engine, pods, 0.001) as relists:
        assert [await relists.get(), await relists.get()] == ["failed", "failed"]
        assert pods.dead.empty()
