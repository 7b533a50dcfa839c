"""/stats/summary and /metrics/resource: what the machine and its pods use.

Pure. Rates come from two samples of a cumulative counter, so the first answer
about a container has no rate, as the kubelet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.api.meta import rfc3339
from cluster.node.runtime import ContainerInfo, Usage

Obj = dict[str, Any]
MIN_WINDOW_S = 1.0  # a rate over less says little


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
        if elapsed < MIN_WINDOW_S:
            return last[2]
        rate = max(int((cpu_ns - last[1]) / elapsed), 0)
        self._last[key] = (at, cpu_ns, rate)
        return rate

    def of(self, key: str) -> int | None:
        """The last rate."""
        last = self._last.get(key)
        return None if last is None else last[2]

    def keep_only(self, keys: set[str]) -> None:
        for key in [k for k in self._last if k not in keys]:
            del self._last[key]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at everything. `containers`: by id, running ones, sandboxes left out; rates in nanocores, by id, "" for
    the machine; `at` of each usage is wall time."""

    machine: Usage
    containers: Mapping[str, tuple[ContainerInfo, Usage]]
    rates: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """One file system."""

    capacity_bytes: int
    available_bytes: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a summary says besides the sample. `started`: pod uid -> startTime; `network`: pod uid -> (received, sent)
    in bytes, "" for the machine's own link."""

    name: str
    memory_capacity_bytes: int
    started: Mapping[str, str]
    disk: DiskUsage
    network: Mapping[str, tuple[int, int]]
    pids: tuple[int, int] = (0, 0)  # in use, at most


def summary(sample: Sample, facts: NodeFacts) -> Obj:
    """GET /stats/summary (k8s.io/kubelet/pkg/apis/stats/v1alpha1)."""
    pods: dict[str, Obj] = {}
    for container_id, (info, usage) in sorted(sample.containers.items()):
        pod = pods.setdefault(info.pod.uid, _pod(info, facts.started.get(info.pod.uid, "")))
        pod["containers"].append(
            {
                "name": info.name,
                "startTime": rfc3339(info.created_at),
                "cpu": _cpu(usage, sample.rates.get(container_id)),
                "memory": _memory(usage),
            }
        )
    for uid, pod in pods.items():
        pod["cpu"], pod["memory"] = _sum(pod["containers"], "cpu"), _sum(pod["containers"], "memory")
        if uid in facts.network:
            pod["network"] = _network(sample.machine.at, facts.network[uid])
    memory = _memory(sample.machine)
    memory["availableBytes"] = max(facts.memory_capacity_bytes - sample.machine.working_set_bytes, 0)
    node = {
        "nodeName": facts.name,
        "cpu": _cpu(sample.machine, sample.rates.get("")),
        "memory": memory,
        "fs": _disk(sample.machine.at, facts.disk),
        "runtime": {"imageFs": _disk(sample.machine.at, facts.disk)},
        "rlimit": {"time": rfc3339(sample.machine.at), "curproc": facts.pids[0], "maxpid": facts.pids[1]},
    }
    if "" in facts.network:
        node["network"] = _network(sample.machine.at, facts.network[""])
    return {"node": node, "pods": list(pods.values())}


_RESOURCE_METRICS = (
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds"),
    ("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes"),
    ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds"),
    ("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds"),
    ("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes"),
    ("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds"),
    ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes"),
    ("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise"),
)


def resource_metrics(sample: Sample) -> str:
    """GET /metrics/resource, in Prometheus' text format (KEP-1206)."""
    lines: dict[str, list[str]] = {name: [] for name, _, _ in _RESOURCE_METRICS}

    def add(name: str, labels: str, value: float, at: float) -> None:
        lines[name].append(f"{name}{labels} {value:.9g} {int(at * 1000)}")

    pods: dict[str, tuple[str, list[Usage]]] = {}
    for _, (info, usage) in sorted(sample.containers.items(), key=lambda item: (item[1][0].pod.uid, item[1][0].name)):
        of_pod = f'namespace="{info.pod.namespace}",pod="{info.pod.name}"'
        labels = f'{{container="{info.name}",{of_pod}}}'
        add("container_cpu_usage_seconds_total", labels, usage.cpu_ns / 1e9, usage.at)
        add("container_memory_working_set_bytes", labels, usage.working_set_bytes, usage.at)
        lines["container_start_time_seconds"].append(f"container_start_time_seconds{labels} {info.created_at:.9g}")
        pods.setdefault(info.pod.uid, (f"{{{of_pod}}}", []))[1].append(usage)
    for labels, usages in pods.values():
        at = max(u.at for u in usages)
        add("pod_cpu_usage_seconds_total", labels, sum(u.cpu_ns for u in usages) / 1e9, at)
        add("pod_memory_working_set_bytes", labels, sum(u.working_set_bytes for u in usages), at)
    add("node_cpu_usage_seconds_total", "", sample.machine.cpu_ns / 1e9, sample.machine.at)
    add("node_memory_working_set_bytes", "", sample.machine.working_set_bytes, sample.machine.at)
    lines["resource_scrape_error"].append("resource_scrape_error 0")
    blocks = [
        f"# HELP {name} [STABLE] {text}\n# TYPE {name} {kind}\n" + "\n".join(lines[name]) + "\n"
        for name, kind, text in _RESOURCE_METRICS
        if lines[name]
    ]
    return "".join(blocks)


def _disk(at: float, disk: DiskUsage) -> Obj:
    return {
        "time": rfc3339(at),
        "availableBytes": disk.available_bytes,
        "capacityBytes": disk.capacity_bytes,
        "usedBytes": disk.capacity_bytes - disk.available_bytes,
        "inodesFree": disk.inodes_free,
        "inodes": disk.inodes,
        "inodesUsed": disk.inodes - disk.inodes_free,
    }


def _network(at: float, counters: tuple[int, int]) -> Obj:
    both = {"name": "eth0", "rxBytes": counters[0], "txBytes": counters[1]}
    return {"time": rfc3339(at), **both, "interfaces": [both]}


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
