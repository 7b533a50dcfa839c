"""How long pods wait for a standby scheduler when the leading one is killed (SIGKILL): from the kill to the first bind
that a watch shows after it, while pods are created all along.

Two schedulers under one lease, as on two control planes. The killed one is started again and is warm before the next
round. That wait is mostly the rest of the dead leader's lease.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import orjson
import uvloop

from benchmarks import _stack
from benchmarks._load import Connection
from benchmarks._stack import Process, Target
from benchmarks.frame import Bench, percentile
from benchmarks.schedule import at_rest, burst, prepare
from cluster.machine.config import ClusterConfig, load_cluster

LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler"
PODS, PER_S, BEFORE_S = 150, 50.0, 1.0
GOAL_MS = 2000
_LOOK_S = 0.1
_IN_FLIGHT_S = 0.05
"""What the watch shows so soon after the kill was bound before it."""


def run(bench: Bench, base: Path, nodes: int, times: int) -> None:
    target = _stack.start(base)
    try:
        cluster = load_cluster(base / "cluster")
        _stand_by(target, cluster, cluster.machines[0].name)
        gaps_ms = uvloop.run(_rounds(target, cluster, nodes, times))
    finally:
        target.stop()
    what = f"kill of the leading scheduler to the next bind, {nodes} nodes"
    bench.add(f"{what}, p50", percentile(gaps_ms, 50), "ms", samples=times)
    bench.add(f"{what}, longest", max(gaps_ms), "ms", samples=times, goal=GOAL_MS)


async def _rounds(target: Target, cluster: ClusterConfig, nodes: int, times: int) -> list[float]:
    connections = await prepare(target, nodes)
    asking = await Connection.open(target)
    await burst(target, connections, 0, PODS)  # somebody leads
    gaps_ms: list[float] = []
    last = ""
    for number in range(times):
        await at_rest(target, asking)
        pods = asyncio.create_task(burst(target, connections, 3_000_000 + number * PODS, PODS, per_s=PER_S))
        await asyncio.sleep(BEFORE_S)
        leader = await _leader(target, asking, last)
        last = leader.name
        killed = time.monotonic()
        leader.popen.kill()
        seen = await pods
        gaps_ms.append((min(at for at in seen.bound.values() if at > killed + _IN_FLIGHT_S) - killed) * 1000)
        leader.popen.wait()
        target.processes.remove(leader)
        _stand_by(target, cluster, leader.name.split()[1])
        await asyncio.sleep(BEFORE_S)
    for connection in (*connections, asking):
        connection.close()
    return gaps_ms


def _stand_by(target: Target, cluster: ClusterConfig, machine: str) -> None:
    """A scheduler on that machine; it answers once all is loaded, and has its picture soon after."""
    _stack.spawn(target, cluster, "scheduler", machine)
    _stack.wait_port(target, cluster.spec(machine).ip, _stack.on_machine(cluster, machine).scheduler_port)


async def _leader(target: Target, asking: Connection, last: str) -> Process:
    """As the Lease says, once it names another than the `last`, who was killed."""
    while True:
        lease = orjson.loads(await asking.call("GET", LEASE, expect=(200, 404)))
        name = f"scheduler {lease.get('spec', {}).get('holderIdentity', '')}"
        if name != last and any(p.name == name for p in target.processes):
            return target.part(name)
        await asyncio.sleep(_LOOK_S)
