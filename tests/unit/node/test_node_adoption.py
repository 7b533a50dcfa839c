"""What a starting kubelet makes of containers that its engine answers about, and of one that it does not."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from cluster.node import adoption
from cluster.node.adoption import Adopter
from cluster.node.core_events import Adopt
from cluster.node.hollow.runtime import HollowRuntime
from cluster.node.runtime import UNANSWERED, ContainerInfo, PodRef, RuntimeFailure

POD = PodRef("default", "p", "u1")
SANDBOX = ContainerInfo("s1", POD, "POD", 0, "running")
OBJECT: dict[str, Any] = {"metadata": {"name": "p"}, "spec": {}}


def run(number: int, state: str = "running", **known: Any) -> ContainerInfo:
    return ContainerInfo(f"c{number}", POD, "app", number, state, "s1", created_at=7.0, **known)  # type: ignore[arg-type]


class Engine(HollowRuntime):
    """Says nothing about some containers, at once or for ever."""

    def __init__(self, *has: ContainerInfo) -> None:
        super().__init__(time.time)
        self.resume(has)
        self.refused: set[str] = set()
        self.silent: set[str] = set()

    async def inspect(self, container_id: str) -> ContainerInfo | None:
        if container_id in self.silent:
            await asyncio.Event().wait()
        if container_id in self.refused:
            raise RuntimeFailure("the container engine has not answered earlier calls", UNANSWERED)
        return await super().inspect(container_id)


class Connected:
    """All sandboxes are, under this address; or with `lost` all that are connected anew."""

    def __init__(self, *, lost: bool = False) -> None:
        self.lost = lost
        self.added: list[tuple[str, str]] = []

    def addresses(self, sandbox_id: str) -> tuple[str, ...]:
        return ("10.1.0.2",)

    async def check(self, sandbox_id: str) -> bool:
        return not self.lost

    async def add(self, sandbox_id: str, netns: str) -> tuple[str, ...]:
        self.added.append((sandbox_id, netns))
        return self.addresses(sandbox_id)


async def adopted(
    engine: Engine, *listed: ContainerInfo, connected: Connected | None = None
) -> tuple[Adopt, list[str]]:
    """What is adopted of a list, and what is removed."""
    removed: list[str] = []

    async def remove(info: ContainerInfo) -> None:
        removed.append(info.id)

    network: Any = connected or Connected()
    async with asyncio.timeout(60):
        return await Adopter(engine, network, ("10.0.0.1",), remove).adopt(OBJECT, [SANDBOX, *listed]), removed


async def test_the_newest_two_runs_of_a_container_are_kept() -> None:
    ended = {"exit_code": 3, "started_at": 1.0, "finished_at": 2.0}
    runs = [run(0, "exited", **ended), run(1, "exited", **ended), run(2, started_at=8.0), run(3, "created")]
    adopt, removed = await adopted(Engine(*runs), *runs)
    (seen,) = adopt.containers
    assert (seen.id, seen.running, seen.started_at) == ("c2", True, 8.0)
    assert seen.previous is not None and (seen.previous.id, seen.previous.exit_code) == ("c1", 3)
    assert sorted(removed) == ["c0", "c3"]
    assert adopt.sandbox is not None and adopt.sandbox.running and adopt.sandbox.ip == "10.1.0.2"


async def test_a_sandbox_without_its_link_is_connected_anew_in_the_namespace_that_the_engine_names() -> None:
    network = Connected(lost=True)
    adopt, _ = await adopted(Engine(replace(SANDBOX, netns="/run/docker/netns/a")), connected=network)
    assert network.added == [("s1", "/run/docker/netns/a")]
    assert adopt.sandbox is not None and adopt.sandbox.running and adopt.sandbox.ip == "10.1.0.2"


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_a_container_that_the_engine_does_not_answer_about_is_adopted_as_the_list_has_it(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it ended the kubelet, which began anew and ended again for as long as the container was stuck."""
    monkeypatch.setattr(adoption, "_LOOK_S", 0.05)
    engine = Engine()
    getattr(engine, how).add("c1")
    adopt, _ = await adopted(engine, run(1))
    (seen,) = adopt.containers
    assert (seen.id, seen.running, seen.started_at, seen.exit) == ("c1", True, 7.0, None)


async def test_how_one_ended_that_the_engine_does_not_answer_about_is_not_made_up() -> None:
    engine = Engine()
    engine.refused.add("c1")
    adopt, _ = await adopted(engine, run(1, "exited"))
    (seen,) = adopt.containers
    assert not seen.running and seen.exit is not None
    assert (seen.exit.exit_code, seen.exit.reason) == (137, "ContainerStatusUnknown")


async def test_an_engine_that_fails_as_a_whole_is_no_stuck_container() -> None:
    class Gone(Engine):
        async def inspect(self, container_id: str) -> ContainerInfo | None:
            raise RuntimeFailure("the container engine does not answer at /var/run/docker.sock")

    with pytest.raises(RuntimeFailure, match="does not answer at"):
        await adopted(Gone(), run(1))
