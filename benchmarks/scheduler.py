"""The scheduling decision alone: kube-scheduler's own workloads on simulated nodes, no API, no store.

Simulated: nodes and pods are objects made here (`_workloads`). Rates are pods per CPU second of one thread, so that a
busy machine tells the same as an idle one, but for its caches. Measures decisions, not a cluster.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time

import numpy as np

from benchmarks._algorithm import BATCH, columns_of, pending, rate
from benchmarks._loopback import through_the_shell
from benchmarks._workloads import ALL, pod
from benchmarks.frame import Bench, Curve, main, percentile
from cluster.scheduler.decide import Pending, Placement, place
from cluster.scheduler.queue import SchedulingQueue
from cluster.scheduler.shape import shape_of

SIZES = ((5000, 50_000, 300.0), (15_000, 150_000, None), (50_000, 250_000, None), (130_000, 500_000, 8192.0))
"""(nodes, pods, goal of memory in MiB)."""


def _rate_of(batch: list[Pending], nodes: int) -> float:
    """Pods placed per CPU second in batches as the scheduler takes them."""
    columns = columns_of(nodes)
    ties = np.random.default_rng(1).permutation(columns.size)
    begun = time.process_time()
    placed = sum(
        isinstance(o, Placement)
        for start in range(0, len(batch), BATCH)
        for o in place(columns, batch[start : start + BATCH], ties)
    )
    return placed / (time.process_time() - begun)


def _workloads(bench: Bench, nodes: int) -> None:
    for workload in ALL:
        found, count = rate(workload, nodes)
        goal = workload.goal if nodes == 5000 else None
        bench.add(f"{workload.name}, {nodes} nodes", found, "pods/s", samples=count, goal=goal)


def _kinds(bench: Bench, nodes: int, pods: int) -> None:
    """Pods that are all alike, all different, and spread by a Service; and one at a time."""
    big, rng = nodes == 5000, random.Random(1)
    same = [pending(pod(f"p{i}")) for i in range(pods)]
    bench.add(f"identical, {nodes} nodes", _rate_of(same, nodes), "pods/s", samples=pods, goal=20000.0 if big else None)
    mixed = [pending(pod(f"p{i}", f"{rng.randint(50, 150)}m", f"{400 + i % 200}Mi")) for i in range(pods)]
    bench.add(
        f"all different, {nodes} nodes", _rate_of(mixed, nodes), "pods/s", samples=pods, goal=5000.0 if big else None
    )
    by_service = b'{"matchLabels":{"color":"green"}}'
    some = [pending(pod(f"p{i}"), by_service) for i in range(min(pods, 2000))]
    name = f"default spreading of a Service's pods, {nodes} nodes"
    bench.add(name, _rate_of(some, nodes), "pods/s", samples=len(some), goal=2000.0 if big else None)


def _waiting(bench: Bench, pods: int) -> None:
    """What one change costs while so many pods wait that fit nowhere."""
    queue = SchedulingQueue(lambda _group, _plugins: 0)
    refused = frozenset(("NodeResourcesFit",))
    shape = pending(pod("huge", "9")).shape
    for index in range(pods):
        queue.add(("default", f"p{index}"), 0, 0.0)
    for key in queue.pop_batch(pods, 0.0):
        queue.failed(key, queue.cycle(), 0.0, refused, shape)
    times = []
    for index in range(1000):
        now = 1.0 + index / 10
        started = time.process_time()
        queue.cluster_changed(now, refused)
        queue.pop_batch(512, now)
        queue.next_due(now)
        times.append((time.process_time() - started) * 1e6)
    bench.add(f"one change while {pods} wait, p99", percentile(times, 99), "us", samples=len(times))


def _reading(bench: Bench, pods: int) -> None:
    bodies = [pod(f"p{i}") for i in range(pods)]
    started = time.process_time()
    for body in bodies:
        shape_of(body)
    bench.add("a pod into its shape", (time.process_time() - started) / pods * 1e6, "us", samples=pods)


def _size(bench: Bench, costs: list[tuple[float, float]], nodes: int, pods: int, memory_goal: float | None) -> None:
    """A full cluster, in a process of its own. `costs` gets (nodes, ms of one decision)."""
    command = [sys.executable, "-m", "benchmarks._algorithm", str(nodes), str(pods)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    what = f"{nodes} nodes, {pods} pods"
    costs.append((float(nodes), found["one_p50_ms"]))
    bench.add(f"memory, {what}", found["memory_mib"], "MiB", samples=1, goal=memory_goal)
    bench.add(f"filling, {what}", found["pods_per_s"], "pods/s", samples=pods)
    bench.add(f"one decision p50, {what}", found["one_p50_ms"], "ms", samples=300)
    bench.add(f"one decision p99, {what}", found["one_p99_ms"], "ms", samples=300, goal=2.0 if nodes == 5000 else None)


def run(bench: Bench) -> None:
    for nodes in (60,) if bench.smoke else (500, 5000):
        _kinds(bench, nodes, 200 if bench.smoke else 5000)
        _workloads(bench, nodes)
    _waiting(bench, 200 if bench.smoke else 10000)
    costs: list[tuple[float, float]] = []
    for size in ((100, 500, None),) if bench.smoke else SIZES:
        _size(bench, costs, *size)
    bench.curves.append(Curve("cost of one decision", "p50", "nodes", "ms", costs))
    nodes, pods = (100, 200) if bench.smoke else (5000, 10000)
    wall, cpu_us = asyncio.run(through_the_shell(nodes, pods))
    bench.add(f"the scheduler's process, store answering at once, {nodes} nodes", wall, "pods/s", samples=pods)
    bench.add(f"its CPU per pod, {nodes} nodes", cpu_us, "cpu_us", samples=pods)
    _reading(bench, 200 if bench.smoke else 5000)


if __name__ == "__main__":
    main(run, __doc__)
