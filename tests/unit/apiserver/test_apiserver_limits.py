"""Seats and turns: nobody over the limit, the greedy behind themselves, the late refused."""

from __future__ import annotations

import asyncio

import pytest

from cluster.api.errors import ApiError
from cluster.apiserver.limits import Inflight


class Clients:
    """Requests that hold their seat until told; `order` is who was served when."""

    def __init__(self, inflight: Inflight) -> None:
        self.inflight = inflight
        self.order: list[str] = []
        self.open: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str) -> None:
        self.open[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name))

    async def _run(self, name: str) -> None:
        async with self.inflight.slot(name.partition("-")[0], mutating=False):
            self.order.append(name)
            await self.open[name].wait()

    async def finish(self, name: str) -> None:
        self.open[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)


async def test_a_greedy_client_delays_another_by_one_turn() -> None:
    clients = Clients(Inflight(1, 1))
    for i in range(10):
        clients.start(f"greedy-{i}")
    await asyncio.sleep(0)
    clients.start("modest-0")
    await asyncio.sleep(0)
    assert clients.order == ["greedy-0"]
    await clients.finish("greedy-0")
    await clients.finish("greedy-1")
    assert clients.order == ["greedy-0", "greedy-1", "modest-0"]
    for name in ("modest-0", *(f"greedy-{i}" for i in range(2, 10))):
        await clients.finish(name)
    assert clients.inflight.total == 0


async def test_a_full_queue_is_429_and_kinds_are_apart() -> None:
    inflight = Inflight(1, 1, queue_length=1)
    clients = Clients(inflight)
    for i in range(2):
        clients.start(f"a-{i}")
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as e:
        async with inflight.slot("a", mutating=False):
            pass
    assert (e.value.code, e.value.retry_after_s) == (429, 1)
    async with inflight.slot("a", mutating=True):
        assert inflight.total == 2
    await clients.finish("a-0")
    await clients.finish("a-1")
    assert inflight.total == 0


async def test_who_waits_too_long_or_leaves_takes_no_seat() -> None:
    inflight = Inflight(1, 1, wait_s=0.05)
    clients = Clients(inflight)
    clients.start("a-0")
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as e:
        async with inflight.slot("b", mutating=False):
            pass
    assert e.value.code == 429
    clients.start("c-0")
    await asyncio.sleep(0)
    clients.tasks["c-0"].cancel()
    await asyncio.gather(clients.tasks["c-0"], return_exceptions=True)
    await clients.finish("a-0")
    assert inflight.total == 0
    async with inflight.slot("d", mutating=False):
        assert inflight.total == 1
    assert inflight.total == 0


async def test_a_turn_given_to_one_who_left_at_that_moment_is_not_lost() -> None:
    inflight = Inflight(1, 1)
    clients = Clients(inflight)
    clients.start("a-0")
    clients.start("b-0")
    await asyncio.sleep(0)
    clients.open["a-0"].set()
    await asyncio.sleep(0)  # a's seat is b's now, b has not run yet
    clients.tasks["b-0"].cancel()
    await asyncio.gather(*clients.tasks.values(), return_exceptions=True)
    assert inflight.total == 0
