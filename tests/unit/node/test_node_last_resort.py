"""What is done about a container that the engine does not end, and what it must not do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.node import last_resort
from cluster.node.hollow.runtime import HollowRuntime
from cluster.node.last_resort import LastResort
from cluster.node.runtime import UNANSWERED, ContainerInfo, PodRef, RuntimeFailure

INFO = ContainerInfo("c1", PodRef("default", "p", "u1"), "app", 0, "running")


class StuckRuntime(HollowRuntime):
    """Ends nothing by itself; hears of an end that was made past it, or only of its shim's."""

    def __init__(self) -> None:
        super().__init__(time.time)
        self.resume([INFO])

    async def remove(self, container_id: str) -> None:
        info = await self.inspect(container_id)
        if info is not None and info.state == "running":
            raise RuntimeFailure("context deadline exceeded", UNANSWERED)
        await super().remove(container_id)

    def end(self) -> None:
        self.resume([replace(INFO, state="exited", exit_code=137)])


class PastEngine:
    def __init__(self, act: Callable[[bool], str]) -> None:
        self.act = act
        self.asked: list[bool] = []

    async def __call__(self, container_id: str, *, shim: bool) -> str:
        self.asked.append(shim)
        return self.act(shim)


@pytest.fixture(autouse=True)
def hears_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_resort, "_HEARD_S", 0.05)
    monkeypatch.setattr(last_resort, "_LOOK_AGAIN_S", 0.01)


def told(events: list[tuple[str, ...]]) -> Callable[[str, str, str, str], None]:
    return lambda *event: events.append(event)


async def test_the_shim_is_spared_when_the_engine_hears_of_the_end() -> None:
    runtime = StuckRuntime()
    events: list[tuple[str, ...]] = []

    def act(shim: bool) -> str:
        runtime.end()
        return "killed process 7"

    past = PastEngine(act)
    await LastResort(runtime, past).kill("c1", "app", told(events))
    message = "error killing pod: the container engine does not end container app; ended directly: killed process 7"
    assert past.asked == [False] and events == [("Warning", "FailedKillPod", message, "app")]


async def test_a_removal_without_an_answer_ends_the_container_and_is_repeated() -> None:
    runtime = StuckRuntime()
    events: list[tuple[str, ...]] = []

    def act(shim: bool) -> str:
        if not shim:
            return ""
        runtime.end()
        return "killed its shim, process 8"

    past = PastEngine(act)
    resort = LastResort(runtime, past)
    with pytest.raises(RuntimeFailure):
        await resort.remove("c1", "app", told(events))
    assert past.asked == [False, True] and "killed its shim, process 8" in events[0][2]
    await resort.remove("c1", "app", told(events))
    assert await runtime.inspect("c1") is None and len(events) == 1


async def test_that_it_cannot_be_done_is_said() -> None:
    def act(shim: bool) -> str:
        raise RuntimeFailure("the host agent does not answer")

    events: list[tuple[str, ...]] = []
    await LastResort(StuckRuntime(), PastEngine(act)).kill("c1", "app", told(events))
    assert "failed (the host agent does not answer)" in events[0][2]
