"""Schedulers as processes on a store of three: two that both lead, under different leases; and a burst of pods during
which the store's leader is killed. No node is overcommitted, no pod is bound twice, none is lost.

Nodes are plain objects without a kubelet, whose admission would otherwise be the last to look.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_plane import REPOSITORY, ControlPlane, eventually, new_config

NODES, CPUS = 10, 8
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    without = ("ServiceAccount", "TaintNodesByCondition")
    base = tmp_path_factory.mktemp("two") / "base"
    made = ControlPlane(new_config(base, 72, disable_admission_plugins=without))
    try:
        made.found()
        made.start_all("state")
        made.start("apiserver", "m1")
        made.start("scheduler", "m1")
        ready = lambda: made.kubectl("get", "--raw", "/readyz").stdout  # noqa: E731
        eventually(ready, lambda said: said == "ok", what="the API server is ready", within_s=100)
        nodes = made.kubectl("create", "-f", "-", stdin=listed([node(i) for i in range(NODES)]))
        assert nodes.returncode == 0, nodes.stderr
        yield made
    finally:
        made.stop()


def node(index: int) -> dict[str, Any]:
    room = {"cpu": str(CPUS), "memory": "32Gi", "pods": "110"}
    status = {"allocatable": room, "capacity": room, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"n{index}"}, "status": status}


def pod(name: str, cpu: str) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}


def listed(objects: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def create(plane: ControlPlane, objects: list[dict[str, Any]]) -> None:
    """All of them, though the API server may be without a store meanwhile."""
    body = listed(objects)
    applied = lambda: plane.kubectl("apply", "--server-side", "-f", "-", stdin=body)  # noqa: E731
    eventually(applied, lambda done: done.returncode == 0, what="all objects are there", within_s=120)


def pods(plane: ControlPlane) -> list[dict[str, Any]]:
    """None, too, while the API server cannot say."""
    found = plane.kubectl("get", "pods", "-o", "json")
    return json.loads(found.stdout)["items"] if found.returncode == 0 else []


def taken(plane: ControlPlane) -> Counter[str]:
    """CPUs by node."""
    found: Counter[str] = Counter()
    for one in pods(plane):
        cpu = one["spec"]["containers"][0]["resources"]["requests"]["cpu"]
        found[one["spec"].get("nodeName", "")] += int(cpu)
    del found[""]
    return found


@contextmanager
def stray(plane: ControlPlane, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.support.stray_scheduler", "scheduler", "m2", plane.config.base_dir]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def been_on(plane: ControlPlane, since: str) -> dict[str, set[str]]:
    """The nodes of all pods at any time since then: watched from the store's history, so nothing is missed."""
    newest = max(map(revision, eventually(lambda: pods(plane), bool, what="the API server answers")))
    path = f"{PODS}?watch=1&resourceVersion={since}&timeoutSeconds=3"

    def history() -> list[dict[str, Any]]:
        events = map(json.loads, plane.kubectl("get", "--raw", path).stdout.splitlines())
        return [event["object"] for event in events if event["type"] != "ERROR"]

    whole = eventually(history, lambda seen: newest in map(revision, seen), what="all that was written is seen")
    found: dict[str, set[str]] = {}
    for one in whole:
        found.setdefault(one["metadata"]["name"], set()).update(filter(None, [one["spec"].get("nodeName")]))
    return found


def revision(one: dict[str, Any]) -> int:
    return int(one["metadata"].get("resourceVersion") or 0)


@pytest.fixture
def began(plane: ControlPlane) -> Iterator[str]:
    """The revision before there are pods. None are left."""
    found = eventually(
        lambda: plane.kubectl("get", "--raw", PODS), lambda got: got.returncode == 0, what="the API server answers"
    )
    yield json.loads(found.stdout)["metadata"]["resourceVersion"]
    removal = ("delete", "--raw", f"{PODS}?gracePeriodSeconds=0")
    eventually(lambda: plane.kubectl(*removal), lambda done: done.returncode == 0, what="all pods are deleted")
    assert json.loads(plane.kubectl("get", "--raw", PODS).stdout)["items"] == []


def test_two_under_different_leases_fill_the_nodes_to_the_brim(plane: ControlPlane, began: str, tmp_path: Path) -> None:
    log = tmp_path / "stray.log"
    told = lambda: log.read_text() + plane.log("scheduler", "m1")  # noqa: E731
    with stray(plane, log):
        eventually(told, lambda text: "stray-kube-scheduler: m2 leads" in text, what="both lead")
        create(plane, [pod(f"p{i}", cpu=str(1 + i % 3)) for i in range(NODES * CPUS)])
        full = eventually(
            lambda: taken(plane), lambda cpus: cpus.total() >= NODES * CPUS, what="the nodes are full", within_s=120
        )
        assert full == dict.fromkeys((f"n{i}" for i in range(NODES)), CPUS)
        eventually(told, lambda text: "another scheduler binds pods" in text, what="one of them says so")
    seen = been_on(plane, began)
    assert len(seen) == NODES * CPUS and all(len(nodes) <= 1 for nodes in seen.values()), seen


def test_a_store_that_loses_its_leader_in_mid_burst(plane: ControlPlane, began: str) -> None:
    burst = [pod(f"b{i}", cpu="1") for i in range(NODES * CPUS)]
    create(plane, burst[:20])
    eventually(lambda: taken(plane).total(), lambda cpus: cpus > 0, what="the first are bound")
    status = plane.sk8_json("store", "status")
    plane.kill("state", next(row["name"] for row in status if row["role"] == "leader"))
    create(plane, burst[20:])
    full = eventually(
        lambda: taken(plane), lambda cpus: cpus.total() >= len(burst), what="all pods are bound", within_s=120
    )
    assert full == dict.fromkeys((f"n{i}" for i in range(NODES)), CPUS)
    seen = been_on(plane, began)
    assert len(seen) == len(burst) and all(len(nodes) == 1 for nodes in seen.values()), seen
