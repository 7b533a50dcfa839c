"""A cluster filled step by step through the whole system: does the rate hold as pods add up?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks._stack import Target
from benchmarks.frame import Bench, Curve
from benchmarks.schedule import burst, prepare

STEP = 10_000


@dataclass(slots=True)
class Filled:
    """`rates`: (pods there, pods/s of the step that led there)."""

    rates: list[tuple[float, float]] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)

    @property
    def pods(self) -> int:
        return int(self.rates[-1][0]) if self.rates else 0


async def fill(target: Target, nodes: int, pods: int, limit_s: float, step: int = STEP) -> Filled:
    """Until there are so many pods, or no time is left for another step."""
    connections = await prepare(target, nodes)
    filled, until = Filled(), time.monotonic() + limit_s
    while filled.pods < pods:
        began = time.monotonic()
        count = min(step, pods - filled.pods)
        found = await burst(target, connections, 10_000_000 + filled.pods, count)
        filled.rates.append((filled.pods + count, found.bound_per_s()))
        if time.monotonic() + (time.monotonic() - began) > until:
            break
    filled.memory_mib = {p.name: p.pss_mib() for p in target.processes}
    for connection in connections:
        connection.close()
    return filled


def rows(bench: Bench, filled: Filled, nodes: int, wanted: int) -> None:
    rates, what = [rate for _, rate in filled.rates], f"filling {nodes} nodes to {filled.pods} pods"
    if filled.pods < wanted:
        bench.note(f"time was over at {filled.pods} of {wanted} pods")
    bench.add(f"{what}: first step", rates[0], "pods/s", samples=filled.pods)
    bench.add(f"{what}: last step", rates[-1], "pods/s", samples=filled.pods)
    bench.add(f"{what}: slowest step", min(rates), "pods/s", samples=len(rates))
    for name, mib in filled.memory_mib.items():
        bench.add(f"{what}: memory, {name}", mib, "MiB", samples=1)
    bench.curves.append(Curve("rate as the cluster fills", "sk8", "pods in the cluster", "pods/s", filled.rates))
