"""The controllers alone: what a pod, an endpoint, an idle Deployment and a restart cost them.

All controllers run over `_memory_api`, so the CPU is theirs and the informers': no registry, no store, no network, and
pods run as soon as they are made. CPU seconds of the one process, since the machine may be busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncIterator
from typing import Any

from benchmarks._memory_api import MemoryApi
from benchmarks.frame import Bench, main, percentile
from cluster.controllers.config import ControllerConfig
from cluster.controllers.env import Env
from cluster.controllers.manager import build
from cluster.machinery.client import Obj
from cluster.machinery.informer import Informers
from cluster.machinery.write_through import WriteThrough

IDLE_S = 5.0


@contextlib.asynccontextmanager
async def running(api: MemoryApi) -> AsyncIterator[None]:
    """All controllers, caught up with what the API has."""
    informers = Informers(api)
    rng = random.Random(1)
    patient = ControllerConfig(node_monitor_grace_period_s=1e6, node_startup_grace_period_s=1e6)  # no heartbeats here
    env = Env(WriteThrough(api, informers), informers, patient, time.time, rng)
    controllers = build(env)
    tasks = [asyncio.create_task(informers.run())]
    await informers.wait_synced()
    tasks += [asyncio.create_task(c.run()) for c in controllers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def quiet(api: MemoryApi) -> None:
    """Until nothing was written for a while."""
    before = -1
    while before != api.writes:
        before = api.writes
        await asyncio.sleep(0.3)


def deployment(name: str, replicas: int) -> Obj:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "nginx:1.21"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def service(name: str) -> Obj:
    spec = {"selector": {"app": name}, "ports": [{"port": 80}], "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"]}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def _cluster() -> MemoryApi:
    """A namespace, and the node that all pods are on: the collector deletes pods of a node that is not there."""
    api = MemoryApi()
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    await api.create("nodes", {"metadata": {"name": "n1"}, "spec": {}, "status": ready})
    await api.create("namespaces", {"metadata": {"name": "default"}, "spec": {}, "status": {"phase": "Active"}})
    return api


async def _scale(bench: Bench, pods: int) -> None:
    """From none to `pods` and back, a Service in front."""
    api = await _cluster()
    async with running(api):
        await api.create("services", service("web"), "default")
        await api.create("deployments.apps", deployment("web", 0), "default")
        await quiet(api)
        begun, started = time.process_time(), time.perf_counter()
        await api.patch("deployments.apps", "web", {"spec": {"replicas": pods}}, "default")
        await api.until(lambda: api.size("pods") == pods)
        up_s = time.perf_counter() - started
        await quiet(api)
        await api.patch("deployments.apps", "web", {"spec": {"replicas": 0}}, "default")
        await api.until(lambda: api.size("pods") == 0)
        await quiet(api)
        cpu_us = (time.process_time() - begun) * 1e6 / pods
    bench.add(f"scale 0 to {pods} to 0, per pod", cpu_us, "cpu_us", samples=pods, goal=1000.0)
    bench.add(f"pods made of {pods} replicas", up_s, "s", samples=1)


async def _endpoints(bench: Bench, pods: int, changes: int) -> None:
    """From a pod's change to the slice that says so, one at a time."""
    api = await _cluster()
    times: list[float] = []
    async with running(api):
        await api.create("services", service("web"), "default")
        await api.create("deployments.apps", deployment("web", pods), "default")
        await api.until(lambda: api.size("pods") == pods)
        await quiet(api)
        for pod in (await api.list("pods")).items[:changes]:
            seen = await _unready(api, pod)
            await api.update("pods", seen, subresource="status")
            started = time.perf_counter()
            address = seen["status"]["podIP"]
            await api.until(functools.partial(_shown_unready, api, address))
            times.append((time.perf_counter() - started) * 1e3)
    bench.add(f"endpoint of {pods} in its slice, p99", percentile(times, 99), "ms", samples=len(times), goal=20.0)


async def _unready(api: MemoryApi, pod: Obj) -> Obj:
    current = await api.get("pods", pod["metadata"]["name"], "default")
    condition = {**current["status"]["conditions"][0], "status": "False"}
    return {**current, "status": {**current["status"], "conditions": [condition]}}


def _shown_unready(api: MemoryApi, address: str) -> bool:
    for slice_ in api.all("endpointslices.discovery.k8s.io"):
        for endpoint in slice_.get("endpoints") or ():
            if endpoint["addresses"] == [address]:
                return not endpoint["conditions"]["ready"]
    return False


async def _idle(bench: Bench, deployments: int) -> None:
    api = await _cluster()
    async with running(api):
        for i in range(deployments):
            await api.create("deployments.apps", deployment(f"d{i}", 1), "default")
        await api.until(lambda: api.size("pods") == deployments)
        await quiet(api)
        begun = time.process_time()
        await asyncio.sleep(IDLE_S)
        share = (time.process_time() - begun) / IDLE_S * 100
    bench.add(f"{deployments} Deployments idle, share of a core", share, "cpu_percent", samples=1, goal=1.0)


async def _restart(bench: Bench, pods: int) -> None:
    """A second instance over what the first one made: listed, and each key looked at once, without a write."""
    api = await _cluster()
    size = 500
    async with running(api):
        for i in range(pods // size):
            await api.create("deployments.apps", deployment(f"d{i}", size), "default")
        await api.until(lambda: api.size("pods") == pods)
        await quiet(api)
    before, begun = api.writes, time.process_time()
    async with running(api):
        await quiet(api)
        cpu_s = time.process_time() - begun
    bench.add(f"restart with {pods} pods, CPU", cpu_s, "s", samples=1, goal=5.0)
    bench.note(f"restart with {pods} pods: {api.writes - before} writes")


def run(bench: Bench) -> None:
    parts: list[tuple[Any, ...]] = [(_scale, 1000), (_endpoints, 100, 50), (_idle, 1000), (_restart, 50_000)]
    if bench.smoke:
        parts = [(_scale, 20), (_endpoints, 20, 5), (_idle, 5), (_restart, 500)]
    for part, *sizes in parts:
        asyncio.run(part(bench, *sizes))


if __name__ == "__main__":
    main(run, __doc__)
