"""Kill the controllers after every write they make and start them again: the cluster always comes to the same rest.

Each story is played once undisturbed, and then again and again, each time with all controllers killed after their
first, second, third, ... write. Whatever a write leaves half done, those who come after have to finish: no orphan, no
pod too many, no status that stays behind. No story has those who write only with the help of somebody outside: the
autoscalers (metrics, machines), the signers (an authority), the clouds'.
"""

from __future__ import annotations

from typing import Any

import pytest

from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World, deployment, template
from tests.support.mortal_controllers import Step, play


def made(resource: str, obj: Obj) -> Step:
    async def step(w: World) -> None:
        await w.create(resource, obj)

    return step


def patched(resource: str, name: str, **spec: Any) -> Step:
    async def step(w: World) -> None:
        await w.client.patch(resource, name, {"spec": spec}, "default")

    return step


def deleted(resource: str, name: str, namespace: str = "default", propagation: str = "") -> Step:
    async def step(w: World) -> None:
        await w.client.delete(resource, name, namespace, propagation=propagation)

    return step


async def _cluster(w: World) -> None:
    for namespace in ("default", "kube-node-lease"):
        await w.namespace(namespace)
    for name in ("n1", "n2"):
        await w.node(name)


async def _ended(w: World) -> None:
    """Every running pod ends; those of index 1 fail."""
    for pod in await w.items("pods"):
        meta, status = pod["metadata"], pod.get("status") or {}
        if status.get("phase") != "Running":
            continue
        failed = (meta.get("annotations") or {}).get("batch.kubernetes.io/job-completion-index") == "1"
        changed = clone(pod)
        changed["status"] = {**status, "phase": "Failed" if failed else "Succeeded", "conditions": []}
        await w.client.update("pods", changed, subresource="status")


def later(seconds: float) -> Step:
    """The machines live on meanwhile."""

    async def step(w: World) -> None:
        for name in ("n1", "n2"):
            await w.heartbeat(name, lasts_s=86_400)
        await w.tick(seconds)

    return step


def unusable(node: str) -> Step:
    """A taint that nobody tolerates: its pods have to go."""

    async def step(w: World) -> None:
        taint = {"key": "example.com/broken", "effect": "NoExecute"}
        await w.client.patch("nodes", node, {"spec": {"taints": [taint]}})

    return step


def off(node: str) -> Step:
    """The provider says so."""

    async def step(w: World) -> None:
        w.provider.set_state(node, "off")

    return step


def uses(pod: str, **volume: Any) -> Obj:
    spec: Obj = template()["spec"] | {"volumes": [{"name": "v", **volume}], "nodeName": "n1"}
    return {"metadata": {"name": pod, "namespace": "default"}, "spec": spec}


def role(name: str, label: str, gathers: str = "") -> Obj:
    rules = [{"apiGroups": [""], "resources": [name], "verbs": ["get"]}]
    body: Obj = {"metadata": {"name": name, "labels": {label: "yes"}}, "rules": [] if gathers else rules}
    if gathers:
        body["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {gathers: "yes"}}]}
    return body


def workload(kind: str, **spec: Any) -> Obj:
    body = {"selector": {"matchLabels": {"app": "web"}}, "template": template(), **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web", "namespace": "default"}, "spec": body}


def within(namespace: str, obj: Obj) -> Obj:
    return {**obj, "metadata": {**obj["metadata"], "namespace": namespace}}


def image(name: str) -> Obj:
    return {"spec": {"containers": [{"name": "main", "image": name}]}}


CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
SERVICE: Obj = {
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]},
}
HAND_MADE: Obj = {
    "metadata": {"name": "web", "namespace": "default"},
    "subsets": [{"addresses": [{"ip": "10.1.1.1"}], "ports": [{"port": 80}]}],
}
INDEXED: Obj = {
    "metadata": {"name": "work", "namespace": "default"},
    "spec": {
        "completionMode": "Indexed",
        "completions": 3,
        "parallelism": 3,
        "backoffLimitPerIndex": 0,
        "template": template("work", restartPolicy="Never"),
    },
}
BUDGET: Obj = {
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}},
}
QUOTA: Obj = {"metadata": {"name": "few", "namespace": "default"}, "spec": {"hard": {"pods": "20"}}}
RC: Obj = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 2, "template": template()}}

TICKS: Obj = {
    "metadata": {"name": "tick", "namespace": "default"},
    "spec": {
        "schedule": "*/5 * * * *",
        "concurrencyPolicy": "Replace",
        "successfulJobsHistoryLimit": 1,
        "jobTemplate": {"spec": {"template": template("tick", restartPolicy="Never")}},
    },
}
BLOCK: Obj = {
    "metadata": {"name": "block"},
    "provisioner": "block.sk8.io",
    "reclaimPolicy": "Delete",
    "allowVolumeExpansion": True,
    "volumeBindingMode": "Immediate",
}
DATA: Obj = {"metadata": {"name": "data", "namespace": "default"}, "spec": CLAIM | {"storageClassName": "block"}}
ROLES = "clusterroles.rbac.authorization.k8s.io"
CIDRS = "servicecidrs.networking.k8s.io"

STORIES: dict[str, list[Step]] = {
    "a Deployment is rolled, scaled meanwhile, and rolled back": [
        made("deployments.apps", deployment(replicas=3)),
        patched("deployments.apps", "web", template=image("nginx:2")),
        patched("deployments.apps", "web", replicas=4, template=image("nginx:1.21")),
        deleted("deployments.apps", "web", propagation="Foreground"),
    ],
    "a ReplicationController under a budget and a quota": [
        made("resourcequotas", QUOTA),
        made("poddisruptionbudgets.policy", BUDGET),
        made("replicationcontrollers", RC),
        patched("replicationcontrollers", "web", replicas=3),
        deleted("replicationcontrollers", "web", propagation="Orphan"),
    ],
    "a StatefulSet with claims is updated and scaled down": [
        made(
            "statefulsets.apps",
            workload(
                "StatefulSet",
                replicas=2,
                serviceName="web",
                volumeClaimTemplates=[{"metadata": {"name": "data"}, "spec": CLAIM}],
                persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete", "whenDeleted": "Retain"},
            ),
        ),
        patched("statefulsets.apps", "web", template=image("nginx:2")),
        patched("statefulsets.apps", "web", replicas=1),
    ],
    "a DaemonSet is updated": [
        made("daemonsets.apps", workload("DaemonSet")),
        patched("daemonsets.apps", "web", template=image("nginx:2")),
    ],
    "an Indexed Job of which one index fails": [
        made("jobs.batch", INDEXED),
        _ended,
        deleted("jobs.batch", "work", propagation="Background"),
    ],
    "a Service with a load balancer loses its selector to Endpoints made by hand": [
        made("replicasets.apps", workload("ReplicaSet", replicas=2)),
        made("services", SERVICE),
        patched("services", "web", selector=None),
        deleted("endpoints", "web"),
        made("endpoints", HAND_MADE),
        deleted("services", "web"),
    ],
    "a CronJob's runs: replaced, ended, forgotten": [
        made("cronjobs.batch", TICKS),
        later(300),
        later(300),
        _ended,
        later(300),
        _ended,
        deleted("cronjobs.batch", "tick", propagation="Background"),
    ],
    "a machine loses its pods to a taint, then the other one is off": [
        made("replicasets.apps", workload("ReplicaSet", replicas=3)),
        unusable("n2"),
        off("n2"),
        later(30),
    ],
    "a volume is made, attached, grows, and goes with its claim": [
        made("storageclasses.storage.k8s.io", BLOCK),
        made("persistentvolumeclaims", DATA),
        made("pods", uses("user", persistentVolumeClaim={"claimName": "data"})),
        patched("persistentvolumeclaims", "data", resources={"requests": {"storage": "2Gi"}}),
        made("pods", uses("passing", ephemeral={"volumeClaimTemplate": {"spec": DATA["spec"]}})),
        deleted("pods", "user"),
        deleted("pods", "passing"),
        deleted("persistentvolumeclaims", "data"),
    ],
    "roles are gathered, a range of addresses comes and goes, a Job expires": [
        made(ROLES, role("outer", "any", gathers="inner")),
        made(ROLES, role("pods", "inner")),
        deleted(ROLES, "pods", ""),
        made(CIDRS, {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}}),
        deleted(CIDRS, "more", ""),
        made("jobs.batch", {**INDEXED, "spec": {**INDEXED["spec"], "ttlSecondsAfterFinished": 60}}),
        _ended,
        later(61),
    ],
    "a namespace goes with all that is in it": [
        made("namespaces", {"metadata": {"name": "team"}}),
        made("deployments.apps", within("team", deployment(replicas=2))),
        made("services", within("team", SERVICE)),
        deleted("namespaces", "team", ""),
    ],
}


@pytest.mark.timeout(600)  # half a minute of nothing but computing, on a box of its own
@pytest.mark.parametrize("story", STORIES)
async def test_killed_after_every_write(story: str) -> None:
    steps: list[Step] = [_cluster, *STORIES[story]]
    undisturbed, writes = await play(steps)
    assert writes > 5, "the story is too short to say anything"
    for last in range(1, writes + 1):
        rests, _ = await play(steps, last)
        for i, (found, wanted) in enumerate(zip(rests, undisturbed, strict=True)):
            assert found == wanted, f"killed after write {last}, step {i}: {found - wanted} but not {wanted - found}"
