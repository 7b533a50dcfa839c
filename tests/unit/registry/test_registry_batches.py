"""Many objects created with few transactions: as if each had been created alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError, FenceLost, service_unavailable
from cluster.api.scheme import SCHEME
from cluster.registry.writing import Writer

EVENTS = SCHEME.named("events")
PODS = SCHEME.named("pods")


def event(name: str, namespace: str = "default", about: str = "") -> dict[str, Any]:
    involved = {"kind": "Pod", "name": "p", "namespace": about or namespace}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "reason": "R",
        "type": "Normal",
    }


def pod(name: str = "", generate: str = "") -> dict[str, Any]:
    meta = {"namespace": "default"} | ({"name": name} if name else {"generateName": generate})
    return {"metadata": meta, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}


async def create_all(bench: Any, *objects: dict[str, Any], resource: str = "events") -> list[str]:
    outcomes = await bench.registry.create_all(bench.ctx, SCHEME.named(resource), objects)
    return [one.reason if isinstance(one, ApiError) else "" for one in outcomes]


async def test_events_share_a_transaction_and_a_revision(bench: Any) -> None:
    txns = bench.store.txns
    assert await create_all(bench, *(event(f"e{i}") for i in range(50))) == [""] * 50
    assert bench.store.txns == txns + 1
    first, last = (await bench.get("events", "e0")), (await bench.get("events", "e49"))
    assert first.revision == last.revision
    assert first.obj["metadata"]["managedFields"][0]["manager"] == "test"
    alone = await bench.create("events", event("alone"))
    assert {k: type(v) for k, v in first.obj["metadata"].items()} == {
        k: type(v) for k, v in alone.obj["metadata"].items()
    }


async def test_what_is_wrong_with_one_is_its_own(bench: Any) -> None:
    await bench.create("events", event("taken"))
    mixed = event("a"), event("taken"), event("b", namespace="nowhere"), event("c", about="kube-system"), event("d")
    assert await create_all(bench, *mixed) == ["", "AlreadyExists", "NotFound", "Invalid", ""]
    assert bench.keys("/registry/core/events/") == [
        "/registry/core/events/default/a",
        "/registry/core/events/default/d",
        "/registry/core/events/default/taken",
    ]


async def test_what_was_stored_is_answered_as_one_created_alone_is(bench: Any) -> None:
    made = await bench.registry.create_all(bench.ctx, PODS, [pod(f"p{i}") for i in range(3)])
    for one in made:
        stored = await bench.get("pods", one.obj["metadata"]["name"])
        assert (one.raw, one.obj, one.revision, one.uid) == (stored.raw, stored.obj, stored.revision, stored.uid)


async def test_more_than_fit_a_transaction_take_several(bench: Any) -> None:
    txns = bench.store.txns
    assert await create_all(bench, *(event(f"e{i}") for i in range(150))) == [""] * 150
    assert bench.store.txns == txns + 3
    large = [{**event(f"large{i}"), "message": "x" * 900} for i in range(64)]
    for one in large:
        one["metadata"]["annotations"] = {"a": "x" * 16_000}
    assert await create_all(bench, *large) == [""] * 64
    assert bench.store.txns == txns + 3 + 3


async def test_names_are_generated_and_one_that_is_taken_generated_anew(bench: Any, monkeypatch: Any) -> None:
    """The names drawn: two alike in one batch, and one that was there before."""
    drawn = iter(["aaaaa", "bbbbb", "aaaaa", "taken", "ccccc", "ddddd"])
    monkeypatch.setattr(Writer, "_generate", lambda self, prefix: prefix + next(drawn))
    await bench.create("pods", pod("web-taken"))
    assert await create_all(bench, *(pod(generate="web-") for _ in range(4)), resource="pods") == [""] * 4
    names = sorted(key.rpartition("/")[2] for key in bench.keys("/registry/core/pods/"))
    assert names == ["web-aaaaa", "web-bbbbb", "web-ccccc", "web-ddddd", "web-taken"]


async def test_pods_of_a_namespace_without_quota_share_a_transaction(bench: Any) -> None:
    txns = bench.store.txns
    assert await create_all(bench, *(pod(generate="web-") for _ in range(40)), resource="pods") == [""] * 40
    assert bench.store.txns == txns + 1


async def test_pods_of_a_namespace_with_a_quota_are_all_charged(bench: Any) -> None:
    await bench.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "10"}}})
    outcomes = await create_all(bench, *(pod(generate="web-") for _ in range(12)), resource="pods")
    assert sorted(outcomes) == [""] * 10 + ["Forbidden"] * 2
    assert (await bench.get("resourcequotas", "q")).obj["status"]["used"] == {"pods": "10"}
    assert await create_all(bench, pod(generate="web-"), resource="pods") == ["Forbidden"]


async def test_what_keeps_admission_from_being_asked_is_raised_as_it_is(bench: Any, monkeypatch: Any) -> None:
    """Not in an exception group, which no caller would take for a store that elects."""

    async def electing() -> bool:
        raise service_unavailable("the store is electing")

    monkeypatch.setattr(bench.registry._admission, "quiet", electing)
    with pytest.raises(ApiError, match="electing"):
        await bench.registry.create_all(bench.ctx, EVENTS, [event("a")])


async def test_others_are_served_while_many_are_made_ready(bench: Any) -> None:
    """A flood of Events must not keep its process from anything else until the last of them is ready."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    assert await create_all(bench, *(event(f"e{i}") for i in range(60))) == [""] * 60
    task.cancel()
    assert turns >= 10


async def test_what_a_quota_may_count_is_charged_one_by_one(bench: Any) -> None:
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "2"}}}
    await bench.create("resourcequotas", quota)
    objects = [{"metadata": {"name": name, "namespace": "default"}} for name in "abc"]
    outcomes = await create_all(bench, *objects, resource="configmaps")
    assert sorted(outcomes) == ["", "", "Forbidden"]


async def test_a_dry_run_writes_nothing(bench: Any) -> None:
    ctx = replace(bench.ctx, dry_run=True)
    (shown,) = await bench.registry.create_all(ctx, EVENTS, [event("a")])
    assert shown.obj["metadata"]["name"] == "a" and "resourceVersion" not in shown.obj["metadata"]
    assert bench.keys("/registry/core/events/") == []


async def test_who_no_longer_leads_writes_nothing(bench: Any) -> None:
    ctx = bench.ctx.with_fence((b"/sk8/leader/x", "create", "=", 7))
    with pytest.raises(FenceLost):
        await bench.registry.create_all(ctx, EVENTS, [event("a")])
    with pytest.raises(ApiError):
        await bench.get("events", "a")
