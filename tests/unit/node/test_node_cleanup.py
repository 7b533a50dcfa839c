"""Clearing away: what nobody knows goes whole, and at the second look only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.node.cleanup import Cleanup
from cluster.node.runtime import ContainerInfo, PodRef, RuntimeFailure


class Machine:
    """Stands where engine, network, volumes, logs and control groups would; notes what is taken away, in order."""

    def __init__(self, volumes: Sequence[str] = (), cgroups: Sequence[str] = ()) -> None:
        self.gone: list[str] = []
        self.stuck: set[str] = set()
        machine = self

        class Removing:
            async def remove(self, what: str) -> None:
                if what in machine.stuck:
                    raise RuntimeFailure(f"{what} is busy")
                machine.gone.append(what)

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
        self.cleanup = Cleanup(part, part, part, part, groups)


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
    assert machine.gone == [step for steps in lost for step in steps]


async def test_later_it_goes_at_the_second_look() -> None:
    machine = Machine()
    await machine.cleanup.orphans({"mine"}, [*containers("mine"), *containers("u1")])
    assert machine.gone == []
    await machine.cleanup.orphans({"mine"}, [*containers("mine"), *containers("u1")])
    assert machine.gone == whole("u1")


async def test_a_pod_that_was_on_its_way_in_at_the_first_look_stays() -> None:
    machine = Machine()
    await machine.cleanup.orphans(set(), containers("u1"))
    await machine.cleanup.orphans({"u1"}, containers("u1"))
    await machine.cleanup.orphans(set(), containers("u1"))
    assert machine.gone == []


async def test_what_cannot_be_removed_now_is_tried_again() -> None:
    machine = Machine()
    machine.stuck = {"u1-app"}
    for _ in range(2):
        await machine.cleanup.orphans(set(), containers("u1"))
    assert machine.gone == []
    machine.stuck.clear()
    await machine.cleanup.orphans(set(), containers("u1"))
    assert machine.gone == whole("u1")
