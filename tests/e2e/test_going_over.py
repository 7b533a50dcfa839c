"""`sk8 upgrade` and `sk8 machine renew` on real machines: another release and new certificates while pods run and
clients write. The demo's pods are the witnesses: no container of theirs may begin anew.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.conftest import BASE, ROOT, SK8, Cluster, actor_pids, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(600)]

MACHINE = "m3"
ADDRESS = "10.89.0.13"
NAMESPACE = "going-over"


@pytest.fixture(scope="module")
def other_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this source tree with the same libraries."""
    copy = tmp_path_factory.mktemp("release") / "sk8"
    copy.mkdir()
    for name in ("cluster", "actors", "raft", "infra"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return copy


@contextmanager
def writing(cluster: Cluster) -> Iterator[list[str]]:
    """Writes ConfigMaps one after another meanwhile; yields the names of those that were acknowledged."""
    done, kept = threading.Event(), []

    def write() -> None:
        for number in range(100_000):
            if done.is_set():
                return
            made = cluster.kubectl("create", "configmap", f"c{number}", "-n", NAMESPACE, "-o", "name", ok=False).strip()
            if made == f"configmap/c{number}":
                kept.append(made)
            done.wait(0.2)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield kept
    finally:
        done.set()
        thread.join()


def containers(cluster: Cluster) -> dict[str, str]:
    """By container, which one it is: another after a restart."""
    pods = [pod for app in ("web", "api", "postgres") for pod in cluster.pods(f"app={app}")]
    return {
        f"{pod['metadata']['name']}/{status['name']}": status["containerID"]
        for pod in pods
        for status in pod["status"]["containerStatuses"]
    }


def source_trees(machine: str) -> set[str]:
    """Which sources the parts of that machine run."""
    pids = {pid for actor in ("Kubelet", "Proxy", "State", "ApiServer") for pid in actor_pids(actor, machine)}
    environments = [Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0") for pid in pids]
    return {pair.removeprefix("PYTHONPATH=") for env in environments for pair in env if pair.startswith("PYTHONPATH=")}


def served_serial() -> int:
    pem = ssl.get_server_certificate((ADDRESS, 6443), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_a_machine_goes_over_to_another_release_and_back(cluster: Cluster, other_release: Path) -> None:
    cluster.wait_demo()
    before = containers(cluster)
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        with writing(cluster) as kept:
            cluster.sk8("upgrade", str(other_release), "--machine", MACHINE, timeout_s=330)
            assert source_trees(MACHINE) == {str(other_release)}
            assert source_trees("m2") == {str(ROOT)}, "two releases side by side"
            cluster.sk8("upgrade", "--rollback", "--machine", MACHINE, timeout_s=330)
        assert source_trees(MACHINE) == {str(ROOT)}
        assert containers(cluster) == before
        there = set(cluster.kubectl("get", "configmaps", "-n", NAMESPACE, "-o", "name").split())
        assert kept and set(kept) <= there
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, ok=False)


def test_a_release_that_does_not_load_is_refused(cluster: Cluster, other_release: Path) -> None:
    (other_release / "actors/part.py").write_text("raise RuntimeError('half copied')\n")
    command = [SK8, "upgrade", str(other_release), "--base", str(BASE)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, env=cluster.env)
    assert refused.returncode == 1 and "half copied" in refused.stderr and "nothing was changed" in refused.stderr
    assert source_trees(MACHINE) == {str(ROOT)}


def test_a_machine_takes_new_certificates_while_it_runs(cluster: Cluster) -> None:
    before, old = containers(cluster), served_serial()
    cluster.sk8("machine", "renew", MACHINE)
    eventually(served_serial, lambda serial: serial != old, within_s=180, what="another certificate at its API server")
    eventually(lambda: cluster.sk8("status"), within_s=180, what="a healthy cluster")
    assert containers(cluster) == before
