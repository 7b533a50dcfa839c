"""Kubernetes' own servers and one etcd, found on PATH, as a benchmark's peer. All on loopback, all in `base`.

The flags make the comparison fair: request limits lifted, every request allowed, admission plugins off that need
controllers which do not run here; the scheduler's client throttle lifted. Its etcd is one member, ours are three.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

from benchmarks._stack import Process, Target, answers, wait_port
from cluster.machine.pki import new_service_account_key

HOST = "127.0.9.51"
PORT, ETCD_PORT, ETCD_PEER_PORT = 6443, 2379, 2380
TOKEN = "benchmark"
NEEDED = ("etcd", "kube-apiserver", "kube-scheduler")
_SCHEDULER = """apiVersion: kubescheduler.config.k8s.io/v1beta1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: KUBECONFIG, qps: 5000, burst: 5000}
leaderElection: {leaderElect: false}
"""
_KUBECONFIG = f"""apiVersion: v1
kind: Config
current-context: c
clusters: [{{name: c, cluster: {{server: "https://{HOST}:{PORT}", insecure-skip-tls-verify: true}}}}]
users: [{{name: u, user: {{token: {TOKEN}}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
"""


def missing() -> list[str]:
    return [name for name in NEEDED if shutil.which(name) is None]


def start(base: Path, *, scheduler: bool = True) -> Target:
    """Raises RuntimeError when one of them does not come up; the logs are in `base`."""
    if answers(HOST, PORT):
        raise RuntimeError(f"another benchmark's peer has {HOST}:{PORT}: try again once it has ended")
    base.mkdir(parents=True)
    private, public = new_service_account_key()
    (base / "sa.key").write_bytes(private)
    (base / "sa.pub").write_bytes(public)
    (base / "tokens").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    (base / "kubeconfig").write_text(_KUBECONFIG)
    (base / "scheduler.yaml").write_text(_SCHEDULER.replace("KUBECONFIG", str(base / "kubeconfig")))
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    target = Target("kubernetes", HOST, PORT, tls, TOKEN)
    try:
        _spawn(target, base, "etcd", *_etcd(base))
        wait_port(target, HOST, ETCD_PORT)
        _spawn(target, base, "kube-apiserver", *_apiserver(base))
        wait_port(target, HOST, PORT)
        if scheduler:
            _spawn(target, base, "kube-scheduler", f"--config={base}/scheduler.yaml", f"--bind-address={HOST}")
    except BaseException:
        target.stop()
        raise
    return target


def _etcd(base: Path) -> list[str]:
    client, peer = f"http://{HOST}:{ETCD_PORT}", f"http://{HOST}:{ETCD_PEER_PORT}"
    return [
        f"--data-dir={base}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--quota-backend-bytes=8589934592",
    ]


def _apiserver(base: Path) -> list[str]:
    return [
        f"--etcd-servers=http://{HOST}:{ETCD_PORT}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={PORT}",
        f"--cert-dir={base}/certs",
        f"--token-auth-file={base}/tokens",
        "--authorization-mode=AlwaysAllow",
        "--max-requests-inflight=3000",
        "--max-mutating-requests-inflight=1000",
        "--endpoint-reconciler-type=none",
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
        f"--service-account-key-file={base}/sa.pub",
        f"--service-account-signing-key-file={base}/sa.key",
        "--service-account-issuer=https://benchmark",
        "--service-cluster-ip-range=10.96.0.0/16",
    ]


def _spawn(target: Target, base: Path, name: str, *arguments: str) -> None:
    log = base / f"{name}.log"
    with log.open("wb") as out:
        popen = subprocess.Popen([name, *arguments], stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    target.processes.append(Process(name, popen, log))
