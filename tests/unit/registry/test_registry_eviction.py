"""Evictions against PodDisruptionBudgets, one by one and racing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.context import UserInfo
from cluster.registry.types import Binding

PODS = SCHEME.named("pods")
BUDGETS = SCHEME.named("poddisruptionbudgets.policy")


async def running(bench: Any, make: Any, name: str, *, ready: bool = True) -> None:
    pod = make.pod(name)
    pod["metadata"]["labels"] = {"app": "a"}
    await bench.create("pods", pod)
    await bench.registry.bind(bench.ctx, [Binding("default", name, "", "m1")])
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]

    def run(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "status": {**obj["status"], "phase": "Running", "conditions": conditions}}

    await bench.registry.modify(bench.ctx, PODS, "default", name, run, subresource="status")


async def budget(bench: Any, allowed: int, *, name: str = "b", healthy: int = 0, wanted: int = 1, **spec: Any) -> None:
    selector = {"matchLabels": {"app": "a"}}
    body = {"metadata": {"name": name}, "spec": {"minAvailable": wanted, "selector": selector, **spec}}
    await bench.create("poddisruptionbudgets.policy", body)
    status = {"disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": wanted}
    status |= {"expectedPods": healthy, "observedGeneration": 1}

    def judge(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "status": status}

    await bench.registry.modify(bench.ctx, BUDGETS, "default", name, judge, subresource="status")


async def evict(bench: Any, name: str, **options: Any) -> Any:
    body: dict[str, Any] = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    if options:
        body["deleteOptions"] = options
    return await bench.create("pods", body, subresource="eviction", name=name)


async def test_an_eviction_takes_a_disruption_and_marks_the_pod(bench: Any, make: Any) -> None:
    await running(bench, make, "p")
    await budget(bench, 1, healthy=2)
    pod = (await evict(bench, "p")).obj
    assert "deletionTimestamp" in pod["metadata"]
    target = next(c for c in pod["status"]["conditions"] if c["type"] == "DisruptionTarget")
    assert target["reason"] == "EvictionByEvictionAPI"
    status = (await bench.get("poddisruptionbudgets.policy", "b")).obj["status"]
    assert status["disruptionsAllowed"] == 0 and list(status["disruptedPods"]) == ["p"]
    assert status["conditions"][0]["reason"] == "InsufficientPods"


async def test_without_a_disruption_left_it_is_refused(bench: Any, make: Any) -> None:
    await running(bench, make, "p")
    await budget(bench, 0, healthy=1)
    with pytest.raises(ApiError) as caught:
        await evict(bench, "p")
    error = caught.value
    assert (error.code, error.reason) == (429, "TooManyRequests")
    assert error.message == "Cannot evict pod as it would violate the pod's disruption budget."
    assert error.details == {
        "causes": [
            {
                "reason": "DisruptionBudget",
                "message": "The disruption budget b needs 1 healthy pods and has 1 currently",
            }
        ]
    }
    assert "deletionTimestamp" not in (await bench.get("pods", "p")).obj["metadata"]


async def test_a_budget_that_was_not_looked_at_yet_refuses(bench: Any, make: Any) -> None:
    await running(bench, make, "p")
    body = {"metadata": {"name": "b"}, "spec": {"minAvailable": 0, "selector": {"matchLabels": {"app": "a"}}}}
    await bench.create("poddisruptionbudgets.policy", body)
    with pytest.raises(ApiError) as caught:
        await evict(bench, "p")
    assert "still being processed" in str(caught.value.details)


async def test_racing_evictions_never_exceed_the_budget(bench: Any, make: Any) -> None:
    names = [f"p{i}" for i in range(8)]
    for name in names:
        await running(bench, make, name)
    await budget(bench, 3, healthy=8, wanted=5)
    outcomes = await asyncio.gather(*(evict(bench, n) for n in names), return_exceptions=True)
    passed = [o for o in outcomes if not isinstance(o, BaseException)]
    assert len(passed) == 3
    assert {o.code for o in outcomes if isinstance(o, ApiError)} == {429}
    pods = [(await bench.get("pods", n)).obj for n in names]
    assert sum("deletionTimestamp" in p["metadata"] for p in pods) == 3
    assert (await bench.get("poddisruptionbudgets.policy", "b")).obj["status"]["disruptionsAllowed"] == 0


async def test_finished_and_pending_pods_need_no_disruption(bench: Any, make: Any) -> None:
    pod = make.pod("p")
    pod["metadata"]["labels"] = {"app": "a"}
    await bench.create("pods", pod)
    await budget(bench, 0)
    assert (await evict(bench, "p")).removed


@pytest.mark.parametrize(
    ("healthy", "policy", "code"),
    [(1, None, 0), (0, None, 429), (0, "AlwaysAllow", 0), (0, "IfHealthyBudget", 429)],
)
async def test_pods_that_are_not_ready(bench: Any, make: Any, healthy: int, policy: str | None, code: int) -> None:
    await running(bench, make, "p", ready=False)
    spec = {"unhealthyPodEvictionPolicy": policy} if policy else {}
    await budget(bench, 0, healthy=healthy, **spec)
    if code:
        with pytest.raises(ApiError) as caught:
            await evict(bench, "p")
        assert caught.value.code == code
    else:
        assert "deletionTimestamp" in (await evict(bench, "p")).obj["metadata"]


async def test_a_budget_that_allows_one_by_now_is_not_judged_by_what_was_known(bench: Any, make: Any) -> None:
    """Regression: `kubectl drain` was told to come back in 10 s."""
    await running(bench, make, "p")
    await budget(bench, 0, healthy=1)
    known = await bench.get(BUDGETS.name, "b")

    def allow(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "status": {**obj["status"], "disruptionsAllowed": 1, "currentHealthy": 2}}

    await bench.registry.modify(bench.ctx, BUDGETS, "default", "b", allow, subresource="status")
    bench.registry.start_from({known.key: known}.get)
    assert "deletionTimestamp" in (await evict(bench, "p")).obj["metadata"]


async def test_two_budgets_are_an_error(bench: Any, make: Any) -> None:
    await running(bench, make, "p")
    await budget(bench, 1)
    await budget(bench, 1, name="c")
    with pytest.raises(ApiError, match="more than one PodDisruptionBudget") as caught:
        await evict(bench, "p")
    assert caught.value.code == 500


async def test_a_precondition_is_judged_before_a_disruption_is_taken(bench: Any, make: Any) -> None:
    await running(bench, make, "p")
    await budget(bench, 1, healthy=2)
    with pytest.raises(ApiError) as caught:
        await evict(bench, "p", preconditions={"uid": "another"})
    assert caught.value.reason == "Conflict"
    assert (await bench.get("poddisruptionbudgets.policy", "b")).obj["status"]["disruptionsAllowed"] == 1


async def test_nodes_and_budgets_without_a_spec_get_an_empty_one(bench: Any) -> None:
    """Controllers read `spec` of every node: one without it stopped them all."""
    assert (await bench.create("nodes", {"metadata": {"name": "n"}}, "")).obj["spec"].get("podCIDR", "") == ""
    made = await bench.create("poddisruptionbudgets.policy", {"metadata": {"name": "b"}})
    assert made.obj["spec"] == {}


async def test_a_machine_evicts_its_own_pods_alone_and_touches_no_other_budget(bench: Any, make: Any) -> None:
    """Regression: refused only at the deletion, it had used up a disruption by then."""
    await running(bench, make, "p")
    await budget(bench, 1, healthy=2)
    admin = bench.ctx
    bench.ctx = replace(admin, user=UserInfo("system:node:m2", groups=("system:nodes", "system:authenticated")))
    with pytest.raises(ApiError) as caught:
        await evict(bench, "p")
    assert caught.value.code == 403
    assert (await bench.get("poddisruptionbudgets.policy", "b")).obj["status"]["disruptionsAllowed"] == 1
    bench.ctx = replace(admin, user=UserInfo("system:node:m1", groups=("system:nodes", "system:authenticated")))
    assert "deletionTimestamp" in (await evict(bench, "p")).obj["metadata"]
