"""Parts that are killed between two steps that belong together, on a running cluster: nothing acknowledged is lost,
nothing is done twice, and the cluster goes on. The crash points are those of docs/operations.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import BASE, PREFIX, Cluster, actor_pids, eventually, machines

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(900)]


def everywhere(actor: str) -> dict[str, set[int]]:
    return {machine: pids for machine in machines() if (pids := actor_pids(actor, machine))}


def restart(actor: str) -> dict[str, set[int]]:
    """Kill it on every machine that has it; its new processes, which have read the faults."""
    before = everywhere(actor)
    assert before, f"no {actor} runs"
    for pids in before.values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    return eventually(
        lambda: everywhere(actor),
        lambda now: now.keys() == before.keys() and not any(now[m] & before[m] for m in now),
        within_s=90,
        what=f"{actor} started again",
    )


@contextlib.contextmanager
def crash(actor: str, spec: str, ready: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Inside, every `actor` has the crash point and is `ready`; the value waits for one to have crashed at it, and
    takes the point away, so that the next life goes on."""
    files = [BASE / "machines" / machine / "faults" for machine in machines()]
    for file in files:
        file.write_text(f"crash:{spec}\n")
    try:
        armed = restart(actor)
        eventually(ready, within_s=90, what=f"{actor} works again")

        def crashed() -> None:
            eventually(
                lambda: everywhere(actor),
                lambda now: any(now.get(machine, set()) != pids for machine, pids in armed.items()),
                within_s=60,
                what=f"{actor} crashed at {spec}",
            )
            for file in files:
                file.unlink(missing_ok=True)

        yield crashed
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def _pod(name: str) -> str:
    container = {"name": "main", "image": "busybox:1.36", "command": ["/bin/sh", "-c", "sleep 3600"]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def _service(name: str, endpoint: str) -> dict[str, object]:
    """With an endpoint of its own: one without has no rules."""
    ports = [{"port": 80, "protocol": "TCP"}]
    labels = {"kubernetes.io/service-name": name}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [endpoint]}],
        "ports": ports,
    }
    return {"apiVersion": "v1", "kind": "List", "items": [service, slice_]}


def _runs(cluster: Cluster, name: str) -> bool:
    return bool(cluster.get("pod", name)["status"]["phase"] == "Running")


def _gone(cluster: Cluster, *what: str) -> None:
    """Deleted, with its pods. An API server that just died may have cut a connection: then again."""

    def deleted() -> bool:
        said = cluster.kubectl("delete", *what, "--ignore-not-found", "--grace-period=0", "--force", ok=False)
        return "nable to connect" not in said and "refused" not in said and "rror" not in said

    eventually(deleted, within_s=60, what=f"{' '.join(what)} is deleted")
    mine = lambda: [p for p in cluster.get("pods")["items"] if p["metadata"]["name"].startswith("crash-")]  # noqa: E731
    eventually(mine, lambda pods: not pods, within_s=60, what="their pods are gone")


def test_an_api_server_between_commit_and_answer(cluster: Cluster) -> None:
    _gone(cluster, "configmap", "crash-api")
    with crash(
        "ApiServer", "apiserver.after_commit~configmaps/default/crash-api", lambda: cluster.kubectl("get", "nodes")
    ) as crashed:
        said = cluster.kubectl("create", "configmap", "crash-api", "--from-literal=k=v", ok=False)
        assert "created" not in said, "nobody was there to answer"
        crashed()
    stored = eventually(lambda: cluster.get("configmap", "crash-api"), within_s=60, what="the write is there")
    assert stored["data"] == {"k": "v"}
    _gone(cluster, "configmap", "crash-api")


def test_a_scheduler_between_decision_and_bind(cluster: Cluster) -> None:
    _gone(cluster, "pod", "crash-bind")
    with crash("Scheduler", "scheduler.before_commit~pods/default/crash-bind", lambda: True) as crashed:
        cluster.kubectl("create", "-f", "-", stdin=_pod("crash-bind"))
        crashed()
    eventually(lambda: _runs(cluster, "crash-bind"), within_s=90, what="the pod was bound and runs")
    _gone(cluster, "pod", "crash-bind")


def test_controllers_after_the_first_of_several_writes(cluster: Cluster) -> None:
    _gone(cluster, "deployment", "crash-three")
    with crash("Controllers", "controllers.after_commit~pods/default/crash-three", lambda: True) as crashed:
        cluster.kubectl(
            "create", "deployment", "crash-three", "--image=busybox:1.36", "--replicas=3", "--", "sleep", "99"
        )
        crashed()
    eventually(lambda: cluster.deployment_ready("crash-three"), within_s=120, what="all three are available")
    assert len(cluster.pods("app=crash-three")) == 3
    _gone(cluster, "deployment", "crash-three")


def test_a_kubelet_between_sandbox_and_containers(cluster: Cluster) -> None:
    _gone(cluster, "pod", "crash-sandbox")
    ready = lambda: all(cluster.node_ready(machine) == "True" for machine in machines())  # noqa: E731
    with crash("Kubelet", "kubelet.after_sandbox~default/crash-sandbox", ready) as crashed:
        cluster.kubectl("create", "-f", "-", stdin=_pod("crash-sandbox"))
        crashed()
    eventually(lambda: _runs(cluster, "crash-sandbox"), within_s=120, what="the pod runs")
    sandboxes = ["docker", "ps", "-q", "--filter", "name=k8s_POD_crash-sandbox_default_"]
    eventually(
        lambda: subprocess.run(sandboxes, capture_output=True, text=True, check=True).stdout.split(),
        lambda ids: len(ids) == 1,
        within_s=60,
        what="one sandbox, not the half-made one too",
    )
    _gone(cluster, "pod", "crash-sandbox")


def test_a_proxy_between_two_transactions(cluster: Cluster) -> None:
    _gone(cluster, "service/crash-rules", "endpointslice/crash-rules")

    def first_is_done() -> bool:
        """The table of the start is in place on every machine."""
        health = ["curl", "-sf", "http://127.0.0.1:10249/healthz"]
        enter = [["nsenter", f"--net=/run/netns/{PREFIX}-{machine}", *health] for machine in machines()]
        return all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in enter)

    with crash("Proxy", "proxy.before_rules@2", first_is_done) as crashed:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(_service("crash-rules", "192.0.2.10")))
        crashed()
    address = cluster.get("service", "crash-rules")["spec"]["clusterIP"]
    for machine in machines():
        table = ["nsenter", f"--net=/run/netns/{PREFIX}-{machine}", "nft", "list", "table", "ip", "sk8"]
        eventually(
            lambda command=table: address in subprocess.run(command, capture_output=True, text=True, check=True).stdout,
            within_s=90,
            what=f"{machine} knows the Service",
        )
    _gone(cluster, "service/crash-rules", "endpointslice/crash-rules")
