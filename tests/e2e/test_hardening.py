"""What docs/security.md says of a running cluster: tried from inside a pod, with a machine's own credentials, and by
looking for a planted secret wherever something is written down. Stock kubectl, real machines.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.machine.config import load_cluster
from tests.e2e.conftest import BASE, Cluster, actor_pids, eventually, in_machine, machines

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(900)]

NAMESPACE = "hardened"
Obj = dict[str, Any]


def pod(name: str, node: str, secret: str, image: str = "busybox:1.36", **spec: Any) -> Obj:
    container: Obj = {"name": "main", "image": image, "command": ["/bin/sh", "-c", "sleep 3600"]}
    container["env"] = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": "key"}}}]
    container["volumeMounts"] = [{"name": "secret", "mountPath": "/secret"}]
    spec |= {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0}
    spec["volumes"] = [{"name": "secret", "secret": {"secretName": secret}}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def secret(name: str, value: str) -> Obj:
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"key": value}}


@pytest.fixture(scope="module")
def planted() -> str:
    return f"planted-{secrets.token_hex(12)}"


@pytest.fixture(scope="module")
def hardened(cluster: Cluster, planted: str) -> Iterator[Cluster]:
    """A pod with a secret on the first machine; a secret that no pod of that machine has."""
    objects = [secret("own", planted), secret("others", "not for the first machine"), pod("p", machines()[0], "own")]
    if len(machines()) > 1:
        objects.append(pod("elsewhere", machines()[1], "others"))
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}))
        cluster.kubectl(
            "wait", "-n", NAMESPACE, "--for=condition=Ready", "pod", "--all", "--timeout=90s", timeout_s=120
        )
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", timeout_s=120)


# -- ports -------------------------------------------------------------------------------------------------------------
def listening(machine: str) -> set[tuple[str, int]]:
    """(machine's address, port) of every TCP listener that is not on loopback."""
    ip = load_cluster(BASE).spec(machine).ip
    sockets = [line.split()[3].rsplit(":", 1) for line in in_machine(machine, "ss", "-Hltn").splitlines()]
    return {(ip, int(port)) for address, port in sockets if address in (ip, "*", "0.0.0.0", "[::]", f"[::ffff:{ip}]")}


def connects(address: tuple[str, int]) -> bool:
    """From the box, which counts as a machine."""
    try:
        with socket.create_connection(address, timeout=30):
            return True
    except OSError:
        return False


def test_a_pod_reaches_no_port_of_a_machine_but_the_apis(hardened: Cluster) -> None:
    """Ray's, the store's, the kubelet's and whatever else listens there, by the list of what really does."""
    config = load_cluster(BASE)
    found = set().union(*(listening(machine) for machine in machines()))
    api = {address for address in found if address[1] == config.api_port}
    guarded = sorted(address for address in found - api if connects(address))
    ports = {port for _, port in guarded}
    assert {config.state_client_port, config.state_peer_port, config.kubelet_port, config.ray_ports.gcs} <= ports
    assert api and len(guarded) > 10, "the control: from a machine's network they answer"
    try_all = 'for t in "$@"; do nc -w 20 ${t%:*} ${t#*:} </dev/null >/dev/null 2>&1 && echo open $t; done; echo done'
    targets = [f"{ip}:{port}" for ip, port in (*guarded, *sorted(api))]
    shell = ["exec", "-n", NAMESPACE, "p", "--", "/bin/sh", "-c", try_all, "sh", *targets]
    said = hardened.kubectl(*shell, timeout_s=200).splitlines()
    assert said == [*(f"open {ip}:{port}" for ip, port in sorted(api)), "done"]


def test_the_engine_listens_on_a_file_that_pods_have_not(hardened: Cluster) -> None:
    shown = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    engines = [line for line in shown if '"dockerd"' in line or '"containerd"' in line]
    assert all(line.split()[3].startswith(("127.0.0.1:", "[::1]:")) for line in engines), engines
    socket_file = load_cluster(BASE).engine_socket
    said = hardened.kubectl("exec", "-n", NAMESPACE, "p", "--", "ls", socket_file, "/run/sk8", ok=False)
    assert said.count("No such file") == 2, said


# -- identities --------------------------------------------------------------------------------------------------------
def as_machine(cluster: Cluster, *argv: str) -> str:
    """What kubectl says with the first machine's own certificate."""
    pki = BASE / "machines" / machines()[0] / "pki"
    server = cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    who = [f"--server={server}", f"--certificate-authority={pki / 'ca.crt'}"]
    who += [f"--client-certificate={pki / 'node.crt'}", f"--client-key={pki / 'node.key'}"]
    return cluster.kubectl("--kubeconfig=/dev/null", *who, *argv, ok=False)


def test_a_machines_identity_reads_the_secrets_of_its_own_pods_alone(hardened: Cluster, planted: str) -> None:
    own = as_machine(hardened, "get", "secret", "own", "-n", NAMESPACE, "-o", "jsonpath={.data.key}")
    assert base64.b64decode(own).decode() == planted
    for asked in (("others", "-n", NAMESPACE), ("-n", NAMESPACE), ("-A",)):
        said = as_machine(hardened, "get", "secret", *asked)
        assert "Forbidden" in said and f'User "system:node:{machines()[0]}" cannot' in said, said
    unrelated = as_machine(hardened, "get", "configmap", "coredns", "-n", "kube-system")
    assert "Forbidden" in unrelated
    if len(machines()) > 1:
        other = as_machine(hardened, "label", "node", machines()[1], "mine=yes")
        assert "Forbidden" in other, other


# -- files -------------------------------------------------------------------------------------------------------------
def test_keys_and_tokens_are_roots_alone(hardened: Cluster) -> None:
    directories = [BASE / "pki", *(BASE / "machines" / machine / "pki" for machine in machines())]
    files = [file for directory in directories for file in directory.rglob("*") if file.is_file()]
    files += [hardened.kubeconfig, *(BASE / "machines" / machine / "machine.json" for machine in machines())]
    files.append(load_cluster(BASE).host_socket)
    assert {"ca.key", "sa.key", "encryption.key", "ray.token"} <= {file.name for file in files}
    for file in files:
        found = file.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0), file
    assert {stat.S_IMODE(directory.stat().st_mode) for directory in directories} == {0o700}


# -- what is written down ----------------------------------------------------------------------------------------------
def hits(places: list[Path], patterns: Path) -> list[str]:
    """Files there with one of the patterns in them. The patterns are in a file, so that no command line has them."""
    command = ["grep", "-rlaF", "-f", str(patterns), *map(str, places)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode in (0, 1, 2), done.stderr  # 2: a process or a socket went away meanwhile
    return done.stdout.split()


def command_lines(patterns: list[str]) -> list[str]:
    """Processes of the box, and the environment of sk8's own, that have one of them."""
    found = []
    parts = set().union(*(actor_pids(actor, m) for actor in ("ApiServer", "Kubelet", "State") for m in machines()))
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ") if int(process.name) in parts else ("cmdline",):
            try:
                text = (process / name).read_bytes()
            except OSError:
                continue  # it has ended
            found += [f"{process.name} {name}" for pattern in patterns if pattern.encode() in text]
    return found


def provoke(cluster: Cluster, planted: str) -> None:
    """Failures that have the secret in hand: a pull with it as a password, and objects that are refused."""
    auth = {"auths": {"127.0.0.1:1": {"username": "u", "password": planted}}}
    pull = secret("pull", "") | {"type": "kubernetes.io/dockerconfigjson"}
    pull["stringData"] = {".dockerconfigjson": json.dumps(auth)}
    waits = pod("pulls", machines()[0], "own", "127.0.0.1:1/none:1", imagePullSecrets=[{"name": "pull"}])
    for body in (pull, waits):
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(body))
    bad = secret("bad name!", planted) | {"data": {"not base64": planted}}
    said = cluster.kubectl("create", "--validate=false", "-f", "-", stdin=json.dumps(bad), ok=False)
    assert "rror" in said
    reasons = lambda: cluster.kubectl(  # noqa: E731
        "get",
        "events",
        "-n",
        NAMESPACE,
        "-o",
        "jsonpath={.items[*].reason}",
        "--field-selector=involvedObject.name=pulls",
    )
    eventually(reasons, lambda seen: "Failed" in seen, within_s=90, what="the pull has failed")


def test_a_secret_is_in_no_log_event_dump_or_command_line(hardened: Cluster, planted: str, tmp_path: Path) -> None:
    provoke(hardened, planted)
    token = (BASE / "machines" / machines()[0] / "pki" / "ray.token").read_text().strip()
    needles = [planted, base64.b64encode(planted.encode()).decode(), token]
    patterns, control = tmp_path / "patterns", tmp_path / "control"
    patterns.touch(0o600)
    patterns.write_text("\n".join(needles))
    control.write_text(f"password={planted}\n")
    assert hits([control], patterns) == [str(control)]

    dump = tmp_path / "dump.tar.gz"
    hardened.sk8("dump", str(dump))
    (tmp_path / "dump").mkdir()
    subprocess.run(["tar", "-xzf", str(dump), "-C", str(tmp_path / "dump")], check=True, timeout=60)
    assert list((tmp_path / "dump").rglob("*.log"))
    (tmp_path / "dump" / "events.json").write_text(hardened.kubectl("get", "events", "-A", "-o", "json"))
    machine_disks = [BASE / "machines" / machine for machine in machines()]
    written = [disk / place for disk in machine_disks for place in ("log", "ray", "state") if (disk / place).exists()]
    assert hits([tmp_path / "dump", load_cluster(BASE).run, *written], patterns) == []
    assert command_lines(needles) == []
