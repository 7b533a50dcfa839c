"""Batches of bindings while the store is in trouble: what was written and what was not is told of each pod."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cluster.api.errors import FenceLost, fence_lost, service_unavailable
from cluster.registry.core import Stale
from cluster.registry.keys import TURN
from cluster.registry.types import Binding

NAMES = ("a", "b", "c")
BATCH = [Binding("default", name, "", "m1") for name in NAMES]
Real = Callable[[], Awaitable[Any]]


@pytest.fixture
async def pods(bench: Any, make: Any) -> None:
    for name in NAMES:
        await bench.create("pods", make.pod(name))


async def bound(bench: Any) -> list[str]:
    return [n for n in NAMES if (await bench.get("pods", n)).obj["spec"].get("nodeName")]


def one_by_one(bench: Any, monkeypatch: pytest.MonkeyPatch, commit: Callable[[str, Real], Awaitable[Any]]) -> None:
    """A batch does not hold; `commit(pod, as it would be done)` is what happens to each by itself."""
    real = bench.registry._core.commit

    async def either(ctx: Any, plan: Any, **how: Any) -> Any:
        if len(plan.ops) > 1:
            raise Stale
        return await commit(plan.ops[0][1].decode()[-1], lambda: real(ctx, plan, **how))

    monkeypatch.setattr(bench.registry._core, "commit", either)


async def test_a_pod_that_cannot_be_read_is_told_as_its_own(
    bench: Any, pods: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, read = bench.registry._core, bench.registry._core.read

    async def failing(key: bytes, *, serializable: bool = False, **how: Any) -> Any:
        if key.endswith(b"/b") and not serializable:
            raise service_unavailable("the store is electing")
        return await read(key, serializable=serializable, **how)

    one_by_one(bench, monkeypatch, lambda _, real: real())
    monkeypatch.setattr(core, "read", failing)
    outcomes = await bench.registry.bind(bench.ctx, BATCH)
    assert [one.code if one else 0 for one in outcomes] == [0, 503, 0]
    monkeypatch.undo()
    assert await bound(bench) == ["a", "c"]


async def test_a_turn_lost_in_the_middle_is_told_when_nothing_can_be_written_any_more(
    bench: Any, pods: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def commit(name: str, real: Real) -> Any:
        if name == "b":
            raise fence_lost("another has it")
        await gate.wait()
        return await real()

    one_by_one(bench, monkeypatch, commit)
    binding = asyncio.create_task(bench.registry.bind(bench.ctx, BATCH))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not binding.done()
    gate.set()
    with pytest.raises(FenceLost):
        await binding
    monkeypatch.undo()
    assert await bound(bench) == ["a", "c"]


async def test_a_turn_that_was_written_is_had_though_watches_hear_of_it_later(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*, tell_watches: bool) -> int:
        assert tell_watches
        raise service_unavailable("the store is electing")

    monkeypatch.setattr(bench.registry._core, "read_index", away)
    revision, before = await bench.registry.take_turn(bench.ctx, "m1")
    assert (revision, before) == (bench.store.revision, "")


async def test_who_binds_within_an_old_turn_is_told_so(bench: Any, pods: None) -> None:
    turn, _ = await bench.registry.take_turn(bench.ctx, "m1")
    assert (await bench.registry.take_turn(bench.ctx, "m2"))[1] == "m1"
    with pytest.raises(FenceLost, match="another turn to bind pods was taken since this one"):
        await bench.registry.bind(bench.ctx, BATCH, turn=turn)
    assert await bound(bench) == [] and TURN.decode() in bench.keys("/sk8/")
