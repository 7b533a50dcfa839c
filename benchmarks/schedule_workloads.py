"""kube-scheduler's own workloads through the whole system: over HTTPS, stored, scheduled, bound, seen by a watch.

    python -m benchmarks.schedule_workloads --json FILE [--smoke] [--peer] [--workload NAME]... [--nodes N]

Nodes are plain Node objects, no kubelet runs (as in kube-scheduler's own benchmark), so in Preemption the victims are
removed by the benchmark as soon as they are marked. The stack is `_stack`'s, the peer `_peer`'s: see
`benchmarks.schedule`. Each workload has a fresh cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks import _peer, _stack
from benchmarks._load import Connection, spread
from benchmarks._stack import Target
from benchmarks._workloads import ALL, BY_NAME, Obj, Template, Workload, pod
from benchmarks.frame import Bench, main, percentile
from benchmarks.schedule import Burst, burst, prepare

PODS = "/api/v1/namespaces/default/pods"
_CHURN_S = 1.0
_ONLY_OURS = ("SchedulingWithGates",)
"""What the peer's release does not know."""


def _named(template: Template) -> Callable[[int], Obj]:
    """With the name that the watcher looks for, and priorities by class, as the API wants them."""

    def make(index: int) -> Obj:
        body = template(f"bench-{index}")
        priority = body["spec"].pop("priority", None)
        if priority is not None:
            body["spec"]["priorityClassName"] = f"priority-{priority}"
        return body

    return make


async def _create(connection: Connection, path: str, body: Obj) -> None:
    await connection.call("POST", path, orjson.dumps(body), expect=(201, 409))


async def _objects(connections: list[Connection], workload: Workload, first: int, count: int) -> None:
    """What the pods refer to: priority classes, a secret, bound claims."""
    for value in (1, 10):
        body: Obj = {"metadata": {"name": f"priority-{value}"}, "value": value}
        await _create(connections[0], "/apis/scheduling.k8s.io/v1/priorityclasses", body)
    await _create(connections[0], "/api/v1/namespaces/default/secrets", {"metadata": {"name": "secret"}})
    if workload.event != "volumes":
        return

    async def one(connection: Connection, index: int) -> None:
        name = f"claim-bench-{first + index}"
        spec: Obj = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        claim = {"metadata": {"name": name}, "spec": spec | {"volumeName": name, "storageClassName": ""}}
        volume = {
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/x"},
                "claimRef": {"namespace": "default", "name": name},
            },
        }
        await _create(connection, "/api/v1/persistentvolumes", volume)
        path = "/api/v1/namespaces/default/persistentvolumeclaims"
        made = orjson.loads(await connection.call("POST", path, orjson.dumps(claim)))
        made["status"] = {"phase": "Bound"}
        await connection.call("PUT", f"{path}/{name}/status", orjson.dumps(made))

    await spread(connections, count, one)


async def _before(target: Target, connections: list[Connection], workload: Workload, nodes: int) -> int:
    """The pods that are there before, bound where they can be; the first free number."""
    first = 0
    for template, count in workload.counts(nodes)[0]:
        make = _named(template)
        if workload.event in ("gated", "unschedulable"):
            offset = first

            async def one(connection: Connection, index: int, make: Any = make, offset: int = offset) -> None:
                await connection.call("POST", PODS, orjson.dumps(make(offset + index)))

            await spread(connections, count, one)
        else:
            await burst(target, connections, first, count, make=make)
        first += count
    return first


async def _churn(target: Target) -> None:
    """Every second a node and a pod come and go."""
    connection = await Connection.open(target)
    index = 0
    while True:
        index += 1
        await _create(connection, "/api/v1/nodes", {"metadata": {"name": f"churn-{index}"}})
        await _create(connection, PODS, pod(f"churn-{index}", cpu="9"))
        await asyncio.sleep(_CHURN_S)
        await connection.call("DELETE", f"/api/v1/nodes/churn-{index}")
        await connection.call("DELETE", f"{PODS}/churn-{index}?gracePeriodSeconds=0")


async def _kubelet(target: Target) -> None:
    """Removes pods that are marked to go, as the kubelets would that do not run here."""
    connection = await Connection.open(target)
    listing = orjson.loads(await connection.call("GET", f"{PODS}?limit=1"))
    watcher, doomed = await Connection.open(target), asyncio.Queue[str]()

    def on_lines(data: bytes) -> bool:
        for line in data.split(b"\n"):
            if b'"deletionTimestamp"' in line:
                event = orjson.loads(line)
                if event["type"] == "MODIFIED":
                    doomed.put_nowait(event["object"]["metadata"]["name"])
        return False

    at = listing["metadata"]["resourceVersion"]
    async with asyncio.TaskGroup() as group:
        group.create_task(watcher.watch(f"{PODS}?watch=1&resourceVersion={at}", on_lines))
        while True:
            name = await doomed.get()
            await connection.call("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0", expect=(200, 404))


_BESIDE = {"churn": _churn, "preemption": _kubelet}


async def measure(target: Target, workload: Workload, nodes: int) -> Burst:
    connections = await prepare(target, nodes, workload.node)
    _, count = workload.counts(nodes)
    await _objects(connections, workload, 1_000_000, count)
    await _before(target, connections, workload, nodes)
    act = _BESIDE.get(workload.event)
    beside = None if act is None else asyncio.create_task(act(target))
    try:
        return await burst(target, connections, 1_000_000, count, make=_named(workload.template))
    finally:
        if beside is not None:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
        for connection in connections:
            connection.close()


def _on(target: Target, workload: Workload, nodes: int) -> Burst:
    try:
        return uvloop.run(measure(target, workload, nodes))
    finally:
        target.stop()


def _rows(bench: Bench, workload: Workload, nodes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sk8-bench-") as directory:
        base, theirs = Path(directory), None
        if bench.peer and not _peer.missing() and workload.name not in _ONLY_OURS:
            theirs = _on(_peer.start(base / "peer"), workload, nodes)
        ours = _on(_stack.start(base / "sk8"), workload, nodes)
    what, count = f"{workload.name}, {nodes} nodes", len(ours.bound)
    values: tuple[tuple[str, str, Callable[[Burst], float]], ...] = (
        ("bound", "pods/s", Burst.bound_per_s),
        ("create to bound p99", "ms", lambda b: percentile(b.to_bound_ms(), 99)),
        ("CPU per pod, all servers", "cpu_us", lambda b: sum(b.cpu_s.values()) / len(b.bound) * 1e6),
    )
    for name, unit, value in values:
        peer = None if theirs is None else value(theirs)
        bench.add(f"{what}: {name}", value(ours), unit, samples=count, peer=peer)


def runner(names: list[str], nodes: int) -> Callable[[Bench], None]:
    def run(bench: Bench) -> None:
        if bench.peer and _peer.missing():
            bench.note(f"no peer: {', '.join(_peer.missing())} not on PATH")
        some = names or (["SchedulingBasic", "Preemption"] if bench.smoke else [w.name for w in ALL])
        unknown = [name for name in some if name not in BY_NAME]
        if unknown:
            raise SystemExit(f"no such workload: {', '.join(unknown)}; known are {', '.join(BY_NAME)}")
        for name in some:
            _rows(bench, BY_NAME[name], 10 if bench.smoke else nodes)

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--workload", action="append", choices=list(BY_NAME), default=[])
    parser.add_argument("--nodes", type=int, default=500)
    own, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    main(runner(own.workload, own.nodes), __doc__)
