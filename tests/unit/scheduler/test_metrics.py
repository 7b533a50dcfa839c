"""Kubernetes' names and labels, as dashboards ask for them."""

from __future__ import annotations

import re

from prometheus_client import REGISTRY, generate_latest

from tests.unit.scheduler.shell import Cluster

EXPECTED = {
    "scheduler_pending_pods": {"queue"},
    "scheduler_schedule_attempts_total": {"result", "profile"},
    "scheduler_scheduling_attempt_duration_seconds_count": {"result", "profile"},
    "scheduler_pod_scheduling_sli_duration_seconds_count": {"attempts"},
    "scheduler_framework_extension_point_duration_seconds_count": {"extension_point", "status", "profile"},
    "scheduler_plugin_execution_duration_seconds_count": {"plugin", "extension_point", "status"},
    "scheduler_unschedulable_pods": {"plugin", "profile"},
    "scheduler_scheduler_cache_size": {"type"},
    "scheduler_preemption_attempts_total": set(),
    "scheduler_preemption_victims_count": set(),
    "scheduler_pod_scheduling_attempts_count": set(),
}


async def test_names_and_labels(cluster: Cluster) -> None:
    await cluster.node("a", cpu="1")
    await cluster.pod("p1", cpu="1")
    await cluster.bound("p1")
    await cluster.pod("p2", cpu="1")
    await cluster.refused("p2")
    await cluster.pod("p3", cpu="9")
    await cluster.refused("p3")
    text = generate_latest(REGISTRY).decode()
    for name, labels in EXPECTED.items():
        found = re.search(rf"^{name}(?:{{(.*?)}})? ", text, re.MULTILINE)
        assert found, name
        assert set(re.findall(r'(\w+)="', found[1] or "")) == labels, name
    queues = set(re.findall(r'scheduler_pending_pods{queue="(\w+)"}', text))
    assert queues == {"active", "backoff", "unschedulable", "gated"}
