"""A control plane as plain processes on loopback addresses, for benchmarks: the parts are the shipped ones, wired by
`actors.wiring`, with mutual TLS, leases and fsync; only Ray, machines and kubelets are missing (said in the reports).
`benchmarks.node` adds a kubelet, in a namespace that is its machine.

    python -m benchmarks._stack ROLE --machine m1 --base DIR      runs one part in the foreground

Machines m1..m3 are 127.0.N.11 to .13, in a network that no other benchmark uses at that time (`_loopback_network`).
Nothing outside `base` and these addresses is touched.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks._loopback_network import USUAL, Network, claim
from cluster.machine import identity
from cluster.machine.config import ClusterConfig, load_cluster, save_cluster
from cluster.machine.forwarder import Forwarder, ForwarderConfig
from cluster.machine.garbage import Garbage
from cluster.machine.machine_config import MachineConfig, load_machine, save_machine

PAUSE_S = 0.05
START_TIMEOUT_S = 60.0
ROLES = ("state", "apiserver", "scheduler", "controllers", "forwarder", "kubelet")
LOCAL_PORTS = ("state_metrics_port", "scheduler_port", "controllers_port")


def cluster_of(base: Path, members: int = 3, network: Network = USUAL, **settings: Any) -> ClusterConfig:
    cluster = ClusterConfig.local(
        members,
        members,
        node_cidr=network.cidr,
        host_ip=network.address(1),
        base_dir=str(base / "cluster"),
        run_dir=str(base / "run"),
        prefix="sk8z",
        cluster_id=secrets.token_hex(8),
        disable_admission_plugins=("ServiceAccount", "TaintNodesByCondition"),
        **settings,
    )
    ports: dict[str, Any] = {name: network.port(getattr(cluster, name)) for name in LOCAL_PORTS}
    return replace(cluster, **ports).validate()


def found(cluster: ClusterConfig) -> None:
    """Certificates and machine directories, as `sk8 up` makes them."""
    authority = identity.Authority(cluster)
    cluster.base.mkdir(parents=True)
    save_cluster(cluster)
    authority.create()
    for spec in cluster.machines:
        machine = cluster.first_machine(spec.name)
        authority.provision(machine)
        request = identity.join_request(machine)
        identity.install(machine, request, authority.admit(spec.name, request.token, request.requests))
        save_machine(machine)


@dataclass(slots=True)
class Process:
    """A part, or a peer's server. `cpu_s` is all it has used, its children's included."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path | None = None

    def cpu_s(self) -> float:
        try:
            fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return 0.0
        return sum(int(fields[i]) for i in (11, 12)) / os.sysconf("SC_CLK_TCK")

    def told(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-1000:] if self.log is not None else "no log"

    def pss_mib(self) -> float:
        try:
            rollup = Path(f"/proc/{self.popen.pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


@dataclass(slots=True)
class Target:
    """An API server to load: where it is, how to prove who we are, and the processes behind it."""

    name: str
    host: str
    port: int
    tls: ssl.SSLContext
    token: str = ""
    processes: list[Process] = field(default_factory=list)
    network: Network | None = None

    def cpu_s(self) -> dict[str, float]:
        return {p.name: p.cpu_s() for p in self.processes}

    @property
    def api_server(self) -> Process:
        return self.part("apiserver")

    def part(self, role: str) -> Process:
        return next(p for p in self.processes if role in p.name)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in self.processes:
            try:
                process.popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
        if self.network is not None:
            self.network.give_up()


def start(
    base: Path, members: int = 3, *, scheduler: bool = True, controllers: bool = False, kubelet: bool = False
) -> Target:
    """Three State members, one ApiServer, one Scheduler; `controllers`: those, too, whom no provider tells of machines,
    and with a stock cluster's patience: hollow nodes renew their Leases every 10 s, which the fast profile takes for
    silence; `kubelet`: that of the last machine, whose namespace the caller is in, and the way to the API that it
    knows.

    Raises RuntimeError with the log of what did not come up."""
    network = claim()
    cluster = cluster_of(base, members, network, profile="kubernetes" if controllers else "fast")
    found(cluster)
    tls = ssl.create_default_context(cafile=str(cluster.pki / "ca.crt"))
    tls.load_cert_chain(cluster.pki / "admin.crt", cluster.pki / "admin.key")
    last = cluster.machines[-1]
    target = Target("sk8", last.ip, cluster.api_port, tls, network=network)
    try:
        for spec in cluster.machines:
            spawn(target, cluster, "state", spec.name)
        for spec in cluster.machines:
            wait_port(target, spec.ip, cluster.state_client_port)
        spawn(target, cluster, "apiserver", last.name)
        wait_port(target, last.ip, cluster.api_port)
        if scheduler:
            spawn(target, cluster, "scheduler", last.name)
        if controllers:
            spawn(target, cluster, "controllers", last.name)
        if kubelet:
            spawn(target, cluster, "forwarder", last.name)
            spawn(target, cluster, "kubelet", last.name)
    except BaseException:
        target.stop()
        raise
    return target


def spawn(target: Target, cluster: ClusterConfig, role: str, machine: str) -> None:
    log = cluster.base / f"{role}-{machine}.log"
    command = [sys.executable, "-m", "benchmarks._stack", role, "--machine", machine, "--base", cluster.base_dir]
    with log.open("wb") as out:
        popen = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    target.processes.append(Process(f"{role} {machine}", popen, log))


def wait_port(target: Target, host: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        for process in target.processes:
            if process.popen.poll() is not None:
                raise RuntimeError(f"{process.name} exited with {process.popen.returncode}: {process.told()}")
        if answers(host, port):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing answers on {host}:{port} after {START_TIMEOUT_S:g} s")
        time.sleep(PAUSE_S)


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


async def _run(role: str, cluster: ClusterConfig, name: str) -> None:
    machine = load_machine(cluster.base, name)
    part = await _part(role, cluster, machine)
    task = asyncio.ensure_future(part.run())
    garbage = asyncio.create_task(Garbage().run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return
    finally:
        garbage.cancel()


async def _part(role: str, cluster: ClusterConfig, machine: MachineConfig) -> Any:
    """What has a `run()`."""
    if role == "forwarder":  # part of sk8-machine, not an actor
        listen = ("127.0.0.1", cluster.api_port)
        return Forwarder(ForwarderConfig(listen, ((machine.ip, cluster.api_port),), machine.pki / "ca.crt"))
    return await importlib.import_module(f"actors.wiring.{role}").build(cluster, machine)


def on_machine(cluster: ClusterConfig, name: str) -> ClusterConfig:
    """With the ports of that machine: every machine's loopback is its own, but here they share one."""
    index = [m.name for m in cluster.machines].index(name)
    return replace(cluster, **{port: getattr(cluster, port) + 1000 * (index + 1) for port in LOCAL_PORTS})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--base", type=Path, required=True)
    args = parser.parse_args()
    uvloop.run(_run(args.role, on_machine(load_cluster(args.base), args.machine), args.machine))


if __name__ == "__main__":
    main()
