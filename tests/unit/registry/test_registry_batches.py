"""Many objects created with one transaction: as if each had been created alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError, FenceLost
from cluster.api.scheme import SCHEME

EVENTS = SCHEME.named("events")


def event(name: str, namespace: str = "default", about: str = "") -> dict[str, Any]:
    involved = {"kind": "Pod", "name": "p", "namespace": about or namespace}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "reason": "R",
        "type": "Normal",
    }


async def create_all(bench: Any, *objects: dict[str, Any], resource: str = "events") -> list[str]:
    outcomes = await bench.registry.create_all(bench.ctx, SCHEME.named(resource), objects)
    return ["" if one is None else one.reason for one in outcomes]


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


async def test_what_a_quota_may_count_is_charged_one_by_one(bench: Any) -> None:
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "2"}}}
    await bench.create("resourcequotas", quota)
    objects = [{"metadata": {"name": name, "namespace": "default"}} for name in "abc"]
    outcomes = await create_all(bench, *objects, resource="configmaps")
    assert sorted(outcomes) == ["", "", "Forbidden"]


async def test_a_dry_run_writes_nothing(bench: Any) -> None:
    ctx = replace(bench.ctx, dry_run=True)
    assert await bench.registry.create_all(ctx, EVENTS, [event("a")]) == [None]
    assert bench.keys("/registry/core/events/") == []


async def test_who_no_longer_leads_writes_nothing(bench: Any) -> None:
    ctx = bench.ctx.with_fence((b"/sk8/leader/x", "create", "=", 7))
    with pytest.raises(FenceLost):
        await bench.registry.create_all(ctx, EVENTS, [event("a")])
    with pytest.raises(ApiError):
        await bench.get("events", "a")
