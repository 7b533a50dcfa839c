"""The scheduling decision alone: batches of pods placed on simulated nodes, no API, no store.

Simulated: nodes and pods are objects made here (4 CPU, 32 GiB, 110 pods; 100m and 500 MiB), with the templates of
kube-scheduler's own benchmark where it has one of that name. Reading a pod into a shape is not counted, it is a row of
its own. Measures decisions, not a cluster.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

from benchmarks.frame import Bench, main, percentile
from cluster.machinery.client import Binding, BindOutcomes, Client, ObjectList, WatchEvent
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.config import DEFAULT, SchedulerConfig
from cluster.scheduler.decide import Pending, Placement, diagnose, place
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.preempt import Candidate, preempt
from cluster.scheduler.queue import SchedulingQueue
from cluster.scheduler.scheduler import Scheduler
from cluster.scheduler.shape import shape_of

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_COLOR = {"matchLabels": {"color": "green"}}
Obj = dict[str, Any]


def node(index: int) -> Obj:
    labels = {HOST: f"n{index}", ZONE: f"z{index % 3}"}
    return {
        "metadata": {"name": f"n{index}", "labels": labels},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
    }


def pod(index: int, cpu: str = "100m", **spec: Any) -> Obj:
    requests = {"cpu": cpu, "memory": "500Mi"}
    labels = {"color": "green"}
    return {
        "metadata": {"name": f"p{index}", "namespace": "default", "uid": f"u{index}", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}], **spec},
    }


def _term(key: str) -> Obj:
    return {"labelSelector": _COLOR, "topologyKey": key, "namespaces": ["default"]}


def _spread(when: str, key: str, skew: int) -> list[Obj]:
    return [{"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": when, "labelSelector": _COLOR}]


WORKLOADS: dict[str, tuple[Obj, float]] = {
    "PodAntiAffinity": ({"affinity": {"podAntiAffinity": {_REQUIRED: [_term(HOST)]}}}, 2000),
    "PodAffinity": ({"affinity": {"podAffinity": {_REQUIRED: [_term(ZONE)]}}}, 2000),
    "PreferredPodAffinity": (
        {"affinity": {"podAffinity": {_PREFERRED: [{"weight": 1, "podAffinityTerm": _term(HOST)}]}}},
        2000,
    ),
    "PreferredPodAntiAffinity": (
        {"affinity": {"podAntiAffinity": {_PREFERRED: [{"weight": 1, "podAffinityTerm": _term(HOST)}]}}},
        2000,
    ),
    "TopologySpreading": ({"topologySpreadConstraints": _spread("DoNotSchedule", ZONE, 5)}, 2000),
    "TopologySpreading by host": ({"topologySpreadConstraints": _spread("DoNotSchedule", HOST, 1)}, 2000),
    "PreferredTopologySpreading": ({"topologySpreadConstraints": _spread("ScheduleAnyway", ZONE, 5)}, 2000),
}
"""Name -> (what the pods' spec adds, goal in pods/s at 5,000 nodes)."""


def pending(body: Obj, spread: bytes = b"", priority: int = 0) -> Pending:
    meta = body["metadata"]
    key = (meta["namespace"], meta["name"])
    return Pending(meta["uid"], key, shape_of(body, spread), priority=priority)


def cluster_of(nodes: int) -> NodeColumns:
    columns = NodeColumns(nodes)
    for index in range(nodes):
        columns.set_node(node(index))
    return columns


def rate_of(columns: NodeColumns, batch: list[Pending], step: int = 512) -> float:
    """Pods placed per second in batches as the scheduler takes them."""
    order = random.Random(1).sample(range(columns.size), columns.size)
    ties = columns.label(HOST).codes.copy()
    ties[:] = order
    started = time.perf_counter()
    placed = sum(
        isinstance(o, Placement)
        for start in range(0, len(batch), step)
        for o in place(columns, batch[start : start + step], ties)
    )
    return placed / (time.perf_counter() - started)


def _latency(bench: Bench, name: str, columns: NodeColumns, batch: list[Pending], goal: float | None) -> None:
    times = []
    for one in batch:
        started = time.perf_counter()
        place(columns, [one])
        times.append((time.perf_counter() - started) * 1000)
    bench.add(f"{name} p50", percentile(times, 50), "ms", samples=len(times))
    bench.add(f"{name} p99", percentile(times, 99), "ms", samples=len(times), goal=goal)


def _decisions(bench: Bench, nodes: int, pods: int) -> None:
    big, rng = nodes == 5000, random.Random(1)

    def goal(value: float) -> float | None:
        return value if big else None

    same = [pending(pod(i)) for i in range(pods)]
    bench.add(f"identical, {nodes} nodes", rate_of(cluster_of(nodes), same), "pods/s", samples=pods, goal=goal(20000))
    mixed = [pending(pod(i, f"{rng.randint(50, 150)}m")) for i in range(pods)]
    columns = cluster_of(nodes)
    bench.add(f"all different, {nodes} nodes", rate_of(columns, mixed), "pods/s", samples=pods, goal=goal(5000))
    late = [pending(pod(pods + i, f"{rng.randint(50, 150)}m")) for i in range(min(pods, 1000))]
    _latency(bench, f"one decision, {nodes} nodes", columns, late, goal(2.0))
    by_service = b'{"matchLabels":{"color":"green"}}'
    some = min(pods, 2000)
    spread = [pending(pod(i), by_service) for i in range(some)]
    name = f"default spreading of a Service's pods, {nodes} nodes"
    bench.add(name, rate_of(cluster_of(nodes), spread), "pods/s", samples=some, goal=goal(2000))
    for workload, (extra, wanted) in WORKLOADS.items():
        some = min(pods, 2000, nodes)
        batch = [pending(pod(i, **extra)) for i in range(some)]
        rate = rate_of(cluster_of(nodes), batch)
        bench.add(f"{workload}, {nodes} nodes", rate, "pods/s", samples=some, goal=goal(wanted))


def _preemption(bench: Bench, nodes: int, pods: int) -> None:
    """Every node full of four low pods; each high pod wants three quarters of one."""
    columns, waiting = cluster_of(nodes), Nominations()
    for index in range(nodes * 4):
        body = pod(index, "900m")
        key = ("default", body["metadata"]["name"])
        columns.place_pod(body["metadata"]["uid"], f"n{index // 4}", shape_of(body), key=key, priority=1)
    batch = [pending(pod(nodes * 4 + i, "3"), priority=10) for i in range(pods)]
    started, found = time.perf_counter(), 0
    for one in batch:
        answer = preempt(columns, one, diagnose(columns, one, DEFAULT, waiting).resolvable, DEFAULT, waiting)
        if isinstance(answer, Candidate):
            found += 1
            waiting.set(one.uid, answer.node, one.shape, one.priority)
    rate = found / (time.perf_counter() - started)
    bench.add(f"Preemption (victims chosen), {nodes} nodes", rate, "pods/s", samples=pods)


def _unschedulable(bench: Bench, nodes: int, pods: int) -> None:
    """Pods that fit nowhere: the first refusal of all, then what one change costs while they wait."""
    columns = cluster_of(nodes)
    batch = [pending(pod(i, "9")) for i in range(pods)]
    started = time.perf_counter()
    place(columns, batch)
    bench.add(f"Unschedulable, {nodes} nodes", pods / (time.perf_counter() - started), "pods/s", samples=pods)
    queue = SchedulingQueue(lambda _group, _plugins: 0)
    refused = frozenset(("NodeResourcesFit",))
    for one in batch:
        queue.add(one.key, 0, 0.0)
    for key in queue.pop_batch(pods, 0.0):
        queue.failed(key, queue.cycle(), 0.0, refused, batch[0].shape)
    times = []
    for index in range(1000):
        now = 1.0 + index / 10
        started = time.perf_counter()
        queue.cluster_changed(now, refused)
        queue.pop_batch(512, now)
        queue.next_due(now)
        times.append((time.perf_counter() - started) * 1e6)
    bench.add(f"one change while {pods} wait, p99", percentile(times, 99), "us", samples=len(times))


def _reading(bench: Bench, pods: int) -> None:
    bodies = [pod(i) for i in range(pods)]
    readers: tuple[tuple[str, Callable[[Obj], object]], ...] = (("a pod into its shape", shape_of),)
    for name, read in readers:
        started = time.perf_counter()
        for body in bodies:
            read(body)
        bench.add(name, (time.perf_counter() - started) / pods * 1e6, "us", samples=pods)


class _Loopback:
    """A Client that answers at once: binds come back as watch events. No store, no API."""

    def __init__(self, nodes: int) -> None:
        self._nodes = [node(i) for i in range(nodes)]
        self._streams: dict[str, asyncio.Queue[WatchEvent]] = {}
        self._pods: dict[str, Obj] = {}
        self._revision = 10
        self._left = 0
        self.done = asyncio.Event()

    def _send(self, kind: str, body: Obj) -> None:
        self._revision += 1
        meta = body["metadata"] | {"resourceVersion": str(self._revision)}
        self._pods[meta["name"]] = body | {"metadata": meta}
        self._streams["pods"].put_nowait(WatchEvent(kind, self._pods[meta["name"]]))

    def submit(self, body: Obj) -> None:
        self._left += 1
        self._send("ADDED", body)

    async def list(self, resource: str, namespace: str = "", **_: str) -> ObjectList:
        self._streams.setdefault(resource, asyncio.Queue())
        return ObjectList(self._nodes if resource == "nodes" else [], "1")

    async def watch(self, resource: str, namespace: str = "", **_: str) -> AsyncIterator[WatchEvent]:
        while True:
            yield await self._streams[resource].get()

    async def bind(self, bindings: Sequence[Binding], *, together: bool = False) -> BindOutcomes:
        for one in bindings:
            body = self._pods[one.name]
            self._send("MODIFIED", body | {"spec": body["spec"] | {"nodeName": one.node}})
        self._left -= len(bindings)
        if not self._left:
            self.done.set()
        return [None] * len(bindings)

    async def create(self, resource: str, obj: Obj, namespace: str = "", **_: str) -> Obj:
        return obj

    async def patch(self, resource: str, name: str, patch: Any, namespace: str = "", **_: str) -> Obj:
        return {}


async def _through_the_shell(nodes: int, pods: int) -> tuple[float, float]:
    """(pods/s, CPU microseconds per pod) from watch event to bind, events and metrics included."""
    client = _Loopback(nodes)

    leading = asyncio.Event()

    async def lead(work: Callable[[], Awaitable[None]]) -> None:
        leading.set()
        await work()

    scheduler = Scheduler(SchedulerConfig(), cast("Client", client), lead, rng=random.Random(1))
    task = asyncio.create_task(scheduler.run())
    await leading.wait()
    bodies = [pod(i) | {"apiVersion": "v1", "kind": "Pod"} for i in range(pods)]
    wall, cpu = time.perf_counter(), time.process_time()
    for index, body in enumerate(bodies):
        if index % 200 == 199:
            await asyncio.sleep(0)
        client.submit(body)
        client.done.clear()
    await client.done.wait()
    result = pods / (time.perf_counter() - wall), (time.process_time() - cpu) / pods * 1e6
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return result


def run(bench: Bench) -> None:
    for nodes in (100,) if bench.smoke else (500, 5000):
        pods = 200 if bench.smoke else 5000
        _decisions(bench, nodes, pods)
        _preemption(bench, nodes, 20 if bench.smoke else 200)
        _unschedulable(bench, nodes, 200 if bench.smoke else 10000)
    nodes, pods = (100, 200) if bench.smoke else (5000, 10000)
    rate, cpu_us = asyncio.run(_through_the_shell(nodes, pods))
    bench.add(f"the scheduler's process, store answering at once, {nodes} nodes", rate, "pods/s", samples=pods)
    bench.add(f"its CPU per pod, {nodes} nodes", cpu_us, "cpu_us", samples=pods)
    _reading(bench, 200 if bench.smoke else 5000)


if __name__ == "__main__":
    main(run, __doc__)
