"""Claims that wait for their first consumer, and limits of nodes, through the scheduler's shell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.scheduler.shell import Cluster

CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
HOST = "kubernetes.io/hostname"
DRIVER = "d.example.com"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster.running() as made:
        for name in "ab":
            await made.node(name)
        for name, provisioner in (("hand", "kubernetes.io/no-provisioner"), ("made", "x")):
            body = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
            body |= {"provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"}
            await made.client.create("storageclasses.storage.k8s.io", body)
        yield made


async def claim(cluster: Cluster, name: str, storage_class: str) -> None:
    spec = {"storageClassName": storage_class, "accessModes": ["ReadWriteOnce"]}
    spec["resources"] = {"requests": {"storage": "1Gi"}}  # type: ignore[assignment]
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
    await cluster.client.create(CLAIMS, body, "default")


async def volume(cluster: Cluster, name: str, node: str, **source: Any) -> None:
    expression = {"key": HOST, "operator": "In", "values": [node]}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "hand"}
    spec |= {"nodeAffinity": affinity, **(source or {"local": {"path": "/x"}})}
    body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
    made = await cluster.client.create(VOLUMES, body)
    await cluster.client.update(VOLUMES, made | {"status": {"phase": "Available"}}, subresource="status")


async def pod(cluster: Cluster, name: str, *claims: str, **spec: Any) -> None:
    volumes = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims]
    await cluster.pod(name, volumes=volumes, **spec)


async def reserved_for(cluster: Cluster, claim_name: str) -> str:
    """The volume that was reserved for the claim."""
    async with asyncio.timeout(10):
        while True:
            for one in (await cluster.client.list(VOLUMES)).items:
                if (one["spec"].get("claimRef") or {}).get("name") == claim_name:
                    return str(one["metadata"]["name"])
            await asyncio.sleep(0.01)


async def bind(cluster: Cluster, claim_name: str, volume_name: str) -> None:
    """What the volume controller does, which does not run here."""
    bound = await cluster.client.patch(CLAIMS, claim_name, {"spec": {"volumeName": volume_name}}, "default")
    await cluster.client.update(CLAIMS, bound | {"status": {"phase": "Bound"}}, subresource="status")


async def test_a_volume_that_the_chosen_node_reaches_is_reserved(cluster: Cluster) -> None:
    await volume(cluster, "on-b", "b")
    await claim(cluster, "data", "hand")
    await pod(cluster, "p1", "data")
    assert await reserved_for(cluster, "data") == "on-b"
    claimed = await cluster.client.get(VOLUMES, "on-b")
    data = await cluster.client.get(CLAIMS, "data", "default")
    assert claimed["spec"]["claimRef"]["uid"] == data["metadata"]["uid"]
    assert claimed["metadata"]["annotations"] == {"pv.kubernetes.io/bound-by-controller": "yes"}
    assert "volume.kubernetes.io/selected-node" not in (data["metadata"].get("annotations") or {})
    await bind(cluster, "data", "on-b")
    assert await cluster.bound("p1") == "b"


async def test_two_pods_never_count_on_one_volume(cluster: Cluster) -> None:
    await volume(cluster, "on-a", "a")
    for i in (1, 2):
        await claim(cluster, f"data{i}", "hand")
    for i in (1, 2):
        await pod(cluster, f"p{i}", f"data{i}")
    message = await cluster.refused("p2")
    assert "2 node(s) didn't find available persistent volumes to bind" in message
    assert await reserved_for(cluster, "data1") == "on-a"
    await volume(cluster, "on-b", "b")
    assert await reserved_for(cluster, "data2") == "on-b"


async def test_a_pod_that_waits_for_its_volume_keeps_its_room(cluster: Cluster) -> None:
    await claim(cluster, "data", "made")
    await pod(cluster, "p1", "data", cpu="4", nodeSelector={HOST: "a"})
    async with asyncio.timeout(10):
        while await selected_node(cluster, "data") != "a":
            await asyncio.sleep(0.01)
    await cluster.pod("p2", cpu="3", nodeSelector={HOST: "a"})
    assert "1 Insufficient cpu" in await cluster.refused("p2")
    await volume(cluster, "made", "a")
    await bind(cluster, "data", "made")
    assert await cluster.bound("p1") == "a"


async def test_csinodes_limit_how_many_volumes_a_node_takes(cluster: Cluster) -> None:
    for name, count in (("a", 1), ("b", 0)):
        drivers = [{"name": DRIVER, "nodeID": name, "topologyKeys": [], "allocatable": {"count": count}}]
        body = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name}}
        await cluster.client.create("csinodes.storage.k8s.io", body | {"spec": {"drivers": drivers}})
    for i in (1, 2):
        csi = {"driver": DRIVER, "volumeHandle": f"h{i}"}
        body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"v{i}"}}
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": csi}
        await cluster.client.create(VOLUMES, body | {"spec": spec | {"storageClassName": "hand"}})
        await claim(cluster, f"data{i}", "hand")
        await bind(cluster, f"data{i}", f"v{i}")
    await pod(cluster, "p1", "data1")
    assert await cluster.bound("p1") == "a"
    await pod(cluster, "p2", "data2")
    assert "2 node(s) exceed max volume count" in await cluster.refused("p2")
    await cluster.client.delete("pods", "p1", "default", grace_period_s=0)
    assert await cluster.bound("p2") == "a"


async def test_a_driver_that_tells_its_capacity_gets_no_volume_that_it_has_no_room_for(cluster: Cluster) -> None:
    driver = {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "x"}}
    await cluster.client.create("csidrivers.storage.k8s.io", driver | {"spec": {"storageCapacity": True}})
    await claim(cluster, "data", "made")
    await pod(cluster, "p1", "data")
    assert "2 node(s) did not have enough free storage" in await cluster.refused("p1")
    room = {"apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity", "metadata": {"name": "c1"}}
    room |= {"storageClassName": "made", "nodeTopology": {"matchLabels": {HOST: "b"}}, "capacity": "100Mi"}
    made = await cluster.client.create("csistoragecapacities.storage.k8s.io", room, "default")
    await cluster.client.update("csistoragecapacities.storage.k8s.io", made | {"capacity": "10Gi"})
    async with asyncio.timeout(10):
        while (await selected_node(cluster, "data")) != "b":
            await asyncio.sleep(0.01)


async def selected_node(cluster: Cluster, claim_name: str) -> str:
    found = await cluster.client.get(CLAIMS, claim_name, "default")
    return str((found["metadata"].get("annotations") or {}).get("volume.kubernetes.io/selected-node"))
