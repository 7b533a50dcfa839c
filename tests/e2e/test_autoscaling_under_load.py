"""Checkout goes from 3 to 10 on CPU: real requests to real pods, whose kubelets measure what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Cluster, eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

NAMESPACE = "black-friday"
_SERVER = """
import http.server, time
class Work(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        begun = time.thread_time()
        while time.thread_time() - begun < 0.01: pass
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 3000), Work).serve_forever()
"""
_CUSTOMERS = """
import time, urllib.request
while True:
    begun = time.monotonic()
    try: urllib.request.urlopen("http://checkout/", timeout=5).read()
    except OSError: pass
    time.sleep(max(0.05 - (time.monotonic() - begun), 0))
"""
CUSTOMERS = 3
"""Each waits for its answer and asks 20 times a second at most, a hundredth of a core each: 600 millicores, where a pod
should have 20. A third of it, on a box that is busy otherwise, makes ten pods, too."""


def _deployment(name: str, replicas: int, program: str, **container: Any) -> dict[str, Any]:
    labels = {"app": name}
    main = {"name": name, "image": "mycompany/api:v1.2.3", "command": ["python3", "-uc", program], **container}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [main], "terminationGracePeriodSeconds": 0}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def _autoscaler() -> dict[str, Any]:
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "checkout"},
        "minReplicas": 3,
        "maxReplicas": 10,
        "metrics": [{"type": "Resource", "resource": cpu}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    }
    meta = {"name": "checkout"}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta, "spec": spec}


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[Cluster]:
    """`checkout` with three pods and an autoscaler, gone afterwards."""
    probe = {"httpGet": {"path": "/", "port": 3000}, "periodSeconds": 5}
    requests = {"requests": {"cpu": "40m"}}
    service = {"selector": {"app": "checkout"}, "ports": [{"port": 80, "targetPort": 3000}]}
    items = [
        _deployment("checkout", 3, _SERVER, resources=requests, readinessProbe=probe),
        _autoscaler(),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "checkout"}, "spec": service},
    ]
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        _create(cluster, *items)
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true", timeout_s=120)


def _create(cluster: Cluster, *items: dict[str, Any]) -> None:
    manifest = {"apiVersion": "v1", "kind": "List", "items": list(items)}
    cluster.kubectl("create", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(manifest))


def test_checkout_goes_from_3_to_10_on_cpu_and_back(shop: Cluster) -> None:
    def ready() -> int:
        status: dict[str, Any] = shop.get("deployment", "checkout", "-n", NAMESPACE)["status"]
        return int(status.get("readyReplicas", 0))

    eventually(ready, lambda n: n == 3, within_s=90, what="three pods serve")
    _create(shop, _deployment("customers", CUSTOMERS, _CUSTOMERS, resources={"requests": {"cpu": "50m"}}))
    eventually(ready, lambda n: n == 10, within_s=240, what="ten serve")
    found = shop.get("hpa", "checkout", "-n", NAMESPACE)["status"]
    assert found["desiredReplicas"] == 10
    conditions = {c["type"]: (c["status"], c["reason"]) for c in found["conditions"]}
    assert conditions["ScalingActive"] == ("True", "ValidMetricFound")
    events = shop.kubectl("get", "events", "-n", NAMESPACE, "--field-selector=reason=SuccessfulRescale")
    assert "New size: 10; reason: cpu resource utilization (percentage of request) above target" in events
    shop.kubectl("scale", "deployment", "customers", "-n", NAMESPACE, "--replicas=0")
    eventually(ready, lambda n: n == 3, within_s=150, what="three again, when the customers are gone")
