"""/stats/summary: what the machine and its pods use.

Pure, but for `machine_usage` (reads /proc). Rates come from two samples of a cumulative counter, so the first answer
about a container has no rate, as the kubelet's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.api.meta import rfc3339
from cluster.node.runtime import ContainerInfo, Usage

Obj = dict[str, Any]


@dataclass(slots=True)
class Rates:
    """CPU rates per key, from successive samples."""

    _last: dict[str, tuple[float, int, int | None]] = field(default_factory=dict)

    def nano_cores(self, key: str, at: float, cpu_ns: int) -> int | None:
        last = self._last.get(key)
        if last is None:
            self._last[key] = (at, cpu_ns, None)
            return None
        elapsed = at - last[0]
        if elapsed < 0.5:
            return last[2]
        rate = max(int((cpu_ns - last[1]) / elapsed), 0)
        self._last[key] = (at, cpu_ns, rate)
        return rate

    def keep_only(self, keys: set[str]) -> None:
        for key in [k for k in self._last if k not in keys]:
            del self._last[key]


def machine_usage() -> Usage:
    """Of the whole box: local machines share it."""
    meminfo: dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, rest = line.partition(":")
        meminfo[key] = int(rest.split()[0]) * 1024
    ticks = [int(t) for t in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    busy = sum(ticks) - ticks[3] - ticks[4]
    used = meminfo["MemTotal"] - meminfo["MemFree"]
    return Usage(
        at=time.time(),
        cpu_ns=busy * 10_000_000,
        memory_bytes=used,
        working_set_bytes=meminfo["MemTotal"] - meminfo["MemAvailable"],
        rss_bytes=meminfo.get("AnonPages", 0),
        page_faults=0,
        major_page_faults=0,
    )


def summary(
    node: str,
    machine: Usage,
    capacity_bytes: int,
    containers: Mapping[str, tuple[ContainerInfo, Usage]],
    started: Mapping[str, str],
    rates: Rates,
) -> Obj:
    """`containers`: by id, running ones, sandboxes left out; `started`: pod uid -> startTime."""
    rates.keep_only({"", *containers})
    pods: dict[str, Obj] = {}
    for container_id, (info, usage) in sorted(containers.items()):
        pod = pods.setdefault(info.pod.uid, _pod(info, started.get(info.pod.uid, "")))
        pod["containers"].append(
            {
                "name": info.name,
                "startTime": rfc3339(info.created_at),
                "cpu": _cpu(usage, rates.nano_cores(container_id, usage.at, usage.cpu_ns)),
                "memory": _memory(usage),
            }
        )
    for pod in pods.values():
        pod["cpu"], pod["memory"] = _sum(pod["containers"], "cpu"), _sum(pod["containers"], "memory")
    cpu = _cpu(machine, rates.nano_cores("", machine.at, machine.cpu_ns))
    memory = _memory(machine)
    memory["availableBytes"] = max(capacity_bytes - machine.working_set_bytes, 0)
    return {"node": {"nodeName": node, "cpu": cpu, "memory": memory}, "pods": list(pods.values())}


def _pod(info: ContainerInfo, start_time: str) -> Obj:
    reference = {"name": info.pod.name, "namespace": info.pod.namespace, "uid": info.pod.uid}
    return {"podRef": reference, "startTime": start_time, "containers": []}


def _cpu(usage: Usage, rate: int | None) -> Obj:
    cpu: Obj = {"time": rfc3339(usage.at), "usageCoreNanoSeconds": usage.cpu_ns}
    if rate is not None:
        cpu["usageNanoCores"] = rate
    return cpu


def _memory(usage: Usage) -> Obj:
    return {
        "time": rfc3339(usage.at),
        "usageBytes": usage.memory_bytes,
        "workingSetBytes": usage.working_set_bytes,
        "rssBytes": usage.rss_bytes,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    }


def _sum(containers: list[Obj], kind: str) -> Obj:
    total: Obj = {"time": max(c[kind]["time"] for c in containers)}
    for container in containers:
        for key, value in container[kind].items():
            if key != "time":
                total[key] = total.get(key, 0) + value
    return total
