"""The work queue's promises, and the reconciler around it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.api.errors import conflict
from cluster.machinery.reconciler import Reconciler, Result
from cluster.machinery.workqueue import ShutDown, WorkQueue
from cluster.registry.context import CAUSE


async def test_a_key_waits_once_and_keeps_its_place() -> None:
    q = WorkQueue("t1")
    for key in ("a", "b", "a"):
        q.add(key)
    assert [await q.get(), await q.get()] == ["a", "b"]
    assert len(q) == 0


async def test_a_key_added_while_it_is_worked_on_comes_again_after_done() -> None:
    q = WorkQueue("t2")
    q.add("a")
    key = await q.get()
    q.add("a")
    assert len(q) == 0
    q.done(key)
    assert await q.get() == "a"


async def test_backoff_doubles_and_forget_resets_it() -> None:
    q = WorkQueue("t3", base_delay_s=0.001, max_delay_s=0.003)
    assert [q.add_rate_limited("a") for _ in range(3)] == [0.001, 0.002, 0.003]
    q.forget("a")
    assert q.add_rate_limited("a") == 0.001
    assert await q.get() == "a"
    q.shut_down()


async def test_of_two_delays_the_earlier_counts() -> None:
    q = WorkQueue("t4")
    q.add_after("a", 60)
    q.add_after("a", 0.001)
    q.add_after("a", 60)
    async with asyncio.timeout(30):
        assert await q.get() == "a"
    q.shut_down()


async def test_shutting_down_wakes_the_waiting() -> None:
    q = WorkQueue("t5")
    waiting = asyncio.create_task(q.get())
    await asyncio.sleep(0)
    q.shut_down()
    with pytest.raises(ShutDown):
        await waiting


async def test_a_cancelled_getter_loses_no_key() -> None:
    q = WorkQueue("t6")
    first = asyncio.create_task(q.get())
    second = asyncio.create_task(q.get())
    await asyncio.sleep(0)
    q.add("a")
    first.cancel()
    async with asyncio.timeout(30):
        assert await second == "a"
    await asyncio.gather(first, return_exceptions=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=60), st.integers(1, 3))
def test_no_key_is_worked_on_twice_at_once_and_none_is_lost(adds: list[tuple[str, int]], workers: int) -> None:
    async def run() -> None:
        active: set[str] = set()
        seen_after_last_add: dict[str, int] = {}
        added: dict[str, int] = {}

        async def work(key: str) -> Result | None:
            assert key not in active
            active.add(key)
            version = added[key]
            await asyncio.sleep(0)
            active.discard(key)
            seen_after_last_add[key] = version
            return None

        r = Reconciler("prop", work, workers=workers, queue=WorkQueue("prop"))
        task = asyncio.create_task(r.run())
        for i, (key, pause) in enumerate(adds):
            added[key] = i
            r.queue.add(key)
            for _ in range(pause):
                await asyncio.sleep(0)
        while not r.queue.idle():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert seen_after_last_add == added

    asyncio.run(run())


async def test_errors_are_retried_and_conflicts_quietly(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    async def work(key: str) -> Result | None:
        calls.append(key)
        if len(calls) == 1:
            raise conflict("pods", key)
        if len(calls) == 2:
            raise RuntimeError("a bug")
        return None

    r = Reconciler("errs", work)
    r.queue.add("a")
    async with asyncio.timeout(30):
        while len(calls) < 3:
            await r.step()
    assert r.queue.failures("a") == 0
    assert [rec.levelname for rec in caplog.records] == ["ERROR"]


async def test_a_result_asks_for_another_look() -> None:
    calls: list[str] = []

    async def work(key: str) -> Result | None:
        calls.append(key)
        return Result(0.001) if len(calls) < 3 else None

    r = Reconciler("again", work)
    r.queue.add("a")
    async with asyncio.timeout(30):
        while len(calls) < 3:
            await r.step()
    assert r.queue.idle()


def _add_because_of(queue: WorkQueue, key: str, cause: str) -> None:
    before = CAUSE.set(cause)
    queue.add(key)
    CAUSE.reset(before)


async def test_only_the_first_of_periodic_rounds_has_the_users_cause() -> None:
    causes: list[str] = []

    async def work(key: str) -> Result | None:
        causes.append(CAUSE.get())
        return Result(0.001) if len(causes) in (1, 2, 4) else None

    r = Reconciler("periodic", work)
    _add_because_of(r.queue, "a", "jane's")
    async with asyncio.timeout(30):
        for _ in range(3):
            await r.step()
        _add_because_of(r.queue, "a", "john's")
        for _ in range(2):
            await r.step()
    assert causes == ["jane's", "", "", "john's", ""]
    assert r.queue.idle()


async def test_a_retry_keeps_the_cause() -> None:
    causes: list[str] = []

    async def work(key: str) -> Result | None:
        causes.append(CAUSE.get())
        if len(causes) == 1:
            raise conflict("pods", key)
        if len(causes) == 2:
            raise RuntimeError("a bug")
        return None

    r = Reconciler("retries", work)
    _add_because_of(r.queue, "a", "jane's")
    async with asyncio.timeout(30):
        while len(causes) < 3:
            await r.step()
    assert causes == ["jane's"] * 3


async def test_each_round_of_a_key_has_the_causes_of_its_own_adds() -> None:
    q = WorkQueue("causes")
    _add_because_of(q, "a", "jane's")
    q.add("a")  # joins what waits, for jane
    assert await q.get() == "a"  # a worker that does not ask
    q.done("a")
    q.add("a")
    assert await q.get() == "a" and q.cause_of("a") == ""
    _add_because_of(q, "a", "john's")  # while it is worked on
    q.done("a")
    assert await q.get() == "a" and q.cause_of("a") == "john's"
    q.done("a")
    _add_because_of(q, "a", "jane's")
    q.add("a")
    assert await q.get() == "a" and q.cause_of("a") == "jane's"
    q.done("a")
    q.shut_down()


async def test_what_is_added_while_a_key_rests_gathers() -> None:
    q = WorkQueue("resting")
    loop = asyncio.get_running_loop()
    q.add("a")
    assert await q.get() == "a"
    worked_until = loop.time()
    q.done("a", 0.05)
    q.add("a")
    q.add("a")
    q.add("b")
    assert await q.get() == "b"  # others do not wait for it
    q.done("b")
    assert not q.idle()
    async with asyncio.timeout(30):
        assert await q.get() == "a"
    assert loop.time() - worked_until >= 0.05
    q.done("a")
    assert q.idle()


async def test_a_key_that_rests_and_is_not_added_is_idle_after_it() -> None:
    q = WorkQueue("resting-idle")
    q.add("a")
    await q.get()
    q.done("a", 0.01)
    async with asyncio.timeout(30):
        while not q.idle():
            await asyncio.sleep(0.005)
    assert len(q) == 0


async def test_a_reconciler_lets_a_key_rest_as_it_is_told() -> None:
    looks: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(key: str) -> Result | None:
        looks.append(loop.time())
        r.queue.add(key)  # as the informers do after a write
        return Result(rest_s=0.03)

    r = Reconciler("restful", work)
    r.queue.add("a")
    async with asyncio.timeout(30):
        await r.step()
        await r.step()
    assert looks[1] - looks[0] >= 0.03
    r.queue.shut_down()
