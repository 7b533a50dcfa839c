"""`sk8 machine add` and `remove`: a running cluster gets a worker that carries pods, and gives it up again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Cluster, eventually, in_machine, machines

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(600)]

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "guest", "labels": {"app": "guest"}},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "nginx", "image": "nginx:1.21"}],
    },
}


@pytest.fixture
def added(cluster: Cluster) -> Iterator[str]:
    name = str(json.loads(cluster.sk8("machine", "add", "--output", "json", "--zone", "b", timeout_s=240))["name"])
    yield name
    with contextlib.suppress(AssertionError):  # the test itself has removed it
        cluster.sk8("machine", "remove", name, "--force", timeout_s=240)


def test_a_worker_joins_carries_pods_and_goes(cluster: Cluster, added: str) -> None:
    before = machines()
    assert added in before
    node = cluster.get("node", added)
    assert node["metadata"]["labels"]["topology.kubernetes.io/zone"] == "b"
    pod = POD | {"spec": POD["spec"] | {"nodeName": added}}  # type: ignore[operator]
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/guest", "--timeout=120s", timeout_s=150)
    address = cluster.get("pod", "guest")["status"]["podIP"]
    eventually(
        lambda: in_machine("m1", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}"),
        lambda code: code == "200",
        within_s=60,
        what="another machine reaches a pod on the new one",
    )
    with pytest.raises(AssertionError, match=r"pods run on .*default/guest"):
        cluster.sk8("machine", "remove", added)
    cluster.kubectl("delete", "pod", "guest", "--wait")
    cluster.sk8("machine", "remove", added, timeout_s=240)
    assert added not in machines()
    assert added not in {item["metadata"]["name"] for item in cluster.get("nodes")["items"]}
    assert json.loads(cluster.sk8("status", "--output", "json"))["healthy"]
