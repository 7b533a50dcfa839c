"""The scheduler over a registry on an in-memory store: binds, affinity, preemption, gates, nodes that come late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.scheduler import scores
from tests.unit.scheduler.shell import Cluster


async def test_binds_and_says_why_not(cluster: Cluster) -> None:
    await cluster.node("a", cpu="2")
    await cluster.pod("p1", cpu="1")
    assert await cluster.bound("p1") == "a"
    await cluster.pod("p2", cpu="3")
    assert await cluster.refused("p2") == (
        "0/1 nodes are available: 1 Insufficient cpu. "
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )
    await cluster.node("b", cpu="4")
    assert await cluster.bound("p2") == "b"


async def test_room_set_free_is_used(cluster: Cluster) -> None:
    await cluster.node("a", cpu="2")
    await cluster.pod("p1", cpu="2")
    await cluster.bound("p1")
    await cluster.pod("p2", cpu="2")
    assert "No preemption victims found for incoming pod" in await cluster.refused("p2")
    await cluster.client.delete("pods", "p1", "default", grace_period_s=0)
    assert await cluster.bound("p2") == "a"


async def test_anti_affinity_both_ways(cluster: Cluster) -> None:
    for name in "ab":
        await cluster.node(name)
    term = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    await cluster.pod("y1", affinity=apart)
    first = await cluster.bound("y1")
    await cluster.pod("x1")
    assert await cluster.bound("x1") != first
    await cluster.pod("y2", affinity=apart)
    assert await cluster.bound("y2") == first


async def test_preempts_the_less_important(cluster: Cluster) -> None:
    await cluster.node("a", cpu="2")
    await cluster.pod("p1", cpu="1", priority="low")
    await cluster.bound("p1")
    await cluster.pod("p2", cpu="1", priority="high")
    await cluster.bound("p2")
    await cluster.pod("p3", cpu="1", priority="high")
    victim = await cluster.until("p1", lambda p: "deletionTimestamp" in p["metadata"])
    conditions = {c["type"]: c for c in victim["status"]["conditions"]}
    assert conditions["DisruptionTarget"]["reason"] == "PreemptionByScheduler"
    waiting = await cluster.until("p3", lambda p: bool(p.get("status", {}).get("nominatedNodeName")))
    assert waiting["status"]["nominatedNodeName"] == "a"
    await cluster.client.delete("pods", "p1", "default", grace_period_s=0)
    assert await cluster.bound("p3") == "a"


async def test_never_preempting_pod_waits(cluster: Cluster) -> None:
    await cluster.node("a", cpu="1")
    await cluster.pod("p1", cpu="1", priority="low")
    await cluster.bound("p1")
    await cluster.pod("p2", cpu="1", priority="polite")
    assert "not eligible due to preemptionPolicy=Never." in await cluster.refused("p2")


async def test_gates_and_foreign_schedulers_are_respected(cluster: Cluster) -> None:
    await cluster.node("a")
    await cluster.pod("g1", schedulingGates=[{"name": "wait"}])
    await cluster.pod("f1", schedulerName="another")
    await cluster.pod("p1")
    await cluster.bound("p1")
    assert not (await cluster.client.get("pods", "f1", "default"))["spec"].get("nodeName")
    assert cluster.scheduler.health()["pending"]["gated"] == 1  # type: ignore[index]
    await cluster.client.patch(
        "pods", "g1", [{"op": "remove", "path": "/spec/schedulingGates"}], "default", kind="json"
    )
    assert await cluster.bound("g1") == "a"


async def test_pod_of_a_node_that_comes_later_takes_its_room(cluster: Cluster) -> None:
    await cluster.pod("p1", cpu="2", nodeName="late")
    await cluster.node("late", cpu="2")
    await cluster.node("b", cpu="1")
    await cluster.pod("p2", cpu="1")
    assert await cluster.bound("p2") == "b"


async def test_waits_for_its_volume_and_is_bound_at_once_when_it_is_there(cluster: Cluster) -> None:
    await cluster.node("a")
    storage = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late"}}
    storage |= {"provisioner": "x", "volumeBindingMode": "WaitForFirstConsumer"}
    await cluster.client.create("storageclasses.storage.k8s.io", storage)
    spec = {"storageClassName": "late", "accessModes": ["ReadWriteOnce"]}
    spec |= {"resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "default"}}
    await cluster.client.create("persistentvolumeclaims", claim | {"spec": spec}, "default")
    await cluster.pod("p1", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}])
    async with asyncio.timeout(10):
        while True:
            found = await cluster.client.get("persistentvolumeclaims", "data", "default")
            if "volume.kubernetes.io/selected-node" in (found["metadata"].get("annotations") or {}):
                break
            await asyncio.sleep(0.01)
    source = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": source}
    await cluster.client.create("persistentvolumes", volume)
    bound = await cluster.client.patch("persistentvolumeclaims", "data", {"spec": {"volumeName": "pv"}}, "default")
    bound = bound | {"status": {"phase": "Bound"}}
    await cluster.client.update("persistentvolumeclaims", bound, subresource="status")
    assert await cluster.bound("p1") == "a"


async def test_waits_while_there_is_no_node_at_all(cluster: Cluster) -> None:
    await cluster.pod("p1", cpu="1")
    await cluster.refused("p1")
    await cluster.node("a")
    assert await cluster.bound("p1") == "a"


async def test_leadership_lost_in_mid_burst_loses_no_pod(cluster: Cluster) -> None:
    for name in "abc":
        await cluster.node(name, cpu="40")
    for i in range(60):
        await cluster.pod(f"p{i}", cpu="1")
        if i in (20, 40):
            await cluster.office.lose()
            assert cluster.scheduler.health()["leading"] is False
            cluster.office.held.set()
    nodes = [await cluster.bound(f"p{i}") for i in range(60)]
    assert {nodes.count(name) for name in "abc"} == {20}


async def test_a_raising_plugin_stops_only_the_pod_it_raises_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = scores.USAGE["NodeResourcesFit"]

    def picky(columns: Any, shape: Any, *more: Any) -> Any:
        if ("app", "b") in shape.labels:
            raise RuntimeError("cannot score b")
        return whole(columns, shape, *more)

    monkeypatch.setitem(scores.USAGE, "NodeResourcesFit", picky)
    for name in ("a1", "b1", "a2"):
        await cluster.pod(name, schedulingGates=[{"name": "wait"}])
    await cluster.node("n")
    for name in ("a1", "b1", "a2"):
        change = [{"op": "remove", "path": "/spec/schedulingGates"}]
        await cluster.client.patch("pods", name, change, "default", kind="json")
    assert await cluster.bound("a1") == await cluster.bound("a2") == "n"
    assert "cannot score b" in await cluster.refused("b1")
    assert "deciding 1 pods failed" in caplog.text
