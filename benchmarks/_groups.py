"""Three members of a store as processes of this machine, ours and etcd's, with the same TLS. IO.

Both keep their data below one directory, so on one disk. etcd is driven by ``peer/etcd_load.go``: its own Go client,
built from Debian's source package, because a Python gRPC client would measure itself.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from cluster.machine.pki import Subject, issue, new_ca
from raft.client import StoreClient
from raft.config import CLIENT_ROLE, PEER_ROLE, TlsFiles

MEMBERS = (1, 2, 3)
ETCD_LOAD = Path(__file__).parent / "peer" / "etcd_load.go"
GO_PATH = Path("/usr/share/gocode")
HEALTHY_S = 120.0
SLOW_SYNCS = (
    *("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"),
    *("-e", "inject=fdatasync,fsync:delay_enter=2000"),
)
"""In front of a command: each of its syncs takes 2 ms longer. The tracer is its grandchild, so signals reach it."""


def strace_is_here() -> bool:
    return bool(shutil.which("strace")) and subprocess.run([*SLOW_SYNCS, "true"], capture_output=True).returncode == 0


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def make_tls(root: Path) -> dict[str, TlsFiles]:
    """One identity a role, all of one new CA."""
    now = dt.datetime.now(dt.UTC)
    ca = new_ca("bench", now)
    (root / "ca.crt").write_bytes(ca.cert)
    made: dict[str, TlsFiles] = {}
    for role in (PEER_ROLE, CLIENT_ROLE):
        files = TlsFiles(root / f"{role}.crt", root / f"{role}.key", root / "ca.crt")
        pair = issue(ca, Subject("bench", (role,), ips=("127.0.0.1",), server=role == PEER_ROLE), now)
        files.cert.write_bytes(pair.cert)
        files.key.write_bytes(pair.key)
        made[role] = files
    return made


class Processes:
    """Members by number; what they use."""

    def __init__(self) -> None:
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def cpu_s(self) -> dict[int, float]:
        used: dict[int, float] = {}
        for member, process in self.processes.items():
            times = psutil.Process(process.pid).cpu_times()
            used[member] = times.user + times.system
        return used

    def private_mib(self) -> float:
        """Of the largest member: private anonymous memory (pages of a mapped file are the kernel's to take back)."""
        return max(_anonymous_bytes(process.pid) for process in self.processes.values()) / 2**20

    def kill(self, member: int) -> None:
        self.processes[member].send_signal(signal.SIGKILL)
        self.processes[member].wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _anonymous_bytes(pid: int) -> int:
    found = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Anonymous", "SwapPss"):
            found += int(rest.split()[0]) * 1024
    return found


class Group(Processes):
    """Our members. ``wrapper``: a command that runs each of them."""

    def __init__(self, root: Path, tls: dict[str, TlsFiles], *, wrapper: Sequence[str] = (), **options: Any) -> None:
        super().__init__()
        self.root, self.tls, self.wrapper, self.options = root, tls, wrapper, options
        root.mkdir(exist_ok=True)
        ports = free_ports(9)
        self.metrics = {m: ports[6 + i] for i, m in enumerate(MEMBERS)}
        self.addresses = {m: ("127.0.0.1", ports[2 * i], ports[2 * i + 1]) for i, m in enumerate(MEMBERS)}
        self.endpoints = {m: ("127.0.0.1", address[2]) for m, address in self.addresses.items()}
        for member in MEMBERS:
            self.start(member)

    def start(self, member: int) -> None:
        host, peer_port, client_port = self.addresses[member]
        peer = self.tls[PEER_ROLE]
        config = {
            "dir": str(self.root / str(member)),
            "host": host,
            "peer_port": peer_port,
            "client_port": client_port,
            "metrics": ("127.0.0.1", self.metrics[member]),
            "peer_tls": {"cert": str(peer.cert), "key": str(peer.key), "ca": str(peer.ca)},
            "create": {"cluster_id": "bench", "member_id": member, "members": self.addresses},
        } | self.options
        path = self.root / f"{member}.json"
        path.write_text(json.dumps(config))
        command = [*self.wrapper, sys.executable, "-m", "raft", "--config", str(path)]
        with (self.root / f"{member}.log").open("ab") as log:
            self.processes[member] = subprocess.Popen(command, stderr=log)

    def client(self, **options: Any) -> StoreClient:
        return StoreClient(list(self.endpoints.values()), self.tls[CLIENT_ROLE], **options)

    async def leader(self, client: StoreClient) -> int:
        """Raises StoreError while nobody leads."""
        for member, endpoint in self.endpoints.items():
            if self.processes[member].poll() is None:
                return int((await client.status(endpoint))["leader"])
        return 0


def etcd_is_here() -> str:
    """Why etcd cannot be measured; "" if it can."""
    if not shutil.which("etcd"):
        return "etcd is not on PATH (Debian: etcd-server)"
    if not shutil.which("go") or not (GO_PATH / "src/go.etcd.io/etcd/clientv3").is_dir():
        return "its Go client cannot be built (Debian: golang-go golang-etcd-server-dev)"
    return ""


class Etcd(Processes):
    """etcd's members, and the load on them."""

    def __init__(self, root: Path, tls: dict[str, TlsFiles], *, wrapper: Sequence[str] = ()) -> None:
        super().__init__()
        self.root, self.tls, self.wrapper = root, tls, wrapper
        root.mkdir(exist_ok=True)
        self.load_tool = root / "etcd_load"
        build = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(root / "go-cache")}
        subprocess.run(["go", "build", "-o", str(self.load_tool), str(ETCD_LOAD)], env=build, check=True)
        shutil.rmtree(root / "go-cache", ignore_errors=True)
        ports = free_ports(6)
        self.urls = {m: [f"https://127.0.0.1:{ports[2 * i + n]}" for n in (0, 1)] for i, m in enumerate(MEMBERS)}
        for member in MEMBERS:
            self.start(member)
        self.load("put", 1, 1)

    def start(self, member: int) -> None:
        peer_url, client_url = self.urls[member]
        files = self.tls[PEER_ROLE]
        members = ",".join(f"m{m}={urls[0]}" for m, urls in self.urls.items())
        command = [*self.wrapper, "etcd", "--name", f"m{member}", "--data-dir", str(self.root / f"m{member}")]
        command += ["--initial-cluster", members, "--log-level", "error", "--logger", "zap"]
        command += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
        command += ["--listen-client-urls", client_url, "--advertise-client-urls", client_url]
        for which in ("", "peer-"):
            command += [f"--{which}cert-file", str(files.cert), f"--{which}key-file", str(files.key)]
            command += [f"--{which}trusted-ca-file", str(files.ca), f"--{which}client-cert-auth"]
        command += ["--quota-backend-bytes", str(8 << 30)]
        with (self.root / f"m{member}.log").open("ab") as log:
            self.processes[member] = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_healthy(self, member: int) -> float:
        """Seconds until it answers a linearizable read of its own."""
        context = ssl.create_default_context(cafile=self.tls[CLIENT_ROLE].ca)
        context.load_cert_chain(self.tls[CLIENT_ROLE].cert, self.tls[CLIENT_ROLE].key)
        began = time.perf_counter()
        while True:
            url = f"{self.urls[member][1]}/health"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, context=context, timeout=5) as answer:
                if json.load(answer)["health"] == "true":
                    return time.perf_counter() - began
            if time.perf_counter() > began + HEALTHY_S:
                raise RuntimeError(f"etcd m{member} does not serve: {self.root}/m{member}.log")
            time.sleep(0.02)

    def leader(self) -> int:
        """Raises subprocess.CalledProcessError while nobody leads."""
        return int(self.load("leader", 1, 1)["leader"])

    def load(self, op: str, callers: int, count: int, **options: int) -> dict[str, Any]:
        """What peer/etcd_load.go says; ``member_us`` in the order of MEMBERS."""
        files = self.tls[CLIENT_ROLE]
        urls = ",".join(self.urls[m][1] for m in MEMBERS)
        command = [str(self.load_tool), "-endpoints", urls, "-op", op, "-callers", str(callers), "-count", str(count)]
        command += ["-cert", str(files.cert), "-key", str(files.key), "-cacert", str(files.ca)]
        command += ["-pids", ",".join(str(self.processes[m].pid) for m in MEMBERS)]
        for name, value in options.items():
            command += [f"-{name}", str(value)]
        answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return answer
