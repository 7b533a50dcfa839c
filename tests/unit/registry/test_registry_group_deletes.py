"""Deletes that are asked for at once: as if each had been asked for alone, with few transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cluster.api.errors import ApiError, FenceLost, service_unavailable
from cluster.api.scheme import SCHEME
from cluster.registry.context import RequestContext
from cluster.registry.types import DeleteOptions, Stored

PODS = SCHEME.named("pods")
SERVICES = SCHEME.named("services")
MAPS = SCHEME.named("configmaps")


async def gone(
    bench: Any, names: Sequence[str], info: Any = PODS, ctx: RequestContext | None = None, **options: Any
) -> list[Any]:
    asked = (
        bench.registry.delete(ctx or bench.ctx, info, "default", name, DeleteOptions(**options), grouped=True)
        for name in names
    )
    return await asyncio.gather(*asked, return_exceptions=True)


def reasons(outcomes: Sequence[Any]) -> list[str]:
    return [one.reason if isinstance(one, ApiError) else "" for one in outcomes]


async def pods(bench: Any, make: Any, count: int, **spec: Any) -> list[str]:
    names = [f"p{i}" for i in range(count)]
    for name in names:
        await bench.create("pods", make.pod(name, **spec))
    return names


def left(bench: Any, plural: str = "pods") -> list[str]:
    return [key.rpartition("/")[2] for key in bench.keys(f"/registry/core/{plural}/")]


async def test_they_share_transactions_and_a_revision(bench: Any, make: Any) -> None:
    names = await pods(bench, make, 150)
    txns = bench.store.txns
    outcomes = await gone(bench, names)
    assert bench.store.txns == txns + 3
    assert left(bench) == []
    assert outcomes[0].removed and outcomes[0].revision == outcomes[63].revision < outcomes[64].revision


async def test_graceful_ones_are_marked_as_each_alone_is(bench: Any, make: Any) -> None:
    names = await pods(bench, make, 3, nodeName="n1")
    alone = (await bench.delete("pods", "p0")).obj
    txns = bench.store.txns
    marked = [one.obj for one in await gone(bench, names[1:])]
    assert bench.store.txns == txns + 1
    for one in marked:
        stored = (await bench.get("pods", one["metadata"]["name"])).obj
        assert one == stored and "deletionTimestamp" in stored["metadata"]
        assert stored["metadata"].keys() == alone["metadata"].keys()


async def test_what_is_wrong_with_one_is_its_own(bench: Any, make: Any) -> None:
    await pods(bench, make, 3)
    asked: list[tuple[str, dict[str, Any]]] = [
        ("p0", {}),
        ("nobody", {}),
        ("p1", {"uid": "another"}),
        ("p2", {"propagation": "Sideways"}),
    ]
    deletes = [
        bench.registry.delete(bench.ctx, PODS, "default", name, DeleteOptions(**options), grouped=True)
        for name, options in asked
    ]
    outcomes = await asyncio.gather(*deletes, return_exceptions=True)
    assert reasons(outcomes) == ["", "NotFound", "Conflict", "Invalid"]
    assert left(bench) == ["p1", "p2"]


async def test_one_that_changed_meanwhile_holds_up_nobody(bench: Any, make: Any, monkeypatch: Any) -> None:
    names = await pods(bench, make, 4)
    core, read, changed = bench.registry._core, bench.registry._core.read, False

    async def overtaken(key: bytes, **options: Any) -> Any:
        nonlocal changed
        stored = await read(key, **options)
        if not changed and key.endswith(b"/p2"):
            changed = True
            other = bench.another()
            pod = stored.fresh()
            pod["metadata"]["labels"] = {"late": "yes"}
            await other.update(bench.ctx, PODS, "default", "p2", pod)
        return stored

    monkeypatch.setattr(core, "read", overtaken)
    outcomes = await gone(bench, names)
    assert reasons(outcomes) == [""] * 4 and left(bench) == []
    assert outcomes[2].obj["metadata"]["labels"] == {"late": "yes"}


async def test_one_object_asked_for_twice_goes_once(bench: Any, make: Any) -> None:
    await pods(bench, make, 2)
    assert sorted(reasons(await gone(bench, ["p0", "p1", "p0"]))) == ["", "", "NotFound"]


async def test_what_quotas_count_is_given_back(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "100"}}})
    names = await pods(bench, make, 70)
    assert reasons(await gone(bench, names)) == [""] * 70
    assert (await bench.get("resourcequotas", "q")).obj["status"]["used"] == {"pods": "0"}


async def test_services_give_their_addresses_back(bench: Any, make: Any) -> None:
    for name in "ab":
        await bench.create("services", make.service(name))
    assert reasons(await gone(bench, ["a", "b"], SERVICES)) == ["", ""]
    assert bench.keys("/registry/networking.k8s.io/ipaddresses/") == []


async def test_finalizers_and_propagation_are_each_ones_own(bench: Any) -> None:
    names = ("held", "free")
    for name in names:
        meta = {"name": name} | ({"finalizers": ["example.com/held"]} if name == "held" else {})
        await bench.create("configmaps", {"metadata": meta})
    await gone(bench, ["held", "free"], MAPS, propagation="Foreground")
    finalizers = {
        name: (await bench.get("configmaps", name)).obj["metadata"]["finalizers"] for name in ("held", "free")
    }
    assert finalizers == {"held": ["example.com/held", "foregroundDeletion"], "free": ["foregroundDeletion"]}


async def test_a_collection_goes_with_few_transactions(bench: Any, make: Any) -> None:
    await pods(bench, make, 100)
    txns = bench.store.txns
    found = await bench.registry.delete_collection(bench.ctx, PODS, "default", DeleteOptions())
    assert len(found.items) == 100 and left(bench) == []
    assert bench.store.txns == txns + 2


async def test_who_no_longer_leads_deletes_nothing(bench: Any, make: Any) -> None:
    names = await pods(bench, make, 3)
    ctx = bench.ctx.with_fence((b"/sk8/leader/x", "create", "=", 7))
    outcomes = await gone(bench, names, ctx=ctx)
    assert all(isinstance(one, FenceLost) for one in outcomes)
    assert left(bench) == names


async def test_a_store_that_is_away_is_told_to_all_and_the_next_are_served(
    bench: Any, make: Any, monkeypatch: Any
) -> None:
    names = await pods(bench, make, 4)
    txn = bench.store.txn

    async def away(*args: Any, **options: Any) -> Any:
        raise service_unavailable("the store is electing")

    monkeypatch.setattr(bench.store, "txn", away)
    assert reasons(await gone(bench, names)) == ["ServiceUnavailable"] * 4
    monkeypatch.setattr(bench.store, "txn", txn)
    assert reasons(await gone(bench, names)) == [""] * 4


async def test_who_gives_up_waiting_leaves_the_others_alone(bench: Any, make: Any) -> None:
    names = await pods(bench, make, 3)
    tasks = [asyncio.create_task(coroutine) for coroutine in (gone(bench, [name]) for name in names)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    outcomes: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert [reasons(one) for one in (outcomes[0], outcomes[2])] == [[""], [""]]


async def test_who_asks_soon_after_the_last_was_answered_is_served(bench: Any, make: Any) -> None:
    """At whichever turn of the loop: he must not rely on a worker that has seen that nobody waits."""
    async with asyncio.timeout(60):
        for turns, name in enumerate(await pods(bench, make, 12)):
            await bench.registry.delete(bench.ctx, PODS, "default", name, DeleteOptions(), grouped=True)
            for _ in range(turns):
                await asyncio.sleep(0)
    assert left(bench) == []


async def test_a_fault_of_ones_own_is_raised_to_those_it_met(bench: Any, make: Any, monkeypatch: Any) -> None:
    """And not lost with the task that met it: nobody would ever be answered again."""
    names = await pods(bench, make, 2)

    def broken(*args: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(bench.registry._writer, "release", broken)
    outcomes = await gone(bench, names)
    assert [type(one) for one in outcomes] == [RuntimeError] * 2
    monkeypatch.undo()
    assert reasons(await gone(bench, names)) == ["", ""]


async def test_what_breaks_over_one_is_its_own(bench: Any, make: Any, monkeypatch: Any) -> None:
    names = await pods(bench, make, 3)
    release = bench.registry._writer.release

    async def broken(ctx: Any, info: Any, obj: Any, plan: Any) -> Any:
        if obj["metadata"]["name"] == "p1":
            raise RuntimeError("broken")
        return await release(ctx, info, obj, plan)

    monkeypatch.setattr(bench.registry._writer, "release", broken)
    txns = bench.store.txns
    outcomes = await gone(bench, names)
    assert [type(one) for one in outcomes] == [Stored, RuntimeError, Stored]
    assert bench.store.txns == txns + 1 and left(bench) == ["p1"]


@pytest.mark.parametrize("grace", [10**12, 2**63 - 1])
async def test_a_grace_without_end_ends_in_some_centuries(bench: Any, make: Any, grace: int) -> None:
    """Kubernetes bounds neither field; what it adds to a time is bounded."""
    await bench.create("pods", make.pod("p0", nodeName="n1", terminationGracePeriodSeconds=grace))
    await bench.create("pods", make.pod("p1", nodeName="n1"))
    for options in ({}, {"grace_period_s": grace}):
        assert reasons(await gone(bench, ["p0", "p1"], **options)) == ["", ""]
    metadata = (await bench.get("pods", "p0")).obj["metadata"]
    assert (
        metadata["deletionTimestamp"].startswith("2316-") and metadata["deletionGracePeriodSeconds"] == 2**63 // 10**9
    )
    assert reasons(await gone(bench, ["p0", "p1"], grace_period_s=0)) == ["", ""] and left(bench) == []


async def test_large_ones_take_as_many_transactions_as_they_need(bench: Any, make: Any) -> None:
    names = [f"p{i}" for i in range(8)]
    for name in names:
        pod = make.pod(name, nodeName="n1")
        pod["metadata"]["annotations"] = {"long": "x" * 200_000}
        await bench.create("pods", pod)
    txns = bench.store.txns
    assert reasons(await gone(bench, names)) == [""] * 8
    assert bench.store.txns == txns + 4


async def test_who_waits_for_a_webhook_keeps_nobody_else_waiting(bench: Any, make: Any) -> None:
    rule = {"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    hook = {"name": "a.example.com", "clientConfig": {"url": "https://x"}, "rules": [rule], "sideEffects": "None"}
    hook |= {"admissionReviewVersions": ["v1"], "objectSelector": {"matchLabels": {"slow": "yes"}}}
    await bench.create(
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        {"metadata": {"name": "c"}, "webhooks": [hook]},
        "",
    )
    slow = make.pod("slow")
    slow["metadata"]["labels"] = {"slow": "yes"}
    await bench.create("pods", slow)
    names = await pods(bench, make, 3)
    asked, answered = asyncio.Event(), asyncio.Event()

    async def call(client: Any, body: Any, timeout_s: float) -> Any:
        asked.set()
        await answered.wait()
        response = {"uid": body["request"]["uid"], "allowed": True}
        return {"kind": "AdmissionReview", "apiVersion": body["apiVersion"], "response": response}

    bench.registry.webhooks.call = call
    async with asyncio.timeout(60):
        waiting = asyncio.create_task(gone(bench, ["slow", "p0"]))
        await asked.wait()
        assert reasons(await gone(bench, names[1:])) == ["", ""]
        answered.set()
        assert reasons(await waiting) == ["", ""]
    assert left(bench) == []


async def test_what_nobody_waits_for_any_more_is_left(bench: Any, make: Any, monkeypatch: Any) -> None:
    """They asked while a transaction was under way, and have gone before theirs began."""
    names = await pods(bench, make, 3)
    txn, begun, held = bench.store.txn, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **options: Any) -> Any:
        begun.set()
        await held.wait()
        return await txn(*args, **options)

    monkeypatch.setattr(bench.store, "txn", slow)
    async with asyncio.timeout(60):
        first = asyncio.create_task(gone(bench, names[:1]))
        await begun.wait()
        others = [asyncio.create_task(gone(bench, [name])) for name in names[1:]]
        while len(bench.registry._group_deleter._waiting) < 2:
            await asyncio.sleep(0)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        held.set()
        assert reasons(await first) == [""]
        while bench.registry._group_deleter._tasks:
            await asyncio.sleep(0)
    assert left(bench) == names[1:]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_dry_run_deletes_nothing(bench: Any, make: Any, count: int) -> None:
    names = await pods(bench, make, count)
    ctx = RequestContext(bench.ctx.user, dry_run=True)
    assert reasons(await gone(bench, names, ctx=ctx)) == [""] * count
    assert left(bench) == names
