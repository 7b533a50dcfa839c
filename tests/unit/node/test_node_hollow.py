"""Hollow nodes against a registry in memory: they register, run pods, end them, and the next fleet takes over."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cluster.machinery.registry_client import RegistryClient
from cluster.node.hollow.fleet import HollowFleet
from cluster.node.hollow.node import LABEL, HollowSpec
from cluster.registry.context import MASTERS, RequestContext
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from tests.support.memory_store import MemoryStore

Obj = dict[str, Any]
SPEC = HollowSpec(zones=("a", "b"), labels={"disk": "none"})


@pytest.fixture
async def client() -> RegistryClient:
    registry = Registry(MemoryStore(), RegistryConfig(), clock=time.time, rng=random.Random(7))
    made = RegistryClient(registry, lambda: RequestContext(user=MASTERS, field_manager="test"))
    for namespace in ("default", "kube-node-lease"):
        meta = {"name": namespace}
        await made.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await made.create("serviceaccounts", account, "default")
    return made


@contextlib.asynccontextmanager
async def running(client: RegistryClient, nodes: int = 3) -> AsyncIterator[HollowFleet]:
    fleet = HollowFleet(client, nodes, SPEC, clock=time.time)
    task = asyncio.create_task(fleet.run())
    try:
        async with asyncio.timeout(60):
            await fleet.ready.wait()
        yield fleet
        assert not task.done() or task.result() is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(60):
        while True:
            answer = await look()
            if answer:
                return answer
            await asyncio.sleep(0.01)


async def make(client: RegistryClient, name: str, node: str = "hollow-1", notes: Obj | None = None, **spec: Any) -> Obj:
    meta = {"name": name, "namespace": "default", "annotations": notes or {}}
    containers = [{"name": "c", "image": "registry.example/app:1"}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta}
    return await client.create("pods", {**pod, "spec": {"nodeName": node, "containers": containers, **spec}}, "default")


def in_phase(client: RegistryClient, name: str, phase: str) -> Callable[[], Awaitable[Obj | None]]:
    async def look() -> Obj | None:
        pod = await client.get("pods", name, "default")
        return pod if (pod.get("status") or {}).get("phase") == phase else None

    return look


async def test_nodes_say_that_they_are_hollow_and_are_ready(client: RegistryClient) -> None:
    async with running(client):
        nodes = {n["metadata"]["name"]: n for n in (await client.list("nodes")).items}
        assert sorted(nodes) == ["hollow-0", "hollow-1", "hollow-2"]
        node = nodes["hollow-1"]
        assert node["metadata"]["labels"][LABEL] == "true" and node["metadata"]["labels"]["disk"] == "none"
        assert node["metadata"]["labels"]["topology.kubernetes.io/zone"] == "b"
        assert node["status"]["nodeInfo"]["containerRuntimeVersion"] == "hollow://1"
        assert [a["type"] for a in node["status"]["addresses"]] == ["Hostname"]
        assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"
        assert {"key": LABEL, "value": "true", "effect": "NoSchedule"} in node["spec"]["taints"]
        lease = await until(lambda: _lease(client, "hollow-0"))
        assert lease["spec"]["holderIdentity"] == "hollow-0" and lease["spec"]["leaseDurationSeconds"] == 40


async def _lease(client: RegistryClient, name: str) -> Obj | None:
    leases = (await client.list("leases.coordination.k8s.io", "kube-node-lease")).items
    return next((lease for lease in leases if lease["metadata"]["name"] == name), None)


async def test_a_pod_runs_and_is_deleted_by_the_real_cores(client: RegistryClient) -> None:
    async with running(client):
        probe = {"httpGet": {"path": "/", "port": 80}}
        containers = [{"name": "c", "image": "app:1", "readinessProbe": probe}]
        await make(client, "p", containers=containers, initContainers=[{"name": "i", "image": "init:1"}])
        status = (await until(in_phase(client, "p", "Running")))["status"]
        await until(lambda: _ready(client, "p"))
        assert status["podIP"].startswith("100.64.") and "hostIP" not in status
        assert status["containerStatuses"][0]["containerID"].startswith("hollow://")
        assert status["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
        await client.delete("pods", "p", "default")
        await until(lambda: _none_left(client))


async def _ready(client: RegistryClient, name: str) -> bool:
    conditions = (await client.get("pods", name, "default"))["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def _none_left(client: RegistryClient) -> bool:
    return not (await client.list("pods")).items


@pytest.mark.parametrize(("code", "phase"), [("0", "Succeeded"), ("3", "Failed")])
async def test_annotations_say_how_a_pod_ends(client: RegistryClient, code: str, phase: str) -> None:
    async with running(client, 2):
        notes = {"sk8.io/hollow-run-seconds": "0.01", "sk8.io/hollow-exit-code": code}
        await make(client, "job", notes=notes, restartPolicy="Never")
        pod = await until(in_phase(client, "job", phase))
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == int(code)


async def test_a_pod_that_does_not_fit_is_rejected_as_by_any_kubelet(client: RegistryClient) -> None:
    async with running(client, 2):
        resources = {"requests": {"cpu": "9"}}
        await make(client, "big", containers=[{"name": "c", "image": "a", "resources": resources}])
        pod = await until(in_phase(client, "big", "Failed"))
        assert pod["status"]["reason"] == "OutOfcpu"


async def test_the_next_fleet_takes_over_what_runs(client: RegistryClient) -> None:
    async with running(client):
        await make(client, "p")
        before = (await until(in_phase(client, "p", "Running")))["status"]
    async with running(client) as fleet:
        await make(client, "q")
        second = (await until(in_phase(client, "q", "Running")))["status"]
        after = (await client.get("pods", "p", "default"))["status"]
        assert after["containerStatuses"] == before["containerStatuses"]
        assert second["podIP"] != after["podIP"] == before["podIP"]
        await client.delete("pods", "p", "default")
        await client.delete("pods", "q", "default")
        await until(lambda: _none_left(client))
        await fleet.remove()
        assert not (await client.list("nodes")).items
