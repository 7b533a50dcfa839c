"""The reference's section 5, step by step, on the three machines (`make walkthrough` shows the same)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import PREFIX, ROOT, Cluster, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(300)]


def test_every_step_happens_in_order(cluster: Cluster) -> None:
    command = [sys.executable, str(ROOT / "infra" / "walkthrough.py"), "--json", f"--prefix={PREFIX}"]
    done = subprocess.run(command, capture_output=True, text=True, env=cluster.env, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    phases, rows = found["phases"], found["rows"]
    assert {step for _, step, _, _ in rows} == set(range(1, 11))
    ends = [phases[p][0] for p in ("API validation + etcd write", "Controller creates ReplicaSet")]
    ends += [phases[p][0] for p in ("Controller creates Pods", "Scheduler assigns nodes", "kubelet starts containers")]
    assert ends == sorted(ends)
    assert "None" not in json.dumps(phases) and phases["**Total to application ready**"][0]
    first = [int(revisions.split(",")[0]) for _, step, _, revisions in rows if step in (2, 3, 4) and revisions]
    assert first == sorted(first) and len(set(first)) == len(first), "each of its own revision, in order"


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
