"""What goes wrong between a decision and its bind, and crowds that fit nowhere: no pod lost, none bound twice, no node
overcommitted, and the others unhurt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cluster.api.errors import service_unavailable, timeout
from cluster.machinery.client import Binding
from cluster.scheduler import metrics
from tests.unit.scheduler.shell import Cluster

Bind = Callable[..., Awaitable[Any]]


@pytest.fixture
def before_bind(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Bind, Any], Any]], None]:
    """Put something between the scheduler's first decision and its bind."""
    bind = cluster.client.bind

    def put(what: Callable[[Bind, Any], Any]) -> None:
        done = False

        async def intercepted(bindings: list[Binding], **options: Any) -> Any:
            nonlocal done
            if done:
                return await bind(bindings, **options)
            done = True
            return await what(bind, bindings)

        monkeypatch.setattr(cluster.client, "bind", intercepted)

    return put


def attempts(result: str) -> float:
    return metrics.ATTEMPTS.labels(result, "default-scheduler")._value.get()


async def test_a_node_deleted_between_decision_and_bind(cluster: Cluster, before_bind: Any) -> None:
    """As in Kubernetes the pod is the pod collector's then; the picture of the cluster stays whole."""

    async def delete_node(bind: Bind, bindings: list[Binding]) -> Any:
        await cluster.client.delete("nodes", bindings[0].node)
        for _ in range(200):
            if cluster.scheduler.health()["nodes"] == 1:
                break
            await cluster.pause()
        return await bind(bindings)

    for name in "ab":
        await cluster.node(name, cpu="2")
    before_bind(delete_node)
    await cluster.pod("p1", cpu="2")
    gone = await cluster.bound("p1")
    left = ({"a", "b"} - {gone}).pop()
    await cluster.pod("p2", cpu="2")
    assert await cluster.bound("p2") == left


async def test_another_bound_it_meanwhile(cluster: Cluster, before_bind: Any) -> None:
    """The picture was stale: the other's bind stands, and its room is counted where the pod is."""

    async def overtaken(bind: Bind, bindings: list[Binding]) -> Any:
        other = "b" if bindings[0].node == "a" else "a"
        await bind([Binding("default", "p1", "", other)])
        return await bind(bindings)

    for name in "ab":
        await cluster.node(name, cpu="2")
    before_bind(overtaken)
    await cluster.pod("p1", cpu="2")
    taken = await cluster.bound("p1")
    await cluster.pod("p2", cpu="2")
    assert await cluster.bound("p2") != taken


async def test_a_pod_deleted_meanwhile_leaves_its_room(cluster: Cluster, before_bind: Any) -> None:
    """Regression: a pod that was refused while room came free backed off, and nobody woke when its time had come."""

    async def deleted(bind: Bind, bindings: list[Binding]) -> Any:
        await cluster.client.delete("pods", "p1", "default", grace_period_s=0)
        return await bind(bindings)

    await cluster.node("a", cpu="2")
    before_bind(deleted)
    await cluster.pod("p1", cpu="2")
    await cluster.pod("p2", cpu="2")
    assert await cluster.bound("p2") == "a"


@pytest.mark.parametrize("written", [True, False])
async def test_a_bind_whose_outcome_is_unknown_is_read_back(cluster: Cluster, before_bind: Any, written: bool) -> None:
    """The store lost its leader in mid-burst: the answer is a time-out, whether it was written or not."""

    async def cut_off(bind: Bind, bindings: list[Binding]) -> Any:
        if written:
            await bind(bindings)
        raise timeout("outcome unknown")

    await cluster.node("a", cpu="4")
    before_bind(cut_off)
    for i in range(4):
        await cluster.pod(f"p{i}", cpu="1")
    assert [await cluster.bound(f"p{i}") for i in range(4)] == ["a"] * 4
    await cluster.pod("late", cpu="1")
    assert "Insufficient cpu" in await cluster.refused("late")


async def test_a_store_that_is_away_is_tried_again(cluster: Cluster, before_bind: Any) -> None:
    async def away(_: Bind, __: list[Binding]) -> Any:
        raise service_unavailable("no leader")

    await cluster.node("a", cpu="1")
    before_bind(away)
    await cluster.pod("p1", cpu="1")
    assert await cluster.bound("p1") == "a"


# ---- crowds and contradictions


async def test_a_crowd_that_fits_nowhere_costs_the_others_nothing(cluster: Cluster) -> None:
    """Changes that cannot help it are not even looked at, and one that might is looked at once for all of them."""
    crowd = 1000
    await cluster.node("a", cpu="4")
    for i in range(crowd):
        await cluster.pod(f"huge{i}", cpu="64")
    for _ in range(3000):
        if cluster.scheduler.health()["pending"]["unschedulable"] == crowd:  # type: ignore[index]
            break
        await cluster.pause()
    before = attempts("unschedulable")
    for i in range(4):
        await cluster.pod(f"p{i}", cpu="1")
        assert await cluster.bound(f"p{i}") == "a"
        await cluster.client.delete("pods", f"p{i}", "default", grace_period_s=0)
        await cluster.client.patch("nodes", "a", {"metadata": {"labels": {"touched": str(i)}}})
    assert attempts("unschedulable") == before
    assert cluster.scheduler.health()["pending"]["unschedulable"] == crowd  # type: ignore[index]


async def test_contradictions_are_said(cluster: Cluster) -> None:
    await cluster.node("a")
    wanted = [{"key": "x", "operator": "In", "values": ["1"]}, {"key": "x", "operator": "NotIn", "values": ["1"]}]
    terms = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    await cluster.pod("p1", affinity={"nodeAffinity": {required: terms}})
    assert "1 node(s) didn't match Pod's node affinity/selector" in await cluster.refused("p1")
    term = {"labelSelector": {"matchLabels": {"app": "y"}}, "topologyKey": "kubernetes.io/hostname"}
    both = {"podAffinity": {required: [term]}, "podAntiAffinity": {required: [term]}}
    await cluster.pod("y1", affinity=both)
    assert await cluster.bound("y1") == "a", "the first of its kind"
    await cluster.pod("y2", affinity=both)
    assert "1 node(s) didn't match pod anti-affinity rules" in await cluster.refused("y2")
