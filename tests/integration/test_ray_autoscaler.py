"""The cluster autoscaler on Ray's own autoscaler: pending pods bring raylets, a machine that was drained goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 240

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.environ.get("SK8_RAY_AUTOSCALER"), reason="takes a quiet box: make autoscaler-test"),
]


@pytest.mark.timeout(LIMIT_S + 30)
def test_pending_pods_become_ray_nodes_and_an_idle_one_goes() -> None:
    # Ray's test cluster begins with `ray stop --force`, which ends every Ray it sees: it is given a world of its own.
    inside = f"ip link set lo up && mount -t tmpfs tmpfs /tmp && exec {sys.executable} -m tests.support.ray_autoscaling"
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child", "sh", "-c", inside],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    steps = done.stdout.splitlines()
    assert "done" in steps, done.stdout[-2000:] + done.stderr[-4000:]
    order = ["asked Ray for {'small': 2}", "two machines came", "asked Ray for {'small': 1}", "nodes left: True"]
    assert all(step in steps for step in order), steps
    assert steps.index(order[0]) < steps.index(order[1]) < steps.index(order[2])
    assert steps.index("one machine is left") > steps.index(order[2])
