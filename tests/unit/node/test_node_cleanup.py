"""Clearing away: what nobody knows goes whole, and at the second look only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cluster.node import cleanup
from cluster.node.cleanup import Cleanup
from cluster.node.last_resort import LastResort
from cluster.node.runtime import UNANSWERED, ContainerInfo, PodRef, RuntimeFailure


class Machine:
    """Stands where engine, network, volumes, logs and control groups would; notes what is taken away, in order."""

    def __init__(self, volumes: Sequence[str] = (), cgroups: Sequence[str] = ()) -> None:
        self.gone: list[str] = []
        self.stuck: set[str] = set()
        self.silent: dict[str, asyncio.Event] = {}  # containers about which the engine answers only after that
        self.ended: list[str] = []  # past the engine
        self.events: list[tuple[str, str]] = []
        machine = self

        class Removing:
            async def remove(self, what: str) -> None:
                if what in machine.stuck:
                    raise RuntimeFailure(f"{what} is busy")
                if what in machine.silent:
                    await machine.silent[what].wait()
                    raise RuntimeFailure("context deadline exceeded", UNANSWERED)
                machine.gone.append(what)

            async def inspect(self, what: str) -> None:
                return None

            def event(self, about: dict[str, str], type_: str, reason: str, message: str) -> None:
                machine.events.append((f"{about['namespace']}/{about['name']}", reason))

            async def delete(self, sandbox: str) -> None:
                machine.gone.append(f"address of {sandbox}")

            async def release(self, uid: str) -> None:
                machine.gone.append(f"mounts of {uid}")

            def remove_pod(self, uid: str) -> None:
                machine.gone.append(f"logs of {uid}")

            def known(self) -> list[str]:
                return list(volumes)

        class Groups:
            def known(self) -> list[str]:
                return list(cgroups)

            def remove(self, uid: str) -> None:
                machine.gone.append(f"cgroup of {uid}")

        part: Any = Removing()
        groups: Any = Groups()
        self.cleanup = Cleanup(LastResort(part, self._end), part, part, part, groups, part)

    async def _end(self, container_id: str, *, shim: bool) -> str:
        self.ended.append(container_id)
        return ""

    async def look(self, uids: set[str], found: list[ContainerInfo]) -> None:
        """A later look, and all that it leads to."""
        self.cleanup.orphans(uids, found)
        await self.cleanup.settled()


def containers(uid: str) -> list[ContainerInfo]:
    ref = PodRef("default", "p", uid)
    return [
        ContainerInfo(f"{uid}-sandbox", ref, "POD", 0, "running"),
        ContainerInfo(f"{uid}-app", ref, "app", 0, "running", sandbox_id=f"{uid}-sandbox"),
    ]


def whole(uid: str, *, with_containers: bool = True) -> list[str]:
    first = [f"{uid}-app", f"address of {uid}-sandbox", f"{uid}-sandbox"] if with_containers else []
    return [*first, f"mounts of {uid}", f"logs of {uid}", uid, f"cgroup of {uid}"]


async def test_at_the_start_all_goes_that_is_no_pods() -> None:
    machine = Machine(volumes=["mine", "u3"], cgroups=["mine", "u2"])
    await machine.cleanup.all_but({"mine"}, [*containers("mine"), *containers("u1")])
    lost = [whole("u1"), whole("u2", with_containers=False), whole("u3", with_containers=False)]
    for steps in lost:
        assert [step for step in machine.gone if step in steps] == steps
    assert len(machine.gone) == sum(map(len, lost))


async def test_later_it_goes_at_the_second_look() -> None:
    machine = Machine()
    await machine.look({"mine"}, [*containers("mine"), *containers("u1")])
    assert machine.gone == []
    await machine.look({"mine"}, [*containers("mine"), *containers("u1")])
    assert machine.gone == whole("u1")


async def test_a_pod_that_was_on_its_way_in_at_the_first_look_stays() -> None:
    machine = Machine()
    await machine.look(set(), containers("u1"))
    await machine.look({"u1"}, containers("u1"))
    await machine.look(set(), containers("u1"))
    assert machine.gone == []


async def test_what_cannot_be_removed_now_is_tried_again() -> None:
    machine = Machine()
    machine.stuck = {"u1-app"}
    for _ in range(2):
        await machine.look(set(), containers("u1"))
    assert machine.gone == []
    machine.stuck.clear()
    await machine.look(set(), containers("u1"))
    assert machine.gone == whole("u1")


async def test_what_the_engine_does_not_let_go_holds_up_nothing_and_is_ended_past_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: half a minute of every start and of every look, and it was asked of the engine for ever."""
    monkeypatch.setattr(cleanup, "_WAIT_S", 0.05)
    machine = Machine()
    answers = machine.silent["u1-app"] = asyncio.Event()
    found = [*containers("u1"), *containers("u2")]
    async with asyncio.timeout(60):
        await machine.cleanup.all_but(set(), found)
        while machine.gone != whole("u2"):
            await asyncio.sleep(0.01)
        machine.cleanup.orphans(set(), containers("u1"))
        machine.cleanup.orphans(set(), containers("u1"))
        assert machine.ended == []
        answers.set()
        await machine.cleanup.settled()
        assert machine.ended == ["u1-app"] and machine.events == [("default/p", "FailedKillPod")]
        machine.silent.clear()
        await machine.look(set(), containers("u1"))
    assert machine.gone == [*whole("u2"), *whole("u1")]


async def test_one_container_of_a_pod_that_stays_is_dropped() -> None:
    machine = Machine()
    machine.stuck = {"u1-sandbox"}
    for info in containers("u1"):
        await machine.cleanup.drop(info)
    assert machine.gone == ["u1-app"]
