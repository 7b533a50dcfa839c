"""The scheduling decision alone: batches of pods placed on simulated nodes, no API, no store.

Simulated: nodes and pods are objects made here (4 CPU, 32 GiB, 110 pods; 100m and 500 MiB), as kube-scheduler's
SchedulingBasic has them. Measures decisions, not a cluster.
"""

from __future__ import annotations

import random
import time
from typing import Any

from benchmarks.frame import Bench, main, percentile
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.decide import Pending, Placement, place
from cluster.scheduler.shape import shape_of


def node(index: int) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": f"n{index}", "topology.kubernetes.io/zone": f"z{index % 3}"}
    return {
        "metadata": {"name": f"n{index}", "labels": labels},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
    }


def pod(index: int, cpu: str) -> dict[str, Any]:
    requests = {"cpu": cpu, "memory": "500Mi"}
    return {
        "metadata": {"name": f"p{index}", "namespace": "default", "uid": f"u{index}"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]},
    }


def pending(body: dict[str, Any]) -> Pending:
    meta = body["metadata"]
    return Pending(meta["uid"], (meta["namespace"], meta["name"]), shape_of(body))


def cluster_of(nodes: int) -> NodeColumns:
    columns = NodeColumns(nodes)
    for index in range(nodes):
        columns.set_node(node(index))
    return columns


def run(bench: Bench) -> None:
    for nodes in (100,) if bench.smoke else (500, 5000):
        pods = 200 if bench.smoke else 5000
        columns = cluster_of(nodes)
        batch = [pending(pod(i, "100m")) for i in range(pods)]
        started = time.perf_counter()
        placed = sum(
            isinstance(o, Placement)
            for start in range(0, pods, 512)
            for o in place(columns, batch[start : start + 512])
        )
        rate = placed / (time.perf_counter() - started)
        bench.add(
            f"identical pods, {nodes} nodes", rate, "pods/s", samples=placed, goal=20000 if nodes == 5000 else None
        )
        columns, rng, times = cluster_of(nodes), random.Random(1), []
        for index in range(min(pods, 1000)):
            one = [pending(pod(index, f"{rng.randint(50, 150)}m"))]
            started = time.perf_counter()
            place(columns, one)
            times.append((time.perf_counter() - started) * 1000)
        bench.add(f"one decision, all different, {nodes} nodes p50", percentile(times, 50), "ms", samples=len(times))
        bench.add(
            f"one decision, all different, {nodes} nodes p99",
            percentile(times, 99),
            "ms",
            samples=len(times),
            goal=2.0 if nodes == 5000 else None,
        )


if __name__ == "__main__":
    main(run, __doc__)
