"""Server-07: a machine whose disk stays full is evacuated, and its pods are Ready elsewhere.

The disk is a file system of its own below the machine's kubelet; what fills it belongs to no pod, so no eviction makes
room, and the kubelet goes on until no pod is left. The decisions alone, with a small disk on one kubelet, are in
tests/integration/test_node_pressure.py. The seconds are printed (`make server-07`), not asserted.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BASE, Cluster, eventually, machines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.timeout(900),
]
REPLICAS = 6
DISK_MIB = 2560
FILL_MIB = 2000
"""Leaves less than the gibibyte at which a machine that shares its box evicts."""


@pytest.fixture
def server(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """The last machine, whose kubelet has a disk of its own; as it was at the end."""
    name = machines()[-1]
    image = tmp_path / "disk.img"
    with image.open("wb") as handle:
        handle.truncate(DISK_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m0", str(image)], check=True)
    try:
        cluster.sk8("machine", "kill", name)
        subprocess.run(["mount", "-o", "loop", str(image), str(kubelet_of(name))], check=True)
        cluster.sk8("machine", "start", name)
        eventually(lambda: cluster.node_ready(name) == "True", within_s=120, what=f"{name} is Ready")
        yield name
    finally:
        cluster.sk8("machine", "kill", name)  # unmounts what is below its disk
        cluster.sk8("machine", "start", name)
        for each in machines():
            cluster.kubectl("uncordon", each)
            eventually(lambda m=each: cluster.node_ready(m) == "True", within_s=120, what=f"{each} is Ready")
        cluster.kubectl("delete", "deployment", "seven", "--ignore-not-found", timeout_s=120)


def kubelet_of(name: str) -> Path:
    return BASE / "machines" / name / "kubelet"


def deployment() -> str:
    container = {"name": "app", "image": "sk8/pause:1", "imagePullPolicy": "IfNotPresent"}
    spec = {"terminationGracePeriodSeconds": 2, "containers": [container]}
    labels = {"app": "seven"}
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "seven"},
            "spec": {
                "replicas": REPLICAS,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
    )


def ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def ready_on(cluster: Cluster, names: list[str]) -> int:
    return sum(ready(pod) for pod in cluster.pods("app=seven") if pod["spec"].get("nodeName") in names)


def test_a_disk_that_stays_full_is_evacuated(cluster: Cluster, server: str) -> None:
    others = [name for name in machines() if name != server]
    for name in others:
        cluster.kubectl("cordon", name)
    cluster.kubectl("apply", "-f", "-", stdin=deployment())
    eventually(lambda: ready_on(cluster, [server]) == REPLICAS, within_s=120, what=f"all pods run on {server}")
    for name in others:
        cluster.kubectl("uncordon", name)
    began = time.monotonic()
    subprocess.run(["fallocate", "-l", f"{FILL_MIB}M", str(kubelet_of(server) / "no-pods-file")], check=True)
    eventually(lambda: ready_on(cluster, others) == REPLICAS, within_s=240, what="all pods are Ready elsewhere")
    took = time.monotonic() - began
    print(f"\n{REPLICAS} pods of {server} were Ready elsewhere {took:.1f} s after its disk was full")
    found = cluster.get("node", server)
    assert any(c["type"] == "DiskPressure" and c["status"] == "True" for c in found["status"]["conditions"])
    assert any(t["key"] == "node.kubernetes.io/disk-pressure" for t in found["spec"]["taints"])
    evicted = [pod for pod in cluster.pods("app=seven") if pod["status"].get("reason") == "Evicted"]
    assert len(evicted) == REPLICAS and all("ephemeral-storage" in pod["status"]["message"] for pod in evicted)
