"""/metrics/cadvisor: what containers use, under cAdvisor's names, which dashboards and alerts expect.

Pure. Of cAdvisor's metrics those that a look at the control groups and links gives; `id` is the container's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cluster.node.stats import NodeFacts, Sample

_CONTAINERS = {
    "container_cpu_usage_seconds_total": ("counter", "Cumulative cpu time consumed in seconds."),
    "container_last_seen": ("gauge", "Last time a container was seen by the exporter"),
    "container_memory_failures_total": ("counter", "Cumulative count of memory allocation failures."),
    "container_memory_rss": ("gauge", "Size of RSS in bytes."),
    "container_memory_usage_bytes": ("gauge", "Current memory usage in bytes, including all memory"),
    "container_memory_working_set_bytes": ("gauge", "Current working set in bytes."),
    "container_start_time_seconds": ("gauge", "Start time of the container since unix epoch in seconds."),
    "container_network_receive_bytes_total": ("counter", "Cumulative count of bytes received"),
    "container_network_transmit_bytes_total": ("counter", "Cumulative count of bytes transmitted"),
    "machine_cpu_cores": ("gauge", "Number of logical CPU cores."),
    "machine_memory_bytes": ("gauge", "Amount of memory installed on the machine."),
}


def metrics(sample: Sample, facts: NodeFacts, images: Mapping[str, str], cpu_cores: float) -> str:
    """Prometheus' text format. `images`: container id -> what its spec calls its image."""
    rows: dict[str, list[str]] = {name: [] for name in _CONTAINERS}
    pods: dict[str, str] = {}
    for container_id, (info, usage) in sorted(sample.containers.items()):
        of_pod = f'namespace="{info.pod.namespace}",pod="{info.pod.name}"'
        pods[info.pod.uid] = of_pod
        of = f'container="{info.name}",id="{container_id}",image="{images.get(container_id, "")}",{of_pod}'
        for kind, count in (("pgfault", usage.page_faults), ("pgmajfault", usage.major_page_faults)):
            rows["container_memory_failures_total"].append(f'{{{of},failure_type="{kind}",scope="container"}} {count}')
        rows["container_cpu_usage_seconds_total"].append(f'{{{of},cpu="total"}} {usage.cpu_ns / 1e9:.9g}')
        for name, value in (
            ("container_last_seen", int(usage.at)),
            ("container_memory_rss", usage.rss_bytes),
            ("container_memory_usage_bytes", usage.memory_bytes),
            ("container_memory_working_set_bytes", usage.working_set_bytes),
            ("container_start_time_seconds", int(info.created_at)),
        ):
            rows[name].append(f"{{{of}}} {value}")
    for uid, (received, sent) in sorted(facts.network.items()):
        if uid in pods:
            rows["container_network_receive_bytes_total"].append(f'{{interface="eth0",{pods[uid]}}} {received}')
            rows["container_network_transmit_bytes_total"].append(f'{{interface="eth0",{pods[uid]}}} {sent}')
    rows["machine_cpu_cores"].append(f" {cpu_cores:g}")
    rows["machine_memory_bytes"].append(f" {facts.memory_capacity_bytes}")
    return "".join(_family(name, lines) for name, lines in rows.items() if lines)


def _family(name: str, lines: Iterable[str]) -> str:
    kind, text = _CONTAINERS[name]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n" + "".join(f"{name}{line}\n" for line in lines)
