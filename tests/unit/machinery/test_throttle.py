"""Writes per second are bounded on every path, reads are not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.api.errors import ApiError, fence_lost, service_unavailable
from cluster.machinery.client import Binding
from cluster.machinery.throttle import Throttled, TokenBucket


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A Client that only notes when it was called; `fails`: what the so-many-th call raises."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.fails: dict[int, ApiError] = {}
        self.calls: list[tuple[float, str, int]] = []

    async def bind(self, bindings: list[Binding], *, together: bool = False, turn: int = 0) -> list[None]:
        self.calls.append((self.time.now, "bind", len(bindings)))
        if len(self.calls) in self.fails:
            raise self.fails[len(self.calls)]
        return [None] * len(bindings)

    async def create_all(self, resource: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.calls.append((self.time.now, "create_all", len(objects)))
        return objects

    def __getattr__(self, name: str) -> Any:
        async def call(*_: Any, **__: Any) -> dict[str, Any]:
            self.calls.append((self.time.now, name, 1))
            return {}

        return call


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Sleeping moves the clock and nothing else."""
    made = Time()

    async def sleep(delay: float) -> None:
        made.now += delay

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


def test_the_bucket_fills_to_its_burst() -> None:
    time = Time()
    bucket = TokenBucket(10.0, 5, time)
    assert [bucket.take(1) for _ in range(5)] == [0.0] * 5
    assert bucket.take(1) == pytest.approx(0.1)
    time.now += 100
    assert bucket.take(5) == 0.0
    assert bucket.take(1) == pytest.approx(0.1)


async def test_all_writes_share_the_bound(time: Time) -> None:
    inner = Recorder(time)
    client = Throttled(inner, 10.0, 2, clock=time)  # type: ignore[arg-type]
    for _ in range(5):
        await client.create("events", {})
        await client.patch("pods", "p", {})
        await client.update("pods", {})
        await client.delete("pods", "p")
        await client.take_turn("m1")
        await client.get("pods", "p")
    assert len([c for c in inner.calls if c[1] != "get"]) == 25
    assert time.now == pytest.approx((25 - 2) / 10)


async def test_batches_of_bindings_count_each_and_are_cut(time: Time) -> None:
    inner = Recorder(time)
    client = Throttled(inner, 10.0, 4, clock=time)  # type: ignore[arg-type]
    batch = [Binding("d", f"p{i}", "", "n") for i in range(10)]
    assert await client.bind(batch) == [None] * 10
    assert [count for _, _, count in inner.calls] == [4, 4, 2]
    assert [at for at, _, _ in inner.calls] == pytest.approx([0.0, 0.4, 0.6])
    await client.bind(batch, together=True)
    assert inner.calls[-1][2] == 10, "those that belong together are not cut"
    before = time.now
    await client.create("events", {})
    assert time.now > before


async def test_what_was_bound_before_a_part_failed_is_told(time: Time) -> None:
    inner = Recorder(time)
    client = Throttled(inner, 10.0, 4, clock=time)  # type: ignore[arg-type]
    batch = [Binding("d", f"p{i}", "", "n") for i in range(10)]
    away = inner.fails[2] = service_unavailable("the store is electing")
    assert await client.bind(batch) == [None] * 4 + [away] * 6
    assert [count for _, _, count in inner.calls] == [4, 4], "the rest is not tried"


@pytest.mark.parametrize(("call", "error"), [(1, service_unavailable("")), (2, fence_lost(""))])
async def test_what_concerns_the_whole_batch_is_raised(time: Time, call: int, error: ApiError) -> None:
    inner = Recorder(time)
    inner.fails[call] = error
    client = Throttled(inner, 10.0, 4, clock=time)  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        await client.bind([Binding("d", f"p{i}", "", "n") for i in range(10)])


def test_senseless_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Throttled(Recorder(Time()), 0.0, 1)  # type: ignore[arg-type]


async def test_objects_created_together_count_one_each(time: Time) -> None:
    recorder = Recorder(time)
    client = Throttled(recorder, 10.0, 5, clock=time)  # type: ignore[arg-type]
    assert await client.create_all("events", [{}] * 12) == [{}] * 12
    assert recorder.calls == [(0.0, "create_all", 5), (pytest.approx(0.5), "create_all", 5), (0.7, "create_all", 2)]
