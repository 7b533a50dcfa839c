"""Prometheus on the running cluster, as `make monitoring` makes it: what it may read is there, and alerts fire under
real faults. Rules are those of infra/monitoring with shorter times, so that nobody waits ten minutes: expressions and
thresholds are untouched. docs/monitoring.md has how the other alerts were seen.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tests.e2e.conftest import BASE, ROOT, Cluster, actor_pids, eventually, machines
from tests.support.monitoring_files import MONITORING, series_read

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(1300)]

NAMESPACE = "troubled"
SHORT = {r"\bfor: \d+m": "for: 1s", r"\[5m\]": "[30s]", r"interval: 15s": "interval: 3s"}
Obj = dict[str, Any]


def short(text: str) -> str:
    for long, brief in SHORT.items():
        text = re.sub(long, brief, text)
    return text


@dataclass(frozen=True)
class Prometheus:
    cluster: Cluster

    def query(self, promql: str) -> list[Obj]:
        proxy = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy"
        found: list[Obj] = json.loads(
            self.cluster.kubectl("get", "--raw", f"{proxy}/api/v1/query?query={quote(promql)}")
        )["data"]["result"]
        return found

    def fires(self, alert: str, **labels: str) -> None:
        wanted = ",".join(f'{k}="{v}"' for k, v in {"alertname": alert, "alertstate": "firing", **labels}.items())
        eventually(lambda: self.query(f"ALERTS{{{wanted}}}"), within_s=150, what=f"{alert} fires")


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster) -> Iterator[Prometheus]:
    image = "prom/prometheus:v2.42.0"
    subprocess.run(["python3", str(ROOT / "infra" / "images" / "build.py"), image], check=True, timeout=300)
    manifest = (MONITORING / "prometheus.yaml").read_text()
    try:
        cluster.kubectl("apply", "-f", "-", stdin=short(manifest))
        for name, file in (("rules", "rules.yaml"), ("discovery", "discover.py")):
            cluster.kubectl("apply", "-f", "-", stdin=json.dumps(_config_map(f"prometheus-{name}", file)))
        cluster.kubectl(
            "rollout", "status", "deployment/prometheus", "-n", "monitoring", "--timeout=120s", timeout_s=150
        )
        yield Prometheus(cluster)
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", "--timeout=90s", stdin=manifest, timeout_s=120)


def _config_map(name: str, file: str) -> Obj:
    text = (MONITORING / file).read_text()
    data = {file: short(text) if file == "rules.yaml" else text}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "monitoring"},
        "data": data,
    }


@pytest.fixture(scope="module")
def troubled(cluster: Cluster) -> Iterator[Cluster]:
    """One object of every kind that has metrics, some of which cannot work."""
    objects = [o | {"apiVersion": o.get("apiVersion", "apps/v1")} for o in yaml.safe_load_all(OBJECTS)]
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        cluster.kubectl(
            "apply",
            "-n",
            NAMESPACE,
            "-f",
            "-",
            stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}),
        )
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", timeout_s=120)


OBJECTS = """
kind: Deployment
metadata: {name: no-image}
spec:
  selector: {matchLabels: {app: no-image}}
  template:
    metadata: {labels: {app: no-image}}
    spec: {containers: [{name: c, image: "no-image:1", imagePullPolicy: Never}]}
---
kind: StatefulSet
metadata: {name: s}
spec:
  serviceName: s
  selector: {matchLabels: {app: s}}
  template:
    metadata: {labels: {app: s}}
    spec: {nodeSelector: {of: another-world}, containers: [{name: c, image: "busybox:1.36"}]}
---
kind: DaemonSet
metadata: {name: d}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {nodeSelector: {of: another-world}, containers: [{name: c, image: "busybox:1.36"}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: j}
spec:
  backoffLimit: 0
  template:
    spec: {restartPolicy: Never, containers: [{name: c, image: "busybox:1.36", command: ["false"]}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: p}
spec: {storageClassName: none, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: h}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: no-image}
  maxReplicas: 1
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}]
"""


def pages(cluster: Cluster) -> str:
    """Everything that the parts show, as Prometheus reads it."""
    paths = ["/metrics"]
    for machine in machines():
        node = f"/api/v1/nodes/{machine}/proxy/metrics"
        parts = json.loads(cluster.kubectl("get", "--raw", f"{node}/parts"))
        paths += [node, f"{node}/cadvisor", *(f"{node}/parts/{part}" for part in parts)]
    return "\n".join(cluster.kubectl("get", "--raw", path) for path in paths)


def test_every_series_of_rules_and_dashboards_is_shown_by_a_running_part(troubled: Cluster) -> None:
    def missing() -> list[str]:
        shown = set(re.findall(r"^# TYPE (\S+)", pages(troubled), re.MULTILINE))
        of_family = lambda name: {name, re.sub(r"_(bucket|sum|count)$", "", name)}  # noqa: E731
        return sorted(name for name in series_read() if not of_family(name) & shown)

    eventually(missing, lambda names: not names, within_s=90, what="no series is missing")


@pytest.mark.slow
def test_alerts_fire_under_real_faults(troubled: Cluster, prometheus: Prometheus) -> None:
    faults = BASE / "machines" / machines()[0] / "faults"
    faults.write_text("delay:wal.fsync=70ms\n")
    try:
        for pid in actor_pids("State", machines()[0]):
            os.kill(pid, signal.SIGKILL)
        prometheus.fires("PodsPending")
        prometheus.fires("DeploymentRolloutSlow", namespace=NAMESPACE, deployment="no-image")
        prometheus.fires("StoreFsyncSlow", node=machines()[0])
    finally:
        faults.unlink(missing_ok=True)
        for pid in actor_pids("State", machines()[0]):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: troubled.sk8("status"), within_s=120, what="the store is whole again")
    missed = 'sk8:target_missed{target="pending pods 0"}'
    eventually(
        lambda: prometheus.query(missed)[0]["value"][1],
        lambda value: value == "1",
        within_s=120,
        what="the rule says that pods are pending",
    )
