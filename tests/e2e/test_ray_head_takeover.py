"""Ray's head is lost with its disk and stays away: another control plane takes the role, without an operator.

A cluster of its own, which waits 20 s instead of 300. It runs after the main job's, at the same addresses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import BASE, MACHINES, SK8, Cluster, actor_pids, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(900)]
PATIENCE_S = 20


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("a local cluster needs root")
    if os.environ.get("SK8_E2E_REUSE") == "1":
        pytest.skip("the running cluster has its own patience with a silent head")
    directory = tmp_path_factory.mktemp("own")
    cluster = Cluster(directory / "kubeconfig", 0.0)
    settings = directory / "sk8.yaml"
    settings.write_text(f"ray_head_takeover_s: {PATIENCE_S}\n")
    cluster.sk8("down")
    try:
        cluster.sk8("up", "--config", str(settings), timeout_s=300)
        yield cluster
    finally:
        subprocess.run([SK8, "down"], env=cluster.env, capture_output=True, check=False, timeout=300)


def status(cluster: Cluster) -> dict[str, str]:
    """The role of each machine."""
    done = subprocess.run([SK8, "status", "--output", "json"], env=cluster.env, capture_output=True, text=True)
    return {machine["name"]: machine["role"] for machine in json.loads(done.stdout)["machines"]}


def heads(cluster: Cluster) -> list[str]:
    return [name for name, role in status(cluster).items() if "ray-head" in role]


def started(cluster: Cluster) -> dict[str, str]:
    """When the container of each pod began that is not on m1."""
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        for pod in cluster.pods("app=kept")
        if pod["spec"].get("nodeName") != "m1" and "deletionTimestamp" not in pod["metadata"]
    }


def test_another_control_plane_becomes_rays_head(own: Cluster) -> None:
    assert heads(own) == ["m1"]
    subprocess.run(["python3", str(Path(SK8).parents[2] / "infra" / "images" / "build.py")], check=True, timeout=600)
    own.kubectl("create", "deployment", "kept", "--image=nginx:1.21", "--replicas=4")
    eventually(lambda: own.deployment_ready("kept"), within_s=120, what="the pods run")
    own.kubectl("create", "configmap", "acknowledged", "--from-literal=k=v")
    before = started(own)
    own.sk8("machine", "kill", "m1")

    # The next in the order, or the one after it when that one was slow to answer.
    eventually(lambda: heads(own), lambda found: found in (["m2"], ["m3"]), within_s=120, what="Ray has another head")
    for name in ("m2", "m3"):  # one after the other, around the new head
        log = BASE / "machines" / name / "log" / "machine.log"
        eventually(
            lambda log=log: log.read_text().count("all actors of this machine are there"),
            lambda times: times >= 2,
            within_s=240,
            what=f"{name} has its actors in the new Ray",
        )
    # The API answers again when both stores do: a machine off, the other one's actors have only just begun anew.
    kept = eventually(lambda: own.get("configmap", "acknowledged"), within_s=120, what="the API answers")
    assert kept["data"] == {"k": "v"}
    eventually(
        lambda: {name: began for name, began in started(own).items() if name in before} == before,
        within_s=60,
        what="the pods of the other machines are those of before",
    )

    [head] = heads(own)
    other = "m3" if head == "m2" else "m2"
    [victim] = eventually(
        lambda: actor_pids("Scheduler", other), lambda p: len(p) == 1, within_s=60, what="a Scheduler"
    )
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: actor_pids("Scheduler", other) - {victim}, within_s=60, what="the new head starts dead actors")

    own.sk8("machine", "start", "m1", "--wipe")
    eventually(lambda: own.node_ready("m1"), lambda s: s == "True", within_s=240, what="m1 is back")
    assert heads(own) == [head], "the old head is a worker of Ray now"
    members = lambda: json.loads(own.sk8("status", "--output", "json"))["store"]["members"]  # noqa: E731
    eventually(
        lambda: sorted(m["name"] for m in members() if not m["learner"]),
        lambda voters: voters == sorted(MACHINES),
        within_s=120,
        what="three voters again",
    )
