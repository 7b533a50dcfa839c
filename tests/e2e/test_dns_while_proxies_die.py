"""Pods keep their DNS while the Proxy actor of their machine is killed, once and again: killing any actor leaves pods
serving. Not a timing test: a client that never asks twice shows each lost query as a wait of its resolver's time-out
(5 s), and each denial as an error.
"""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.e2e.conftest import Cluster, actor_pids, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(900)]

POD = "dns-loop"
KILLS = 3
SCRIPT = """
import collections, json, signal, socket, sys, time
outcomes, slowest, count = collections.Counter(), 0.0, 0
def report(*_):
    print(json.dumps({"outcomes": outcomes, "slowest_s": slowest, "count": count}), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, report)
print("looping", flush=True)
while True:
    began = time.monotonic()
    try:
        found = socket.getaddrinfo("kubernetes.default.svc.cluster.local.", 443, socket.AF_INET, socket.SOCK_STREAM)
        outcomes[found[0][4][0]] += 1
    except OSError as error:
        outcomes[repr(error)] += 1
    slowest = max(slowest, time.monotonic() - began)
    count += 1
    if count % 1000 == 0:
        print(count, flush=True)
"""


def test_no_lookup_fails_or_waits_while_the_proxy_is_killed(cluster: Cluster) -> None:
    container = {"name": "main", "image": "mycompany/api:v1.2.3", "command": ["/usr/bin/python3", "-u", "-c", SCRIPT]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD},
        "spec": {"nodeName": "m1", "restartPolicy": "Never", "containers": [container]},
    }
    address = cluster.get("service", "kubernetes")["spec"]["clusterIP"]
    cluster.kubectl("delete", "pod", POD, "--ignore-not-found", "--grace-period=0", "--force")
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    try:
        eventually(lambda: "looping" in cluster.kubectl("logs", POD), within_s=60, what="the pod loops")
        for _ in range(KILLS):
            [victim] = eventually(
                lambda: actor_pids("Proxy", "m1"), lambda pids: len(pids) == 1, within_s=60, what="a Proxy actor on m1"
            )
            time.sleep(1)  # of lookups that it answers
            asked = _asked(cluster)
            os.kill(victim, signal.SIGKILL)
            eventually(
                lambda before=victim: actor_pids("Proxy", "m1") - {before}, within_s=60, what="another Proxy on m1"
            )
            eventually(lambda before=asked: _asked(cluster) > before, within_s=30, what="lookups go on")
        # Its process 1 may be gone before the exec is told how it ended.
        cluster.kubectl("exec", POD, "--", "/usr/bin/python3", "-c", "import os; os.kill(1, 15)", ok=False)
        text = eventually(
            lambda: cluster.kubectl("logs", POD), lambda t: "outcomes" in t, within_s=30, what="the pod's report"
        )
        report = json.loads(next(line for line in text.splitlines() if "outcomes" in line))
        print(report)
        assert list(report["outcomes"]) == [address], report
        assert report["slowest_s"] < 4.5, f"a query was lost, and its resolver waited: {report}"
    finally:
        cluster.kubectl("delete", "pod", POD, "--ignore-not-found", "--grace-period=0", "--force")


def _asked(cluster: Cluster) -> int:
    numbers = [int(line) for line in cluster.kubectl("logs", POD, "--tail=2").splitlines() if line.isdigit()]
    return max(numbers, default=0)
