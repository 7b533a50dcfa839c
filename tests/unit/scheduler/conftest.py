"""A running scheduler for the tests of its shell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.scheduler.shell import Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    for name, value, policy in (("high", 1000, "PreemptLowerPriority"), ("polite", 1000, "Never"), ("low", 10, "")):
        body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
        body |= {"value": value} | ({"preemptionPolicy": policy} if policy else {})
        await made.client.create("priorityclasses.scheduling.k8s.io", body)
    await made.client.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}}
    await made.client.create("serviceaccounts", account, "default")
    task = asyncio.create_task(made.scheduler.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
