"""The main job, as a new user does it: a cluster, three tiers, kubectl's daily work, and a machine that dies.

The tests run in file order on one cluster, each leaving the demo whole for the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MACHINES, NODE_PORT, SK8, Cluster, ask, eventually, in_machine

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(600)]


def test_three_ready_nodes(cluster: Cluster) -> None:
    nodes = cluster.get("nodes")["items"]
    assert sorted(n["metadata"]["name"] for n in nodes) == sorted(MACHINES)
    assert all(cluster.node_ready(name) == "True" for name in MACHINES)
    assert sorted(n["spec"]["podCIDR"] for n in nodes) == ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]


def test_request_through_all_tiers(cluster: Cluster) -> None:
    number = cluster.add_user("first")
    assert {"id": number, "name": "first"} in cluster.users()


def test_service_from_every_machine_and_node_port_on_each(cluster: Cluster) -> None:
    web = cluster.get("service", "web")["spec"]["clusterIP"]
    for machine, ip in MACHINES.items():
        assert "sk8: three tiers" in in_machine(machine, "curl", "-sS", "--max-time", "5", f"http://{web}/")
        assert ask(f"http://{ip}:{NODE_PORT}/api/users")["users"]


def test_service_by_name_from_a_pod(cluster: Cluster) -> None:
    page = cluster.kubectl("exec", "deploy/web", "--", "wget", "-qO-", "http://web/")
    assert "sk8: three tiers" in page
    found = cluster.kubectl(
        "exec", "deploy/web", "--", "wget", "-qO-", "http://api-service.default.svc.cluster.local/users"
    )
    assert json.loads(found)["users"]


class TestKubectl:
    """Stock kubectl's daily commands; what is expected is what Kubernetes prints."""

    def test_tables(self, cluster: Cluster) -> None:
        lines = cluster.kubectl("get", "pods").splitlines()
        assert lines[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
        assert len(lines) == 8 and all(line.split()[1:3] == ["1/1", "Running"] for line in lines[1:])
        assert cluster.kubectl("get", "pods", "-o", "wide").splitlines()[0].split()[5:7] == ["IP", "NODE"]
        assert "kube-dns" in cluster.kubectl("get", "svc", "-A")
        heads = cluster.kubectl("get", "deploy").splitlines()[0].split()
        assert heads == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
        assert "Bound" in cluster.kubectl("get", "pvc")

    def test_yaml_json_and_paths(self, cluster: Cluster) -> None:
        assert "kind: Deployment" in cluster.kubectl("get", "deploy", "api", "-o", "yaml")
        assert cluster.kubectl("get", "deploy", "api", "-o", "jsonpath={.spec.replicas}") == "3"

    def test_describe(self, cluster: Cluster) -> None:
        text = cluster.kubectl("describe", "pod", "-l", "app=api")
        assert "Successfully assigned default/api-" in text and "Started container api" in text
        assert "Roles:" in cluster.kubectl("describe", "node", "m1")

    def test_create_edit_patch_label_delete(self, cluster: Cluster, tmp_path: Path) -> None:
        cluster.kubectl("create", "configmap", "play", "--from-literal=a=1")
        cluster.kubectl("patch", "configmap", "play", "-p", '{"data": {"b": "2"}}')
        cluster.kubectl("label", "configmap", "play", "tier=x")
        cluster.kubectl("annotate", "configmap", "play", "note=y")
        editor = tmp_path / "editor.sh"
        editor.write_text('#!/bin/sh\nsed -i \'s/a: "1"/a: "9"/\' "$1"\n')
        editor.chmod(0o755)
        subprocess.run(
            ["kubectl", "edit", "configmap", "play"],
            env={
                "KUBECONFIG": str(cluster.kubeconfig),
                "KUBE_EDITOR": str(editor),
                "PATH": "/usr/bin:/bin:/usr/local/bin",
                "HOME": str(tmp_path),  # where its cache goes
            },
            check=True,
            capture_output=True,
            timeout=30,
        )
        found = cluster.get("configmap", "play")
        assert found["data"] == {"a": "9", "b": "2"} and found["metadata"]["labels"] == {"tier": "x"}
        cluster.kubectl("delete", "configmap", "play")
        assert "NotFound" in cluster.kubectl("get", "configmap", "play", ok=False)

    def test_strict_validation_names_the_field(self, cluster: Cluster) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dota": {}}
        text = cluster.kubectl("create", "-f", "-", stdin=json.dumps(body), ok=False)
        assert 'unknown field "dota"' in text

    def test_explain_and_resources(self, cluster: Cluster) -> None:
        assert "replicas" in cluster.kubectl("explain", "deployment.spec")
        assert "deployments" in cluster.kubectl("api-resources")

    def test_logs_and_exec(self, cluster: Cluster) -> None:
        assert "database ready" in cluster.kubectl("logs", "-l", "app=api", "--tail=-1")
        assert cluster.kubectl("exec", "deploy/api", "--", "cat", "/srv/api.py").startswith('"""The demo')
        piped = cluster.kubectl("exec", "-i", "deploy/api", "--", "cat", stdin="over and back")
        assert piped == "over and back"
        failed = subprocess.run(
            ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "exec", "deploy/api", "--", "sh", "-c", "exit 7"],
            capture_output=True,
            timeout=30,
        )
        assert failed.returncode == 7

    def test_follow_logs(self, cluster: Cluster) -> None:
        pod = cluster.pods("app=web")[0]
        argv = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "logs", "-f", pod["metadata"]["name"], "--tail=0"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as follow:
            time.sleep(1)
            cluster.kubectl("exec", pod["metadata"]["name"], "--", "wget", "-qO-", "http://127.0.0.1/?mark")
            timer = threading.Timer(15, follow.kill)
            timer.start()
            assert follow.stdout is not None
            assert any("mark" in line for line in follow.stdout)
            timer.cancel()
            follow.kill()

    def test_watch(self, cluster: Cluster) -> None:
        argv = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "get", "configmap", "-w", "-o", "name"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watch:
            time.sleep(1)
            cluster.kubectl("create", "configmap", "seen", "--from-literal=a=1")
            timer = threading.Timer(15, watch.kill)
            timer.start()
            assert watch.stdout is not None
            assert any("configmap/seen" in line for line in watch.stdout)
            timer.cancel()
            watch.kill()
        cluster.kubectl("delete", "configmap", "seen")

    def test_who_may_what(self, cluster: Cluster) -> None:
        assert cluster.kubectl("auth", "can-i", "delete", "pods").strip() == "yes"
        assert "sk8-admin" in cluster.kubectl("auth", "whoami")


def test_footprint_is_measured(cluster: Cluster, tmp_path: Path) -> None:
    """The benchmark that needs a cluster; memory of one State actor and of the control plane is a goal, not a test."""
    target = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.footprint", "--smoke", "--json", str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    names = {row["name"] for row in json.loads(target.read_text())["rows"]}
    assert {"State: largest PSS", "control plane without Ray's daemons"} <= names


def test_deleted_pod_is_replaced(cluster: Cluster) -> None:
    victim = cluster.pods("app=api")[0]["metadata"]["name"]
    cluster.kubectl("delete", "pod", victim)
    eventually(lambda: cluster.deployment_ready("api"), within_s=40, what="api whole again")
    assert victim not in {p["metadata"]["name"] for p in cluster.pods("app=api")}


def test_scale(cluster: Cluster) -> None:
    for replicas in (5, 3):
        cluster.kubectl("scale", "deployment", "web", f"--replicas={replicas}")
        eventually(lambda: cluster.deployment_ready("web"), within_s=60, what=f"web at {replicas}")
    eventually(lambda: len(cluster.pods("app=web")), lambda n: n == 3, within_s=30, what="surplus pods gone")


class Load:
    """One GET after another through the Service's NodePort, each answer counted."""

    def __init__(self, ip: str, path: str = "/") -> None:
        self.url = f"http://{ip}:{NODE_PORT}{path}"
        self.done = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            done = subprocess.run(
                ["curl", "-sS", "-o", "/dev/null", "--max-time", "5", "-f", self.url], capture_output=True, text=True
            )
            self.done += 1
            if done.returncode:
                self.failed.append(f"{time.time():.1f}: {done.stderr.strip()}")
            self._stop.wait(0.02)


def test_rollout_fails_no_request(cluster: Cluster) -> None:
    template = {"metadata": {"annotations": {"rolled": str(time.time())}}}
    with Load(MACHINES["m2"]) as load:
        cluster.kubectl("patch", "deployment", "web", "-p", json.dumps({"spec": {"template": template}}))
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=120s", timeout_s=130)
    assert load.done > 50
    assert load.failed == []


def _leader_machine(cluster: Cluster) -> str:
    status = json.loads(cluster.sk8("status", "--output", "json"))
    return str(status["store"]["leader"])


@pytest.mark.parametrize("holder", ["database", "raft leader", "ray head", "scheduler"])
def test_machine_killed(cluster: Cluster, holder: str) -> None:
    """A power failure: endpoints leave, pods are Ready elsewhere within 15 s, no acknowledged row is lost."""
    cluster.wait_demo()
    victim = {
        "database": lambda: cluster.pods("app=postgres")[0]["spec"]["nodeName"],
        "raft leader": lambda: _leader_machine(cluster),
        "ray head": lambda: "m1",
        "scheduler": lambda: cluster.get("lease", "-n", "kube-system", "kube-scheduler")["spec"]["holderIdentity"],
    }[holder]()
    victim = victim.split("_")[0].removeprefix("scheduler-")
    alive = next(ip for name, ip in MACHINES.items() if name != victim)
    eventually(lambda: cluster.users(alive), within_s=20, what="the surviving machine serves")
    rows = [cluster.add_user(f"{holder}-{i}", alive) for i in range(20)]
    cluster.sk8("machine", "kill", victim)
    killed = time.monotonic()
    try:
        eventually(lambda: cluster.node_ready(victim), lambda s: s != "True", within_s=15, what=f"{victim} NotReady")
        eventually(lambda: _demo_runs_off(cluster, victim), within_s=40, what=f"demo Ready without {victim}")
        elsewhere_s = time.monotonic() - killed
        eventually(lambda: _no_endpoint_on(cluster, victim), within_s=5, what="endpoints left the Services")
        have = {row["id"] for row in eventually(lambda: cluster.users(alive), within_s=10, what="rows read back")}
        assert set(rows) <= have
        print(f"{holder}: {victim} killed, demo Ready elsewhere after {elsewhere_s:.1f} s")
        assert elsewhere_s < 15
    finally:
        cluster.sk8("machine", "start", victim)
    eventually(lambda: cluster.node_ready(victim), lambda s: s == "True", within_s=90, what=f"{victim} is back")
    _wait_serving()


@pytest.mark.parametrize("victim", ["m1", "m3"])
def test_machine_killed_and_its_disk_wiped(cluster: Cluster, victim: str) -> None:
    """m1 holds Ray's head, m3 the State member with the greatest id: both come back as new members of everything."""
    cluster.wait_demo()
    eventually(lambda: cluster.users(MACHINES["m2"]), within_s=20, what="m2, restarted a moment ago, serves")
    rows = [cluster.add_user(f"wiped-{victim}-{i}", MACHINES["m2"]) for i in range(20)]
    cluster.sk8("machine", "kill", victim)
    try:
        eventually(lambda: cluster.kubectl("get", "nodes"), within_s=20, what=f"kubectl works without {victim}")
        eventually(lambda: _demo_runs_off(cluster, victim), within_s=40, what=f"demo Ready without {victim}")
    finally:
        cluster.sk8("machine", "start", victim, "--wipe")
    eventually(lambda: cluster.node_ready(victim), lambda s: s == "True", within_s=120, what=f"{victim} is back")
    # Ray is rebuilt around a new head one machine at a time.
    have = eventually(lambda: cluster.users(MACHINES["m2"]), within_s=20, what="rows read back")
    assert set(rows) <= {row["id"] for row in have}
    eventually(lambda: _voters(cluster), lambda v: v == sorted(MACHINES), within_s=90, what="three voters again")
    # A machine that still has its turn to come would be down together with whatever the next test takes away.
    eventually(_epochs, lambda epochs: len(set(epochs.values())) == 1, within_s=180, what="one Ray on all machines")
    _wait_serving()


def _epochs() -> dict[str, str]:
    """Which Ray each machine is in, by the last start that its log tells of; the head's is that of its disk."""
    said = {name: Path(f"/var/lib/sk8/machines/{name}/log/machine.log").read_text() for name in MACHINES}
    found = {name: re.findall(r"Ray runs in epoch (\S+)", text)[-1] for name, text in said.items()}
    return found | {"head": Path("/var/lib/sk8/machines/m1/ray/epoch").read_text().strip()}


def _wait_serving() -> None:
    """The next test takes another machine away: with this one's member still down, the store had no majority."""
    for what, port in (("a State member", 2379), ("an API server", 6443)):
        found = f"{what} on each machine"
        eventually(lambda p=port: _serving(p), lambda names: names == sorted(MACHINES), within_s=120, what=found)


def _serving(port: int) -> list[str]:
    names = []
    for name, ip in MACHINES.items():
        with contextlib.suppress(OSError), socket.create_connection((ip, port), 5):
            names.append(name)
    return sorted(names)


def _voters(cluster: Cluster) -> list[str]:
    status: dict[str, Any] = json.loads(cluster.sk8("status", "--output", "json"))
    return sorted(m["name"] for m in status["store"]["members"] if not m["learner"])


def test_link_down_ten_seconds_and_healed(cluster: Cluster) -> None:
    """A cut machine is not a dead one: it keeps its pods, and everything meets again afterwards."""
    cluster.wait_demo()
    before = {p["metadata"]["uid"] for p in cluster.pods("app=web") if p["spec"]["nodeName"] == "m3"}
    cluster.sk8("link", "down", "m3")
    time.sleep(10)
    cluster.sk8("link", "up", "m3")
    eventually(lambda: cluster.node_ready("m3"), lambda s: s == "True", within_s=60, what="m3 Ready again")
    cluster.wait_demo()
    assert before <= {p["metadata"]["uid"] for p in cluster.pods("app=web")}
    assert eventually(lambda: cluster.users(MACHINES["m3"]), within_s=10, what="m3 serves again")


def _demo_runs_off(cluster: Cluster, machine: str) -> bool:
    pods = [p for app in ("postgres", "api", "web") for p in cluster.pods(f"app={app}")]
    ready = [
        p
        for p in pods
        if p["spec"].get("nodeName") != machine
        and not p["metadata"].get("deletionTimestamp")
        and any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", ()))
    ]
    return len(ready) >= 7


def _no_endpoint_on(cluster: Cluster, machine: str) -> bool:
    slices = cluster.get("endpointslices")["items"]
    return not any(
        e.get("nodeName") == machine and e["conditions"].get("ready") for s in slices for e in s.get("endpoints") or ()
    )


def test_pods_do_not_reach_the_machines_own_ports(cluster: Cluster) -> None:
    """Ray, the store and the kubelet are for machines; the API is for everybody."""
    probe = "for p in 6379 2379 2380 10250 6390; do nc -w 1 10.89.0.12 $p < /dev/null && echo open $p; done; true"
    assert cluster.kubectl("exec", "deploy/api", "--", "sh", "-c", probe, timeout_s=30) == ""
    assert cluster.kubectl("exec", "deploy/api", "--", "sh", "-c", "nc -w 1 10.89.0.12 6443 < /dev/null && echo open")


def _restart_engine() -> None:
    """Stop dockerd and start it again as it was, as a package upgrade does."""
    pid = next(
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if (entry / "cmdline").exists() and (entry / "cmdline").read_bytes().split(b"\0")[0].endswith(b"dockerd")
    )
    command = [part.decode() for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if part]
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not _alive(pid), within_s=30, what="dockerd stopped")
    with Path("/tmp/sk8-test-dockerd.log").open("ab") as log:
        subprocess.run(["setsid", "--fork", *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)
    eventually(
        lambda: subprocess.run(["docker", "info"], capture_output=True).returncode == 0,
        within_s=30,
        what="dockerd answers again",
    )


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_engine_restarted(cluster: Cluster) -> None:
    """The pods stay the same objects; if the engine took their containers along, they run again."""
    cluster.wait_demo()
    before = {p["metadata"]["uid"] for p in cluster.pods("app=api")}
    _restart_engine()
    eventually(lambda: cluster.users(), within_s=60, what="the demo serves after the engine's restart")
    cluster.wait_demo()
    assert before == {p["metadata"]["uid"] for p in cluster.pods("app=api")}
    assert cluster.kubectl("exec", "deploy/api", "--", "id", "-u").strip() == "0"


def test_clock_jumps(cluster: Cluster) -> None:
    """Ten minutes ahead and back: leases are counted on monotonic clocks, so nobody is declared dead."""
    cluster.wait_demo()
    before = {p["metadata"]["uid"] for p in cluster.pods("app=web")}
    for jump_s in (600.0, -600.0):
        time.clock_settime(time.CLOCK_REALTIME, time.time() + jump_s)
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            assert all(cluster.node_ready(name) == "True" for name in MACHINES)
            time.sleep(0.5)
    assert before == {p["metadata"]["uid"] for p in cluster.pods("app=web")}
    assert cluster.users()


def test_second_up_changes_nothing(cluster: Cluster) -> None:
    uids = {p["metadata"]["uid"] for p in cluster.pods("app=web")}
    done = subprocess.run([SK8, "up"], env=cluster.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Nothing was changed" in done.stderr
    assert uids == {p["metadata"]["uid"] for p in cluster.pods("app=web")}


def test_down_keeping_data_and_up_again(cluster: Cluster) -> None:
    cluster.wait_demo()
    number = cluster.add_user("kept")
    cluster.sk8("down", "--keep-data")
    with pytest.raises((urllib.error.URLError, OSError)):
        ask(f"http://{MACHINES['m1']}:{NODE_PORT}/api/users", timeout_s=2)
    cluster.sk8("up", timeout_s=180)
    cluster.wait_demo(120)
    rows = eventually(lambda: cluster.users(), within_s=30, what="rows after the restart")
    assert number in {row["id"] for row in rows}


def test_down_leaves_nothing(cluster: Cluster) -> None:
    """Last: what `make down` promises. The cluster fixture's own `down` then has nothing to do."""
    if not str(cluster.kubeconfig).startswith("/tmp"):
        pytest.skip("a reused cluster is left running")
    cluster.sk8("down", timeout_s=180)
    assert _leftovers() == []


def _leftovers() -> list[str]:
    def out(*argv: str) -> list[str]:
        return subprocess.run(argv, capture_output=True, text=True).stdout.split("\n")

    found = [f"namespace {line.split()[0]}" for line in out("ip", "netns") if line.startswith("sk8")]
    found += [f"link {line}" for line in out("ip", "-br", "link") if line.startswith("sk8")]
    found += [f"container {line}" for line in out("docker", "ps", "-aq", "--filter", "label=sk8.machine") if line]
    found += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if "/sk8" in line]
    found += [f"loop {line}" for line in out("losetup", "-a") if "/sk8" in line]
    found += [f"nft {line}" for line in out("nft", "list", "tables") if "sk8" in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(mark in command for mark in ("cluster.machine", "host-agent", "gcs_server", "raylet", "ray::PartActor")):
            found.append(f"process {command[:100]}")
    found += [f"path {p}" for p in ("/var/lib/sk8", "/run/sk8", "/run/sk8.proc") if Path(p).exists()]
    return found


def test_stale_cluster_is_explained() -> None:
    """`sk8` with no cluster says so, with what to do."""
    done = subprocess.run([SK8, "status"], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "sk8 up" in done.stdout + done.stderr
