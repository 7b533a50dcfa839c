"""Lists at one revision, selectors, watches."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.api.selectors import parse_field_selector, parse_label_selector
from cluster.registry.types import Binding

MAPS = SCHEME.named("configmaps")
PODS = SCHEME.named("pods")


async def _many(bench: Any, count: int) -> None:
    for i in range(count):
        await bench.create("configmaps", {"metadata": {"name": f"x{i:02}", "labels": {"odd": str(i % 2)}}})


def _names(result: Any) -> list[str]:
    return [s.obj["metadata"]["name"] for s in result.items]


async def test_pages_are_one_consistent_list(bench: Any) -> None:
    await _many(bench, 7)
    first = await bench.registry.list(bench.ctx, MAPS, "default", limit=3)
    assert (_names(first), first.remaining) == (["x00", "x01", "x02"], 4)
    await bench.delete("configmaps", "x05")
    await bench.create("configmaps", {"metadata": {"name": "x99"}})
    rest = await bench.registry.list(bench.ctx, MAPS, "default", limit=9, continue_token=first.continue_token)
    assert _names(rest) == ["x03", "x04", "x05", "x06"]
    assert (rest.revision, rest.continue_token) == (first.revision, "")


async def test_a_compacted_token_is_expired(bench: Any) -> None:
    await _many(bench, 3)
    first = await bench.registry.list(bench.ctx, MAPS, "default", limit=1)
    await _many_more(bench)
    await bench.store.compact(bench.store.revision)
    with pytest.raises(ApiError) as e:
        await bench.registry.list(bench.ctx, MAPS, "default", limit=1, continue_token=first.continue_token)
    assert (e.value.code, e.value.reason) == (410, "Expired")
    again = e.value.status()["metadata"]["continue"]  # the rest as it is now
    rest = await bench.registry.list(bench.ctx, MAPS, "default", continue_token=again)
    assert _names(rest)[:2] == ["x01", "x02"]
    assert rest.revision > first.revision
    with pytest.raises(ApiError) as e:
        await bench.registry.list(bench.ctx, MAPS, "default", continue_token="rubbish!")
    assert e.value.code == 400


async def _many_more(bench: Any) -> None:
    await bench.create("configmaps", {"metadata": {"name": "later"}})


async def test_selectors_and_limits_together(bench: Any) -> None:
    await _many(bench, 9)
    odd = parse_label_selector("odd=1")
    page = await bench.registry.list(bench.ctx, MAPS, "default", label_selector=odd, limit=3)
    assert _names(page) == ["x01", "x03", "x05"]
    rest = await bench.registry.list(
        bench.ctx, MAPS, "default", label_selector=odd, limit=3, continue_token=page.continue_token
    )
    assert (_names(rest), rest.continue_token) == (["x07"], "")


async def test_field_selectors(bench: Any, make: Any) -> None:
    for name in ("a", "b"):
        await bench.create("pods", make.pod(name))
    await bench.registry.bind(bench.ctx, [Binding("default", "a", "", "m1")])
    found = await bench.registry.list(bench.ctx, PODS, field_selector=parse_field_selector("spec.nodeName=m1"))
    assert _names(found) == ["a"]
    by_name = parse_field_selector("metadata.name=b,status.phase=Pending")
    assert _names(await bench.registry.list(bench.ctx, PODS, "default", field_selector=by_name)) == ["b"]
    with pytest.raises(ApiError, match=r"field label not supported: spec.replicas"):
        await bench.registry.list(bench.ctx, PODS, field_selector=parse_field_selector("spec.replicas=1"))


class Watching:
    """Collects events in the background."""

    def __init__(self, bench: Any, info: Any, **options: Any) -> None:
        self.events: list[tuple[str, str]] = []
        self.error: ApiError | None = None
        self._stream = bench.registry.watch(bench.ctx, info, "default", **options)
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async for e in self._stream:
                if e.type != "BOOKMARK":
                    self.events.append((e.type, e.stored.obj["metadata"]["name"]))
        except ApiError as e:
            self.error = e

    async def settle(self) -> list[tuple[str, str]]:
        for _ in range(20):
            await asyncio.sleep(0)
        return self.events

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_watch_from_the_present_state(bench: Any) -> None:
    await _many(bench, 2)
    watching = Watching(bench, MAPS, revision=0)
    await watching.settle()
    await bench.delete("configmaps", "x00")
    assert await watching.settle() == [("ADDED", "x00"), ("ADDED", "x01"), ("DELETED", "x00")]
    await watching.stop()


async def test_watch_with_a_selector_sees_objects_come_and_go(bench: Any) -> None:
    start = bench.store.revision
    await bench.create("configmaps", {"metadata": {"name": "x", "labels": {"a": "1"}}})

    async def relabel(value: str) -> None:
        await bench.registry.modify(
            bench.ctx, MAPS, "default", "x", lambda o: {**o, "metadata": {**o["metadata"], "labels": {"a": value}}}
        )

    watching = Watching(bench, MAPS, revision=start, label_selector=parse_label_selector("a=1"))
    await watching.settle()
    await relabel("2")
    await relabel("3")
    await relabel("1")
    await bench.delete("configmaps", "x")
    assert [t for t, _ in await watching.settle()] == ["ADDED", "DELETED", "ADDED", "DELETED"]
    await watching.stop()


async def test_watch_of_compacted_history_is_gone(bench: Any) -> None:
    await _many(bench, 3)
    await bench.store.compact(bench.store.revision)
    watching = Watching(bench, MAPS, revision=2)
    await watching.settle()
    assert watching.error is not None and watching.error.code == 410
    await watching.stop()


async def test_raw_bytes_carry_the_revision(bench: Any) -> None:
    made = await bench.create("configmaps", {"metadata": {"name": "x"}})
    got = await bench.get("configmaps", "x")
    assert got.raw == made.raw
    assert f'"resourceVersion":"{made.revision}"'.encode() in got.raw
