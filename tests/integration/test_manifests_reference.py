"""The reference's manifests, applied with stock kubectl: what the API answers is what Kubernetes' API would.

No controller runs here (test_manifests_run.py runs the Pods). A manifest whose kind this cluster does not know must say
so in infra/manifests/reference/README.md, and only such a one may.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.api.scheme import SCHEME
from tests.support.apiserver_harness import Pki, edge
from tests.support.kubectl import NEEDS_KUBECTL, Kubectl

MANIFESTS = Path(__file__).resolve().parents[2] / "infra" / "manifests" / "reference"
FILES = sorted(path.name for path in MANIFESTS.glob("*.yaml"))
Obj = dict[str, Any]

pytestmark = NEEDS_KUBECTL


def documents(name: str) -> list[Obj]:
    return [doc for doc in yaml.safe_load_all((MANIFESTS / name).read_text()) if doc]


def known(name: str) -> bool:
    return all(SCHEME.for_object(doc) is not None for doc in documents(name))


def readme_rows() -> dict[str, str]:
    """File -> what the README's table says becomes of it."""
    rows = re.findall(r"^\| `([^`]+\.yaml)` \|.*?\| ([^|]+) \|$", (MANIFESTS / "README.md").read_text(), re.MULTILINE)
    return dict(rows)


class Manifests(Kubectl):
    """kubectl on the reference's manifests, by their file names."""

    async def apply(self, name: str) -> list[str]:
        return (await self("apply", "-f", str(MANIFESTS / name))).splitlines()

    async def versions(self, name: str) -> str:
        template = "jsonpath={.items[*].metadata.resourceVersion}{.metadata.resourceVersion}"
        out = await self("get", "-f", str(MANIFESTS / name), "-o", template)
        assert out
        return out

    async def get(self, kind: str, name: str) -> Obj:
        found: Obj = json.loads(await self("get", kind, name, "-o", "json"))
        return found


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def kubectl(pki: Pki, tmp_path: Path) -> AsyncIterator[Manifests]:
    async with edge(pki) as server:
        run = Manifests(server, root=tmp_path)
        # made by a controller in a whole cluster; without it Kubernetes admits no Pod
        await run("create", "serviceaccount", "default")
        yield run


def test_the_readme_lists_every_manifest_and_is_honest() -> None:
    rows = readme_rows()
    assert sorted(rows) == FILES
    wrong = [name for name in FILES if known(name) == rows[name].startswith("kind not known")]
    assert not wrong, f"{MANIFESTS}/README.md is out of date for {wrong}"


@pytest.mark.parametrize("name", FILES)
def test_each_says_where_it_is_from_and_what_was_done(name: str) -> None:
    comment = " ".join(line[2:] for line in (MANIFESTS / name).read_text().splitlines() if line.startswith("# "))
    assert re.match(r"Section \d+[A-D]?, ", comment)
    assert re.search(r"(nothing was completed or changed|[Cc]ompleted:|Changed:|Made up here:)", comment)


@pytest.mark.parametrize("name", [name for name in FILES if known(name)])
async def test_it_is_stored_and_a_second_apply_changes_nothing(kubectl: Manifests, name: str) -> None:
    first = await kubectl.apply(name)
    assert len(first) == len(documents(name)) and all(line.endswith(" created") for line in first), first
    before = await kubectl.versions(name)
    await kubectl.apply(name)  # kubectl calls some of them configured, as anywhere: its patch is not empty
    assert await kubectl.versions(name) == before


def _pod(pod: Obj, qos: str) -> None:
    assert pod["status"] == {"phase": "Pending", "qosClass": qos}
    spec = pod["spec"]
    assert (spec["dnsPolicy"], spec["schedulerName"]) == ("ClusterFirst", "default-scheduler")
    assert spec["serviceAccountName"] == "default" and spec["enableServiceLinks"] is True
    assert {(t["key"], t["tolerationSeconds"]) for t in spec["tolerations"]} == {
        ("node.kubernetes.io/not-ready", 300),
        ("node.kubernetes.io/unreachable", 300),
    }
    assert all(c["imagePullPolicy"] == "IfNotPresent" for c in spec["containers"])
    assert "kube-api-access" in spec["containers"][0]["volumeMounts"][-1]["name"]


def _template(workload: Obj) -> Obj:
    found: Obj = workload["spec"]["template"]["spec"]
    assert (found["restartPolicy"], found["terminationGracePeriodSeconds"]) == ("Always", 30)
    return found


def _service(service: Obj, port: int, target: int) -> None:
    spec = service["spec"]
    assert ipaddress.ip_address(spec["clusterIP"]) in ipaddress.ip_network("10.96.0.0/12")
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert spec["ports"] == [{"port": port, "targetPort": target, "protocol": "TCP"}]
    assert (spec["sessionAffinity"], spec["internalTrafficPolicy"]) == ("None", "Cluster")
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")


def _replica_set(found: Obj) -> None:
    assert (found["spec"]["replicas"], found["status"]["replicas"], found["metadata"]["generation"]) == (3, 0, 1)
    assert _template(found)["containers"][0]["image"] == "nginx:1.21"


def _deployment(found: Obj) -> None:
    spec = found["spec"]
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }
    assert (spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (10, 600)
    assert _template(found)["containers"][0]["ports"] == [{"containerPort": 3000, "protocol": "TCP"}]


def _spread(found: Obj) -> None:
    (term,) = _template(found)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term == {"labelSelector": {"matchLabels": {"app": "api"}}, "topologyKey": "kubernetes.io/hostname"}


def _volume(found: Obj) -> None:
    spec = found["spec"]
    assert (spec["persistentVolumeReclaimPolicy"], spec["volumeMode"]) == ("Retain", "Filesystem")
    assert spec["awsElasticBlockStore"] == {"volumeID": "vol-abc123", "fsType": "ext4"}
    assert "kubernetes.io/pv-protection" in found["metadata"]["finalizers"]


def _claim(found: Obj) -> None:
    assert (found["spec"]["volumeMode"], found["status"]["phase"]) == ("Filesystem", "Pending")
    assert found["spec"]["storageClassName"] == "fast-ssd" and "volumeName" not in found["spec"]
    assert "kubernetes.io/pvc-protection" in found["metadata"]["finalizers"]


def _budget(found: Obj) -> None:
    assert (found["spec"]["minAvailable"], found["metadata"]["generation"]) == (2, 1)


ANSWERS: dict[str, tuple[str, str, Callable[[Obj], None]]] = {
    "03a-pod-nginx.yaml": ("pod", "nginx", lambda o: _pod(o, "BestEffort")),
    "03b-pod-web-app.yaml": ("pod", "web-app-xyz", lambda o: _pod(o, "BestEffort")),
    "03c-replicaset-web.yaml": ("replicaset", "web", _replica_set),
    "03d-service-web-service.yaml": ("service", "web-service", lambda o: _service(o, 80, 8080)),
    "04c-1-persistentvolume-pv-database.yaml": ("pv", "pv-database", _volume),
    "04c-2-persistentvolumeclaim-postgres-pvc.yaml": ("pvc", "postgres-pvc", _claim),
    "04c-4-pod-postgres.yaml": ("pod", "postgres", lambda o: _pod(o, "BestEffort")),
    "05-1-deployment-api.yaml": ("deployment", "api", _deployment),
    "05-7-service-api-service.yaml": ("service", "api-service", lambda o: _service(o, 80, 3000)),
    "06a-2-poddisruptionbudget-api-pdb.yaml": ("pdb", "api-pdb", _budget),
    "06a-3-deployment-api-spread.yaml": ("deployment", "api", _spread),
    "06b-0-pod-out-of-memory.yaml": ("pod", "out-of-memory", lambda o: _pod(o, "Burstable")),
    "06b-1-pod-more-memory.yaml": ("pod", "more-memory", lambda o: _pod(o, "Burstable")),
    "06b-2-pod-guaranteed.yaml": ("pod", "guaranteed", lambda o: _pod(o, "Guaranteed")),
    "06c-2-pod-ndots.yaml": ("pod", "ndots", lambda o: _pod(o, "BestEffort")),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_is_filled_in_is_what_kubernetes_fills_in(kubectl: Manifests, name: str) -> None:
    kind, called, check = ANSWERS[name]
    await kubectl.apply(name)
    check(await kubectl.get(kind, called))


async def test_the_anti_affinity_changes_the_deployment_of_section_5(kubectl: Manifests) -> None:
    await kubectl.apply("05-1-deployment-api.yaml")
    assert await kubectl.apply("06a-3-deployment-api-spread.yaml") == ["deployment.apps/api configured"]
    found = await kubectl.get("deployment", "api")
    assert found["metadata"]["generation"] == 2
    _spread(found)


async def test_a_selector_that_its_template_does_not_meet_is_refused(kubectl: Manifests, tmp_path: Path) -> None:
    """What the reference's ReplicaSet is without its "# Pod definition"."""
    bare = documents("03c-replicaset-web.yaml")[1]
    bare["spec"]["template"] = {}
    path = tmp_path / "bare.yaml"
    path.write_text(yaml.safe_dump(bare))
    out = await kubectl("apply", "-f", str(path), fails=True)
    assert (
        "`selector` does not match template `labels`" in out and "spec.template.spec.containers: Required value" in out
    )
