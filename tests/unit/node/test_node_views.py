"""What the kubelet's server shows besides statistics: cAdvisor's names, probes' counts, the configuration in force."""

from __future__ import annotations

import json

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cluster.node import cadvisor, probe_metrics
from cluster.node.config import KubeletConfig
from cluster.node.runtime import ContainerInfo, PodRef, Usage
from cluster.node.settings import kubelet_configuration
from cluster.node.stats import DiskUsage, NodeFacts, Sample

POD = PodRef("ns", "web", "uid-1")


def usage(cpu_ns: int) -> Usage:
    return Usage(1000.0, cpu_ns, 4000, 3000, 2000, 10, 1)


def test_cadvisor_names_containers_pods_and_the_machine() -> None:
    info = ContainerInfo("c1", POD, "app", 0, "running", created_at=900.0)
    sample = Sample(usage(9), {"c1": (info, usage(1_500_000_000))}, {})
    network = {"uid-1": (11, 22), "": (1, 1), "gone": (3, 3)}
    facts = NodeFacts("m1", 1 << 30, {}, DiskUsage(1, 1, 1, 1), network)
    text = cadvisor.metrics(sample, facts, {"c1": "app:1"}, 2.0)
    found = {
        (s.name, s.labels.get("failure_type", "")): (s.labels, s.value)
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    labels, value = found["container_cpu_usage_seconds_total", ""]
    assert value == 1.5 and labels["cpu"] == "total"
    assert (labels["namespace"], labels["pod"], labels["container"], labels["image"]) == ("ns", "web", "app", "app:1")
    assert found["container_memory_working_set_bytes", ""][1] == 3000
    assert found["container_memory_failures_total", "pgmajfault"][1] == 1
    labels, value = found["container_network_receive_bytes_total", ""]
    assert (labels, value) == ({"interface": "eth0", "namespace": "ns", "pod": "web"}, 11)
    assert found["machine_memory_bytes", ""][1] == 1 << 30 and found["machine_cpu_cores", ""][1] == 2


def test_probes_are_counted_and_forgotten_with_their_pod() -> None:
    pod = ("ns", "probed", "uid-2")
    probe_metrics.count(pod, "app", "readiness", True)
    probe_metrics.count(pod, "app", "readiness", False)
    probe_metrics.count(pod, "app", "liveness", True)
    text = generate_latest(probe_metrics.REGISTRY).decode()
    wanted = 'pod="probed",pod_uid="uid-2",probe_type="Readiness",result="failed"} 1.0'
    assert "prober_probe_total" in text and wanted in text
    probe_metrics.forget(pod, ["app", "never-probed"])
    assert "uid-2" not in generate_latest(probe_metrics.REGISTRY).decode()


def test_the_configuration_has_the_names_users_know() -> None:
    config = KubeletConfig("m1", "10.0.0.1", "/r", "", "", "", max_pods=42, registry_mirrors={"docker.io": ("m:5000",)})
    shown = json.loads(json.dumps(kubelet_configuration(config)))
    assert shown["kind"] == "KubeletConfiguration" and shown["maxPods"] == 42
    assert shown["imageMinimumGCAge"] == "120s" and shown["clusterDNS"] == ["10.96.0.10"]
    assert shown["registryMirrors"] == {"docker.io": ["m:5000"]}
