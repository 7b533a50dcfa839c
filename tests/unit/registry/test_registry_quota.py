"""ResourceQuota is exact: whoever writes, from however many processes, whatever happens in between."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.types import DeleteOptions
from tests.support.api_errors import refusal

PODS = SCHEME.named("pods")


def _quota(name: str = "q", hard: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"hard": hard or {"pods": "2"}, **spec}}


async def _used(bench: Any, name: str = "q") -> dict[str, str]:
    used: dict[str, str] = (await bench.get("resourcequotas", name)).obj["status"]["used"]
    return used


async def test_a_quota_counts_what_is_there_and_stops_at_its_limit(bench: Any, make: Any) -> None:
    await bench.create("pods", make.pod("a"))
    await bench.create("resourcequotas", _quota())
    assert (await bench.get("resourcequotas", "q")).obj["status"] == {"hard": {"pods": "2"}, "used": {"pods": "1"}}
    await bench.create("pods", make.pod("b"))
    e = await refusal(bench.create("pods", make.pod("c")))
    assert (e.code, e.message) == (
        403,
        'pods "c" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2',
    )
    await bench.delete("pods", "a")
    assert await _used(bench) == {"pods": "1"}
    await bench.create("pods", make.pod("c"))
    assert await _used(bench) == {"pods": "2"}


async def test_racing_processes_leave_exactly_as_many_as_allowed(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", _quota(hard={"pods": "40", "count/pods": "1k"}))
    registries = [bench.another() for _ in range(4)]
    for n, r in enumerate(registries):
        r._core.rng = random.Random(n)

    async def one(i: int) -> bool:
        try:
            await registries[i % 4].create(bench.ctx, PODS, "default", make.pod(f"p{i}"))
        except ApiError as e:
            assert "exceeded quota: q, requested: pods=1, used: pods=40, limited: pods=40" in e.message
            return False
        return True

    made = await asyncio.gather(*(one(i) for i in range(400)))
    assert sum(made) == 40 == len(bench.keys("/registry/core/pods/default/"))
    assert await _used(bench) == {"pods": "40", "count/pods": "40"}


async def test_a_process_that_meets_a_quota_by_many_writes_at_once_charges_them_together(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", _quota(hard={"pods": "100"}))
    fresh, before = bench.another(), bench.store.txns
    await asyncio.gather(*(fresh.create(bench.ctx, PODS, "default", make.pod(f"p{i}")) for i in range(50)))
    assert await _used(bench) == {"pods": "50"}
    assert bench.store.txns - before < 4 * 50  # were each on its own, they would contend: some 50 x 50


async def test_creates_and_deletes_in_any_order_keep_the_books(bench: Any, make: Any) -> None:
    """The ledger and what is stored agree at the end of any interleaving, also with quotas that come meanwhile."""
    registries = [bench.another() for _ in range(3)]
    rng = random.Random(11)

    async def worker(n: int) -> None:
        mine = registries[n % 3]
        mine._core.rng = random.Random(100 + n)
        for i in range(12):
            name = f"p{n}-{i}"
            try:
                await mine.create(bench.ctx, PODS, "default", make.pod(name))
            except ApiError as e:
                assert "exceeded quota" in e.message, e.message
                continue
            await asyncio.sleep(0)
            if rng.random() < 0.5:
                await registries[(n + 1) % 3].delete(bench.ctx, PODS, "default", name, DeleteOptions())

    async def limits() -> None:
        for i in range(3):
            await asyncio.sleep(0)
            quota = _quota(f"q{i}", {"pods": str(30 + i)})
            await registries[i].create(bench.ctx, SCHEME.named("resourcequotas"), "default", quota)

    await asyncio.gather(*(worker(n) for n in range(8)), limits())
    stored = len(bench.keys("/registry/core/pods/default/"))
    assert stored <= 30
    for i in range(3):
        assert await _used(bench, f"q{i}") == {"pods": str(stored)}, i


async def test_a_pod_that_ends_gives_back(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", _quota(hard={"pods": "1", "count/pods": "5"}))
    await bench.create("pods", make.pod("a"))

    def over(pod: dict[str, Any]) -> dict[str, Any]:
        return {**pod, "status": {**pod["status"], "phase": "Succeeded"}}

    await bench.registry.modify(bench.ctx, PODS, "default", "a", over, subresource="status")
    assert await _used(bench) == {"pods": "0", "count/pods": "1"}
    await bench.create("pods", make.pod("b"))
    await bench.delete("pods", "a")
    assert await _used(bench) == {"pods": "1", "count/pods": "1"}


async def test_compute_is_added_up_and_must_be_said(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", _quota(hard={"requests.cpu": "1", "limits.memory": "1Gi"}))
    e = await refusal(bench.create("pods", make.pod("p")))
    assert e.message == (
        'pods "p" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c'
    )

    def sized(name: str, cpu: str) -> dict[str, Any]:
        resources = {"requests": {"cpu": cpu}, "limits": {"memory": "256Mi"}}
        pod: dict[str, Any] = make.pod(name, containers=[{"name": "c", "image": "i", "resources": resources}])
        return pod

    await bench.create("pods", sized("a", "700m"))
    assert await _used(bench) == {"requests.cpu": "700m", "limits.memory": "256Mi"}
    e = await refusal(bench.create("pods", sized("b", "400m")))
    assert e.message == (
        'pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=400m, used: requests.cpu=700m, limited: '
        "requests.cpu=1"
    )


async def test_scoped_quotas_count_their_own(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", _quota("best", {"pods": "1"}, scopes=["BestEffort"]))
    resources = {"requests": {"cpu": "1m"}}
    await bench.create("pods", make.pod("a", containers=[{"name": "c", "image": "i", "resources": resources}]))
    await bench.create("pods", make.pod("b"))
    assert await _used(bench, "best") == {"pods": "1"}
    assert "exceeded quota: best" in (await refusal(bench.create("pods", make.pod("c")))).message


async def test_ports_storage_and_counts_of_any_kind(bench: Any, make: Any) -> None:
    hard = {"services.nodeports": "1", "count/deployments.apps": "1", "requests.storage": "3Gi", "secrets": "1"}
    await bench.create("resourcequotas", _quota(hard=hard))
    await bench.create("services", make.service("s"))

    def node_port(service: dict[str, Any]) -> dict[str, Any]:
        spec = {**service["spec"], "type": "NodePort", "ports": [{"port": 80}, {"name": "b", "port": 81}]}
        spec["ports"][0]["name"] = "a"
        return {**service, "spec": spec}

    e = await refusal(bench.registry.modify(bench.ctx, SCHEME.named("services"), "default", "s", node_port))
    assert "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0" in e.message
    assert bench.keys("/sk8/alloc/nodeports/") == [], "what was refused took nothing"
    await bench.create("deployments.apps", make.deployment())
    assert (await refusal(bench.create("deployments.apps", make.deployment("e")))).message == (
        'deployments.apps "e" is forbidden: exceeded quota: q, requested: count/deployments.apps=1, used: '
        "count/deployments.apps=1, limited: count/deployments.apps=1"
    )
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
    await bench.create("persistentvolumeclaims", {"metadata": {"name": "c"}, "spec": spec})
    e = await refusal(bench.create("persistentvolumeclaims", {"metadata": {"name": "d"}, "spec": spec}))
    assert "requested: requests.storage=2Gi, used: requests.storage=2Gi, limited: requests.storage=3Gi" in e.message


async def test_a_quota_that_changes_or_goes(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", _quota())
    await bench.create("pods", make.pod("a"))
    info = SCHEME.named("resourcequotas")

    def lower(quota: dict[str, Any]) -> dict[str, Any]:
        return {**quota, "spec": {"hard": {"pods": "1", "count/pods": "9", "configmaps": "0"}}}

    await bench.registry.modify(bench.ctx, info, "default", "q", lower)
    assert await _used(bench) == {"pods": "1", "count/pods": "1", "configmaps": "0"}
    assert "limited: pods=1" in (await refusal(bench.create("pods", make.pod("b")))).message
    await bench.delete("resourcequotas", "q")
    assert bench.keys("/sk8/quota/") == []
    await bench.create("pods", make.pod("b"))


@pytest.mark.parametrize("place", [0, 40, 80])
async def test_a_quota_goes_together_with_what_it_counts(bench: Any, make: Any, place: int) -> None:
    """As when a namespace is emptied: one API server deletes both at the same time, in whatever order they come in."""
    await bench.create("resourcequotas", _quota(hard={"count/configmaps": "100"}))
    for i in range(80):
        await bench.create("configmaps", {"metadata": {"name": f"c{i}"}, "data": {"n": str(i)}})
    doomed = [("configmaps", f"c{i}") for i in range(80)]
    doomed.insert(place, ("resourcequotas", "q"))
    await asyncio.gather(*(bench.delete(resource, name) for resource, name in doomed))
    assert bench.keys("/registry/core/configmaps/default/") == bench.keys("/registry/core/resourcequotas/") == []
    await bench.create("configmaps", {"metadata": {"name": "c"}})


async def test_a_dry_run_is_refused_and_costs_nothing(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", _quota(hard={"pods": "1"}))
    real, bench.ctx = bench.ctx, replace(bench.ctx, dry_run=True)
    await bench.create("pods", make.pod("a"))
    assert await _used(bench) == {"pods": "0"}
    bench.ctx = real
    await bench.create("pods", make.pod("a"))
    bench.ctx = replace(bench.ctx, dry_run=True)
    assert "exceeded quota" in (await refusal(bench.create("pods", make.pod("b")))).message


async def test_a_wrong_ledger_is_put_right(bench: Any, make: Any) -> None:
    await bench.create("resourcequotas", _quota(hard={"pods": "5"}))
    await bench.create("pods", make.pod("a"))

    def forge(quota: dict[str, Any]) -> dict[str, Any]:
        return {**quota, "status": {**quota["status"], "used": {"pods": "4"}}}

    info = SCHEME.named("resourcequotas")
    await bench.registry.modify(bench.ctx, info, "default", "q", forge, subresource="status")
    assert await _used(bench) == {"pods": "4"}
    await bench.registry.recount_quota(bench.ctx, "default", "q")
    assert await _used(bench) == {"pods": "1"}
