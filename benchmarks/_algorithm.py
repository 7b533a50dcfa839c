"""Runs a named workload through the decision alone: columns, queue and plugins; no API, no store, one thread.

    python -m benchmarks._algorithm NODES PODS      fills a cluster and prints JSON: memory, rates, one decision

Rates are pods per CPU second, which on an idle machine are pods per second. Reading a pod into its shape is not counted
(it is a row of its own), nor are the pods that were there before.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks._workloads import ZONE, Names, Obj, Template, Workload, node, pod
from benchmarks.frame import percentile
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.config import DEFAULT
from cluster.scheduler.decide import Pending, Placement, diagnose, place
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.preempt import Candidate, preempt
from cluster.scheduler.queue import SchedulingQueue
from cluster.scheduler.shape import shape_of
from cluster.scheduler.views import NodeViews, PodViews
from cluster.scheduler.volumes import Storage, check_claims

BATCH = 512
_CHURN_EVERY = 100


def pending(body: Obj, spread: bytes = b"") -> Pending:
    meta = body["metadata"]
    key = (meta["namespace"], meta["name"])
    return Pending(meta["name"], key, shape_of(body, spread), priority=int(body["spec"].get("priority", 0)))


def columns_of(nodes: int, make: Callable[[int], Obj] = node) -> NodeColumns:
    columns = NodeColumns(nodes)
    for index in range(nodes):
        columns.set_node(make(index))
    return columns


@dataclass(slots=True)
class Run:
    """One workload on one cluster. `placed` counts what the measured part placed."""

    workload: Workload
    columns: NodeColumns
    measured: list[Pending]
    ties: Any
    placed: int = 0
    queue: SchedulingQueue = field(default_factory=lambda: SchedulingQueue(lambda *_: 0))
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def batches(self, pods: list[Pending]) -> int:
        return sum(
            isinstance(outcome, Placement)
            for start in range(0, len(pods), BATCH)
            for outcome in place(self.columns, pods[start : start + BATCH], self.ties)
        )

    def plain(self) -> None:
        self.placed = self.batches(self.measured)

    def volumes(self) -> None:
        """Each claim is bound to a volume of one zone; asking the claims is part of it."""
        zones = [self._volume(z) for z in range(3)]
        claim = {"metadata": {}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}
        for index, one in enumerate(self.measured):
            volume = zones[index % 3]
            storage = Storage(lambda *_: claim, lambda *_, v=volume: v, lambda *_: None)
            verdict = check_claims("default", one.shape.claims, self.columns, storage)
            self.placed += self.batches([Pending(one.uid, one.key, one.shape, verdict.confined)])

    @staticmethod
    def _volume(zone: int) -> Obj:
        expression = {"key": ZONE, "operator": "In", "values": [f"zone-{zone}"]}
        affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
        return {"metadata": {"name": f"v{zone}"}, "spec": {"nodeAffinity": affinity}}

    def preemption(self) -> None:
        """Victims are chosen and the room is kept; they do not leave meanwhile."""
        waiting = Nominations()
        for one in self.measured:
            open_ = diagnose(self.columns, one, DEFAULT, waiting).resolvable
            answer = preempt(self.columns, one, open_, DEFAULT, waiting)
            if isinstance(answer, Candidate):
                self.placed += 1
                waiting.set(one.uid, answer.node, one.shape, one.priority)

    def queued(self) -> None:
        """Through the queue, where others are gated or were refused."""
        queue, by_key = self.queue, {p.key: p for p in self.measured}
        for one in self.measured:
            queue.add(one.key, 0, 0.0)
        while keys := queue.pop_batch(BATCH, 0.0):
            self.placed += self.batches([by_key[key] for key in keys])
            for key in keys:
                queue.remove(key)
            queue.cluster_changed(0.0, frozenset(("InterPodAffinity",)))

    def crowd(self) -> None:
        """Ten thousand that wait beside."""
        for index in range(10_000):
            self.queue.add(("default", f"waits-{index}"), 0, 0.0, gated=self.workload.event == "gated")
        for key in self.queue.pop_batch(10_000, 0.0):
            self.queue.failed(key, self.queue.cycle(), 0.0, frozenset(("NodeResourcesFit",)), "huge")

    def deleted(self) -> None:
        """For every two pods placed one leaves."""
        for start in range(0, len(self.measured), BATCH):
            some = self.measured[start : start + BATCH]
            self.placed += self.batches(some)
            for one in some[::2]:
                self.columns.remove_pod(one.uid)

    def churn(self) -> None:
        """Every hundred pods a node comes, one changes, one goes."""
        for start in range(0, len(self.measured), _CHURN_EVERY):
            self.placed += self.batches(self.measured[start : start + _CHURN_EVERY])
            name = f"node-{10_000_000 + start}"
            body = node(0)
            body["metadata"] |= {"name": name}
            self.columns.set_node(body)
            self.columns.set_node(node(self.rng.randrange(100), touched=str(start)))
            self.columns.remove_node(name)


_EVENTS: dict[str, Callable[[Run], None]] = {
    "": Run.plain,
    "volumes": Run.volumes,
    "preemption": Run.preemption,
    "unschedulable": Run.queued,
    "gated": Run.queued,
    "deleted": Run.deleted,
    "churn": Run.churn,
}


def rate(workload: Workload, nodes: int) -> tuple[float, int]:
    """(pods per CPU second, pods measured). Raises RuntimeError when pods found no place that should have."""
    before, count = workload.counts(nodes)
    columns, names = columns_of(nodes, workload.node), Names()
    ties = np.random.default_rng(1).permutation(columns.size)
    for template, number in before:
        if workload.event not in ("gated", "unschedulable"):
            place(columns, _made(template, number, names), ties)
    run = Run(workload, columns, _made(workload.template, count, names), ties)
    if _EVENTS[workload.event] is Run.queued:
        run.crowd()
    begun = time.process_time()
    _EVENTS[workload.event](run)
    took = time.process_time() - begun
    if run.placed < count:
        raise RuntimeError(f"{workload.name}, {nodes} nodes: {run.placed} of {count} pods found a place")
    return count / took, count


def _made(template: Template, count: int, names: Names) -> list[Pending]:
    return [pending(template(names.next())) for _ in range(count)]


# ---- one size in a process of its own


def fill(nodes: int, pods: int) -> dict[str, float]:
    """A cluster with so many pods as the scheduler keeps it: columns, and views of all objects."""
    node_views, pod_views = NodeViews(), PodViews()
    columns, kept = NodeColumns(nodes), []
    for index in range(nodes):
        kept.append(node_views.view(node(index)))
        columns.set_node(kept[-1])
    ties = np.random.default_rng(1).permutation(columns.size)
    deciding = 0.0
    for start in range(0, pods, BATCH):
        bodies = [pod_views.view(_bound(i)) for i in range(start, min(start + BATCH, pods))]
        kept += bodies
        batch = [Pending(b["metadata"]["uid"], ("default", b["metadata"]["name"]), b["shape"]) for b in bodies]
        begun = time.process_time()
        place(columns, batch, ties)
        deciding += time.process_time() - begun
    times = []
    for index in range(300):
        one = pending(pod(f"late-{index}", f"{50 + index}m"))
        begun = time.process_time()
        place(columns, [one], ties)
        times.append((time.process_time() - begun) * 1000)
    return {
        "placed": len(columns.placed),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "pods_per_s": pods / deciding,
        "one_p50_ms": percentile(times, 50),
        "one_p99_ms": percentile(times, 99),
    }


def _bound(index: int) -> Obj:
    body = pod(f"pod-{index}")
    body["metadata"]["uid"] = f"00000000-0000-4000-8000-{index:012d}"
    return body


if __name__ == "__main__":
    print(json.dumps(fill(int(sys.argv[1]), int(sys.argv[2]))))
