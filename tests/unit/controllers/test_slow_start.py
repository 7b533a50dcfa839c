"""How many pods are asked for at once, within a look and over several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.api.errors import ApiError, forbidden
from cluster.controllers.pod_control import PodControl
from cluster.controllers.slow_start import TRUST_S, SlowStart
from cluster.machinery.client import Created, Obj
from tests.support.controller_world import World
from tests.support.fake_clock import FakeClock


def owner(uid: str = "u1", generation: int = 1) -> Obj:
    return {"metadata": {"name": "web", "namespace": "default", "uid": uid, "generation": generation}}


class Creating:
    """Records what is asked for at once; `accepts` is how many more it takes."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.accepts = 10_000

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        self.asked.append(len(objects))
        outcomes: list[Obj | ApiError] = []
        for obj in objects:
            self.accepts -= 1
            outcomes.append(obj if self.accepts >= 0 else forbidden("pods", "web", "exceeded quota"))
        return outcomes


async def asked(world: World, client: Any, control: PodControl, count: int, of: Obj) -> list[int]:
    client.asked.clear()
    await control.create(of, [{"metadata": {"name": f"p{i}"}} for i in range(count)])
    return list(client.asked)


async def test_an_owner_goes_on_where_its_last_pods_were_accepted() -> None:
    async with World() as w:
        client: Any = Creating()
        control = PodControl(client, w.informers.of("pods"), w.env.recorder("test"), w.clock)
        assert await asked(w, client, control, 500, owner()) == [1, 2, 4, 8, 16, 32, 64, 128, 245]
        assert await asked(w, client, control, 500, owner()) == [500]
        assert await asked(w, client, control, 5, owner("u2")) == [1, 2, 2]
        client.accepts = 3
        assert await asked(w, client, control, 500, owner()) == [500]  # all of them are refused but three
        assert await asked(w, client, control, 500, owner()) == [1]


def test_growth_is_forgotten_with_a_change_a_failure_and_time() -> None:
    clock = FakeClock()
    start = SlowStart(clock)
    for size in (1, 2, 4):
        assert start.size(owner()) == size
        start.went_well(owner(), size)
    assert start.size(owner(generation=2)) == 1
    assert start.size(owner()) == 8
    clock.advance(TRUST_S + 0.1)
    assert start.size(owner()) == 1
    start.went_well(owner(), 1)
    start.failed(owner())
    assert start.size(owner()) == 1


def test_growth_ends_for_who_asks_for_little_for_ever() -> None:
    start = SlowStart(FakeClock())
    for _ in range(100):
        start.went_well(owner(), start.size(owner()))
    assert start.size(owner()) == 500


def test_no_more_owners_are_kept_than_can_be_growing() -> None:
    start = SlowStart(FakeClock())
    for i in range(1500):
        start.went_well(owner(f"u{i}"), 1)
    assert (start.size(owner("u0")), start.size(owner("u1499"))) == (1, 2)
