"""The examples on a running cluster, as infra/examples/README.md says them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import ROOT, Cluster, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(600)]

EXAMPLES = ROOT / "infra" / "examples"


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    cluster.kubectl("create", "namespace", "examples")
    yield "examples"
    cluster.kubectl("delete", "namespace", "examples", timeout_s=120)


def test_a_gang_is_placed_and_ends_with_one_result(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLES / "gang"))
    wait = ("wait", "-n", namespace, "--for=condition=complete", "job/train", "--timeout=240s")
    cluster.kubectl(*wait, timeout_s=260)
    logs = cluster.kubectl("logs", "-n", namespace, "-l", "job-name=train", "--tail=1").splitlines()
    result = sum(n * n for n in range(100_000))
    assert sorted(logs) == [f"worker {rank} of 4: {result}" for rank in range(4)]


@pytest.mark.slow
def test_an_autoscaler_adds_pods_under_load(cluster: Cluster, namespace: str) -> None:
    for name in ("burner", "load"):
        cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLES / "autoscaling" / f"{name}.yaml"))

    def replicas() -> int:
        return int(cluster.get("deployment", "burner", "-n", namespace)["status"].get("readyReplicas", 0))

    eventually(replicas, lambda n: n > 1, within_s=240, what="more than one burner")
