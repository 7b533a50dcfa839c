"""Every manifest of infra/examples is taken by the API, checked strictly, by stock kubectl."""

from pathlib import Path

import pytest

from tests.support.kubectl import NEEDS_KUBECTL
from tests.support.kubectl_world import kubectl_cluster

pytestmark = NEEDS_KUBECTL

EXAMPLES = Path(__file__).parents[2] / "infra" / "examples"
NO_MANIFESTS = {
    EXAMPLES / "scheduler-plugin"
}  # a configuration file of the scheduler: tests/unit/scheduler/test_plugins.py


@pytest.fixture
async def cluster(tmp_path):
    async with kubectl_cluster(tmp_path) as made:
        yield made


async def test_every_example_applies(cluster) -> None:
    found = (p for p in EXAMPLES.rglob("*.yaml") if p.parent not in NO_MANIFESTS)
    manifests = sorted(found, key=lambda p: (p.name == "image-registry-policy.yaml", p))  # it refuses others' images
    assert {p.parent.name for p in manifests} >= {"autoscaling", "examples", "gang", "operator"}
    for path in manifests:  # a definition comes before its objects: crd.yaml before example.yaml
        made = await cluster.kubectl("apply", "--validate=strict", "-f", str(path))
        assert made.count(" created") == len(made.splitlines()) > 0, (path, made)
        if path.name == "crd.yaml":
            await cluster.kubectl("wait", "--for=condition=Established", "-f", str(path), "--timeout=60s")


async def test_the_gang_is_four_pods_of_one_group(cluster) -> None:
    await cluster.kubectl("apply", "-f", str(EXAMPLES / "gang"))
    await cluster.kubectl("wait", "--for=create", "pod", "-l", "job-name=train", "--timeout=60s")
    await cluster.kubectl("wait", "--for=condition=complete", "job/train", "--timeout=60s")
    group = "jsonpath={range .items[*]}{.metadata.labels.scheduling\\.x-k8s\\.io/pod-group} {.spec.subdomain};{end}"
    assert await cluster.kubectl("get", "pods", "-l", "job-name=train", "-o", group) == "train train;" * 4
