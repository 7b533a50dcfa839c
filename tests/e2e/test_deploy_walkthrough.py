"""The reference's section 5, step by step, on the three machines (`make walkthrough` shows the same)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import PREFIX, ROOT, Cluster

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
