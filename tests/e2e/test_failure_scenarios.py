"""The reference's scenarios A and B on real machines and containers, each with its fixes.

A in the reference's own times is `make scenarios` (minutes); here the times are short, and nothing is asserted of them
but their order and that Events say which of them did what. C is tests/integration/test_dns_scenario_c.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import BASE, ROOT, Cluster, actor_pids, eventually, machines

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(900)]

REFERENCE = ROOT / "infra" / "manifests" / "reference"
NAMESPACE = "scenarios"
SKEW_S = 5.0
"""Nodes, slices and pods are watched by a thread each; on a busy box one may hear of its own later than another."""


@pytest.fixture
def place(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace of its own, gone afterwards with all that is in it."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true", timeout_s=120)


def apply(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.kubectl("apply", "-n", NAMESPACE, "-f", str(REFERENCE / name))


def pods(cluster: Cluster, app: str) -> list[dict[str, Any]]:
    return cluster.pods(f"app={app}", NAMESPACE)


def ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


@pytest.mark.slow
def test_a_silent_machine_loses_its_endpoints_then_its_pods(cluster: Cluster) -> None:
    command = [sys.executable, str(ROOT / "infra" / "scenario_a.py"), "--json", f"--base={BASE}"]
    command += ["--grace=4", "--eviction=12", "--toleration=8"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=cluster.env, timeout=600)
    finally:  # when it took too long it was killed, and could mend nothing
        for machine in machines():
            cluster.sk8("link", "up", machine)
        cluster.kubectl("delete", "namespace", "scenario-a", "--ignore-not-found", "--wait=false")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    not_ready, out_of_endpoints, *of_pods = (at for _, at, _ in found["steps"])
    assert of_pods == sorted(of_pods), found["steps"]
    assert max(not_ready, out_of_endpoints) < of_pods[0] + SKEW_S, found["steps"]
    said = "\n".join(found["events"])
    assert "was silent for" in said and "node-monitor-grace-period 4 s" in said
    assert "TaintManagerEviction: Marking for deletion Pod scenario-a/api-" in said
    eventually(
        lambda: {n["metadata"]["name"]: n["spec"].get("taints") for n in cluster.get("nodes")["items"]},
        lambda taints: not any(taints.values()),
        within_s=60,
        what="the machine is as before",
    )


def test_a_kubelet_that_hangs_is_not_a_silent_machine(cluster: Cluster) -> None:
    """Events say which of the two it was; afterwards all is as before. (That no endpoint is taken away meanwhile is a
    unit test: on a busy box the machine may not answer in time, either.)"""

    def ours() -> set[str]:
        """Endpoints on m3."""
        slices = cluster.get("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]
        ends = (e for s in slices for e in s.get("endpoints") or () if e["conditions"]["ready"])
        return {e["targetRef"]["name"] for e in ends if e["nodeName"] == "m3"}

    def told() -> set[tuple[str, str]]:
        """Events about m3 whose machine answers, as often as they were told."""
        about = "involvedObject.name=m3,reason=MachineAgentDown"
        events = cluster.get("events", f"--field-selector={about}")["items"]
        return {(e["metadata"]["uid"], e["metadata"]["resourceVersion"]) for e in events}

    before, earlier, frozen = ours(), told(), actor_pids("Kubelet", "m3")
    assert frozen, "no kubelet runs on m3"
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: cluster.node_ready("m3") == "Unknown", within_s=60, what="m3 is NotReady")
        eventually(lambda: told() - earlier, within_s=60, what="an Event says that the machine answers")
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    eventually(lambda: cluster.node_ready("m3") == "True", within_s=90, what="m3 is Ready again")
    eventually(ours, lambda found: found == before, within_s=60, what="its endpoints are those it had")


@pytest.mark.slow
def test_a_with_anti_affinity_and_a_budget(place: Cluster) -> None:
    """Fixes 2 and 3: one machine takes one pod at most with it, and no drain takes another meanwhile."""
    apply(place, "06a-2-poddisruptionbudget-api-pdb.yaml", "06a-3-deployment-api-spread.yaml")
    # The image's program wants its database for nothing that is looked at here.
    eventually(lambda: sum(map(ready, pods(place, "api"))) == 3, within_s=120, what="one pod on each machine")
    assert len({p["spec"]["nodeName"] for p in pods(place, "api")}) == 3
    place.sk8("machine", "kill", "m3")
    try:
        eventually(lambda: sum(map(ready, pods(place, "api"))) == 2, within_s=60, what="two are left")
        left = eventually(
            lambda: [p for p in pods(place, "api") if not p["spec"].get("nodeName")],
            lambda waiting: len(waiting) == 1,
            within_s=60,
            what="the third has no machine of its own",
        )
        assert left[0]["status"]["phase"] == "Pending"
        eventually(
            lambda: place.get("pdb", "api-pdb", "-n", NAMESPACE)["status"]["disruptionsAllowed"] == 0,
            within_s=60,
            what="the budget allows none",
        )
        drain = ("drain", "m2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=4s")
        refused = place.kubectl(*drain, f"--pod-selector=app=api,pod-template-hash={_hash(place)}", ok=False)
        assert "violate the pod's disruption budget" in refused
        assert sum(map(ready, pods(place, "api"))) == 2
    finally:
        place.sk8("machine", "start", "m3")
        place.kubectl("uncordon", "m2", ok=False)
    eventually(lambda: place.node_ready("m3") == "True", within_s=90, what="m3 is back")
    eventually(lambda: sum(map(ready, pods(place, "api"))) == 3, within_s=120, what="it has its pod again")
    place.wait_demo(120)


def _hash(cluster: Cluster) -> str:
    """Of our pods: the demo in `default` has the label app=api, too."""
    return str(pods(cluster, "api")[0]["metadata"]["labels"]["pod-template-hash"])


def test_b_out_of_memory_kills_restarts_and_backs_off(place: Cluster) -> None:
    apply(place, "06b-0-pod-out-of-memory.yaml")

    def container() -> dict[str, Any]:
        status: dict[str, Any] = place.get("pod", "out-of-memory", "-n", NAMESPACE)["status"]["containerStatuses"][0]
        return status

    seen = eventually(container, lambda c: c["restartCount"] >= 1, within_s=120, what="killed, and started again")
    last = seen.get("lastState", {}).get("terminated") or seen["state"].get("terminated")
    assert (last["reason"], last["exitCode"]) == ("OOMKilled", 137)
    again = eventually(
        container,
        lambda c: (c["state"].get("waiting") or {}).get("reason") == "CrashLoopBackOff",
        within_s=120,
        what="CrashLoopBackOff",
    )
    assert again["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert re.search(r"back-off (\d+m)?\d+s restarting failed container", again["state"]["waiting"]["message"])


def test_b_fixes(place: Cluster) -> None:
    """Twice the limit; requests equal to limits. Both run, and the second is the last to be evicted."""
    apply(place, "06b-1-pod-more-memory.yaml", "06b-2-pod-guaranteed.yaml")
    for name, quality in (("more-memory", "Burstable"), ("guaranteed", "Guaranteed")):
        pod = eventually(
            lambda n=name: place.get("pod", n, "-n", NAMESPACE), ready, within_s=90, what=f"{name} is Ready"
        )
        assert pod["status"]["qosClass"] == quality
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_b_a_killed_server_serves_again(place: Cluster) -> None:
    """It takes more than there is once; the container that was killed for it is started again, and serves."""
    hungry = "hoard=0123456789abcdef; while true; do hoard=$hoard$hoard; done"
    serve = "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 3000 -h /www"
    container = {
        "name": "main",
        "image": "busybox:1.36",
        "command": ["sh", "-c", f"if [ ! -e /keep/once ]; then touch /keep/once; {hungry}; fi; {serve}"],
        "resources": {"limits": {"memory": "64Mi"}},
        "volumeMounts": [{"name": "keep", "mountPath": "/keep"}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 3000}, "periodSeconds": 1},
    }
    spec = {
        "containers": [container],
        "volumes": [{"name": "keep", "emptyDir": {}}],
        "terminationGracePeriodSeconds": 1,
    }
    meta = {"name": "payment", "namespace": NAMESPACE, "labels": {"app": "payment"}}
    place.kubectl(
        "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    )
    pod = eventually(lambda: pods(place, "payment")[0], ready, within_s=90, what="it serves after it was killed")
    status = pod["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1 and status["lastState"]["terminated"]["reason"] == "OOMKilled"
    ended = _seconds(status["lastState"]["terminated"]["finishedAt"])
    print(f"killed, running again {_seconds(status['state']['running']['startedAt']) - ended:.0f} s later")


def _seconds(stamp: str) -> float:
    return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
