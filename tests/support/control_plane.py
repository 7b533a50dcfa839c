"""Control planes without machines: real disks and keys, parts as processes (part_process.py), addresses of loopback.

For tests of what operators do to a whole store with `sk8`, which needs neither Ray nor network namespaces.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cluster.cli import kubeconfig
from cluster.machine import identity
from cluster.machine.config import ClusterConfig, load_cluster, save_cluster
from cluster.machine.machine_config import MachineConfig, load_machine, save_machine

REPOSITORY = Path(__file__).parents[2]
SK8 = str(Path(sys.executable).with_name("sk8"))
T = TypeVar("T")


def eventually(look: Callable[[], T], until: Callable[[T], bool], *, what: str, within_s: float = 60) -> T:
    deadline = time.monotonic() + within_s
    while not until(seen := look()):
        assert time.monotonic() < deadline, f"{what}: not within {within_s:.0f} s; last seen: {seen!r}"
        time.sleep(0.2)
    return seen


def new_config(base: Path, network: int, *, machines: int = 3, **settings: Any) -> ClusterConfig:
    """Machines at 127.0.<network>.11 and on, which no other test uses at the same time."""
    return ClusterConfig.local(
        machines,
        machines,
        cluster_id="tried",
        base_dir=str(base),
        run_dir=str(base.with_name(base.name + ".run")),
        node_cidr=f"127.0.{network}.0/24",
        host_ip=f"127.0.{network}.1",
        **settings,
    ).validate()


@dataclass
class ControlPlane:
    config: ClusterConfig
    processes: dict[tuple[str, str], subprocess.Popen[bytes]] = field(default_factory=dict)

    def found(self) -> None:
        """The birth of a cluster, as `sk8 up` does it: keys, and a disk for each machine."""
        self.config.base.mkdir()
        authority = identity.Authority(self.config)
        authority.create()
        for spec in self.config.machines:
            authority.provision(self.config.first_machine(spec.name))
            self.join(spec.name)
        save_cluster(self.config)

    def join(self, name: str) -> None:
        """The machine makes its keys and has them signed."""
        machine = load_machine(self.config.base_dir, name)
        request = identity.join_request(machine)
        reply = identity.Authority(self.config).admit(name, request.token, request.requests)
        identity.install(machine, request, reply)

    def forget_bootstrap(self) -> None:
        """As sk8-machine does once State has made its directory: an empty one founds nothing any more."""
        for spec in self.config.control_planes:
            machine = self.machine(spec.name)
            assert (machine.state_dir / "member" / "identity.json").exists()
            save_machine(replace(machine, state_bootstrap=False))

    def reload(self) -> None:
        """A command of the CLI has changed the cluster."""
        self.config = load_cluster(self.config.base_dir)

    def machine(self, name: str) -> MachineConfig:
        return load_machine(self.config.base_dir, name)

    def kubectl(self, *argv: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Stock kubectl as the cluster's administrator, at m1's API server."""
        pki, path = self.config.pki, self.config.base / "kubeconfig"
        if not path.exists():
            server = f"https://{self.config.spec('m1').ip}:{self.config.api_port}"
            pems = ((pki / name).read_bytes() for name in ("ca.crt", "admin.crt", "admin.key"))
            path.write_text(kubeconfig.render(kubeconfig.Access(server, *pems)))
        command = ["kubectl", "--kubeconfig", str(path), *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, input=stdin)

    def sk8(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = [SK8, *argv, "--base", self.config.base_dir]
        return subprocess.run(command, capture_output=True, text=True, timeout=100)

    def sk8_json(self, *argv: str) -> Any:
        """What it prints; None if it failed."""
        done = self.sk8(*argv, "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    def start(self, role: str, name: str) -> None:
        log_dir = self.config.machine(name).log_dir
        log_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.support.part_process", role, name, self.config.base_dir]
        with (log_dir / f"{role}.log").open("ab") as log:
            self.processes[role, name] = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)

    def start_all(self, role: str) -> None:
        for spec in self.config.control_planes:
            self.start(role, spec.name)

    def kill(self, role: str, name: str) -> None:
        process = self.processes.pop((role, name))
        process.kill()
        process.wait()

    def log(self, role: str, name: str) -> str:
        return (self.config.machine(name).log_dir / f"{role}.log").read_text()

    def wipe(self, name: str) -> None:
        """A new, empty disk for the machine, whose parts are off: `sk8 machine start --wipe`."""
        shutil.rmtree(self.config.machine(name).disk)
        identity.Authority(self.config).provision(self.config.machine(name))
        self.join(name)

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = {}
