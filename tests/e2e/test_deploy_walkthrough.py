"""The reference's section 5, step by step, on the three machines (`make walkthrough` shows the same)."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import PREFIX, ROOT, Cluster, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(900)]

ENDS = (
    "API validation + etcd write",
    "Controller creates ReplicaSet",
    "Controller creates Pods",
    "Scheduler assigns nodes",
    "kubelet starts containers",
    "Service created",
    "kube-proxy programs rules",
    "DNS registration",
    "**Total to application ready**",
)


def test_every_step_happens_in_order(cluster: Cluster) -> None:
    command = [sys.executable, str(ROOT / "infra" / "walkthrough.py"), "--json", f"--prefix={PREFIX}"]
    done = subprocess.run(command, capture_output=True, text=True, env=cluster.env, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    phases, rows = found["phases"], found["rows"]
    assert {step for _, step, _, _ in rows} == set(range(1, 11))
    assert not [phase for phase in ENDS if not (phases[phase][0] or 0) > 0], phases
    assert phases["First request served"][1] > 0
    # Times are those of arrival on one stream for each resource: on a busy box they say nothing of the order.
    first = {step: min(of_step(rows, step)) for step in (2, 3, 4, 5, 6, 7)}
    assert sorted(first, key=first.__getitem__) == list(first), f"steps happen in order: {first}"
    assert len(set(first.values())) == len(first), "each has a revision of its own"


def of_step(rows: list[tuple[float, int, str, str]], wanted: int) -> list[int]:
    """The store's revisions of what was written in a step."""
    return [int(r) for _, step, _, revisions in rows if step == wanted and revisions for r in revisions.split(",")]


def test_the_replica_sets_timeline(cluster: Cluster) -> None:
    """Section 3C: three are made; one is lost and replaced; five are wanted and two more made. Without polling."""
    namespace, began = "timeline", time.monotonic()

    def ready() -> set[str]:
        pods = cluster.pods("app=web", namespace)
        conditions = {p["metadata"]["uid"]: p["status"].get("conditions", ()) for p in pods}
        return {
            uid for uid, cs in conditions.items() if any(c["type"] == "Ready" and c["status"] == "True" for c in cs)
        }

    def reached(count: int, what: str) -> set[str]:
        found = eventually(ready, lambda uids: len(uids) == count, within_s=90, what=what)
        print(f"t={time.monotonic() - began:5.1f}s  {what}")
        return found

    cluster.kubectl("create", "namespace", namespace)
    try:
        cluster.kubectl("apply", "-n", namespace, "-f", str(ROOT / "infra/manifests/reference/03c-replicaset-web.yaml"))
        first = reached(3, "three pods")
        victim = cluster.pods("app=web", namespace)[0]["metadata"]
        cluster.kubectl("delete", "pod", victim["name"], "-n", namespace, "--grace-period=0", "--force")
        eventually(ready, lambda uids: victim["uid"] not in uids, within_s=60, what="one is lost")
        second = reached(3, "three again")
        assert len(second - first) == 1, "one new pod, no more"
        cluster.kubectl("scale", "replicaset", "web", "-n", namespace, "--replicas=5")
        third = reached(5, "five")
        assert second < third, "two were added to those that ran"
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--wait=true", timeout_s=120)
