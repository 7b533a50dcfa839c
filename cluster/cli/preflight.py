"""Can a cluster start here? Facts are gathered once (IO); `judge` is pure and says what is wrong and what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

import psutil

from cluster.cli import agent
from cluster.machine.config import ClusterConfig
from cluster.machine.processes import command_line

_PROGRAMS = ("ip", "nsenter", "unshare", "losetup", "mkfs.ext4", "nft", "ray")
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}  # capabilities(7)
_LOOP = Path("/dev/loop-control")
_KUBECTL_MINOR = 31
"""Older ones are served too (`apply` asks them for OpenAPI version 2, exec for SPDY); what they lack is their own."""
_DISK_BYTES = 2 << 30
_MEMORY_BYTES = 1_500 << 20
INSTALL = "run infra/bootstrap.sh in the checkout, which installs what is missing (or: make up)"


@dataclass(frozen=True, slots=True)
class Facts:
    """`port_owner`: who listens on the API port already, "" for nobody. `routes`: networks the box routes itself.

    `forbidden`: capabilities that root lacks. `engine`: one answers, or could be started. `kubectl_minor`: of its
    version 1.N, None when there is none or it does not say. `elsewhere`: the directory of another cluster that runs.
    """

    platform: str
    root: bool
    missing: tuple[str, ...]
    port_owner: str
    disk_free_bytes: int
    memory_free_bytes: int
    routes: tuple[str, ...]
    namespaces: bool
    forbidden: tuple[str, ...] = ()
    loop: bool = True
    engine: bool = True
    kubectl_minor: int | None = None
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    level: Literal["error", "warning"]
    message: str
    fix: str


def gather(config: ClusterConfig) -> Facts:
    place = config.base
    while not place.exists():
        place = place.parent
    beside = Path(sys.executable).parent  # `ray` of the environment that runs sk8
    path = f"{beside}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    linux = sys.platform == "linux"
    kubectl = shutil.which("kubectl", path=path)
    return Facts(
        platform=sys.platform,
        root=os.geteuid() == 0,
        missing=tuple(p for p in (*_programs_of(config), "kubectl") if shutil.which(p, path=path) is None),
        port_owner=_listener(config.api_port) if linux else "",
        disk_free_bytes=shutil.disk_usage(place).free,
        memory_free_bytes=psutil.virtual_memory().available,
        routes=_routes() if linux else (),
        namespaces=Path("/proc/self/ns/pid").exists(),
        forbidden=_forbidden(Path("/proc/self/status").read_text()) if linux else (),
        loop=_LOOP.exists(),
        engine=_answers(config.engine_socket) or shutil.which("dockerd", path=path) is not None,
        kubectl_minor=_kubectl_minor(kubectl) if kubectl else None,
        elsewhere=_elsewhere(config) if linux else "",
    )


def _programs_of(config: ClusterConfig) -> tuple[str, ...]:
    return (*_PROGRAMS, "bird") if config.cni == "bgp" else _PROGRAMS


def judge(facts: Facts, config: ClusterConfig) -> list[Finding]:
    """Errors first. A platform that is not Linux, or not being root, hides everything else."""
    if facts.platform != "linux":
        fix = "use a Linux machine or a virtual machine with one (Debian 12 is tested)"
        return [Finding("error", f"local machines need Linux, and this is {facts.platform}", fix)]
    if not facts.root:
        fix = "run it as root (sudo), or on a VM of your own"
        return [Finding("error", "local machines need root: they are namespaces, mounts and links", fix)]
    return [*_programs(facts), *_kernel(facts), *_places(facts, config), *_kubectl(facts)]


def _programs(facts: Facts) -> list[Finding]:
    found = []
    programs = [p for p in facts.missing if p != "kubectl"]
    if programs:
        found.append(Finding("error", f"programs are missing: {', '.join(programs)}", INSTALL))
    if not facts.engine:
        message = "no container engine answers, and there is no dockerd to start one"
        found.append(Finding("error", message, INSTALL))
    return found


def _kernel(facts: Facts) -> list[Finding]:
    found = []
    if facts.forbidden:
        fix = "use a machine or a virtual machine, or start the container with --privileged"
        found.append(Finding("error", f"root lacks {' and '.join(facts.forbidden)} here (inside a container?)", fix))
    if not facts.namespaces:
        found.append(Finding("error", "this kernel has no PID namespaces", "use a kernel with CONFIG_PID_NS"))
    if not facts.loop:
        found.append(Finding("error", f"there are no loop devices ({_LOOP}): volumes need them", "modprobe loop"))
    return found


def _places(facts: Facts, config: ClusterConfig) -> list[Finding]:
    """Other clusters, ports, space, networks. Another cluster hides the rest, most of which is its."""
    if facts.elsewhere:
        fix = f"sk8 down --base {facts.elsewhere} removes it"
        return [Finding("error", f"a cluster runs here already, from {facts.elsewhere}", fix)]
    found = []
    if facts.port_owner:
        fix = "stop it, or choose another port with api_port in --config FILE"
        found.append(Finding("error", f"port 127.0.0.1:{config.api_port} is taken by {facts.port_owner}", fix))
    if facts.disk_free_bytes < _DISK_BYTES:
        have = f"{facts.disk_free_bytes / (1 << 30):.1f} GiB"
        fix = "free some, or choose another place with --base DIR"
        found.append(Finding("error", f"{config.base} has {have} of free space; 2 GiB are needed", fix))
    nodes = IPv4Network(config.node_cidr)
    taken = [r for r in facts.routes if IPv4Network(r).overlaps(nodes)]
    if taken:
        fix = "choose another network with node_cidr and host_ip in --config FILE"
        found.append(Finding("error", f"the network of the machines {nodes} is in use here ({taken[0]})", fix))
    if facts.memory_free_bytes < _MEMORY_BYTES:
        have = f"{facts.memory_free_bytes / (1 << 20):.0f} MiB"
        found.append(Finding("warning", f"only {have} of memory are free; three machines need about 2 GiB", ""))
    return found


def _kubectl(facts: Facts) -> list[Finding]:
    """Never an error: the cluster does not need it, and another machine's may be used."""
    minor = facts.kubectl_minor
    if "kubectl" in facts.missing:
        return [Finding("warning", "kubectl is not installed", f"{INSTALL}; the cluster itself does not need it")]
    if minor is None or minor >= _KUBECTL_MINOR:
        return []
    fix = f"install 1.{_KUBECTL_MINOR} or newer if you miss one: https://kubernetes.io/docs/tasks/tools/"
    return [
        Finding("warning", f"kubectl here is 1.{minor}: it works, but lacks the commands and flags of newer ones", fix)
    ]


def _forbidden(status: str) -> tuple[str, ...]:
    """Of /proc/self/status (proc(5)): needed capabilities that are not in the effective set."""
    effective = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), ~0)
    return tuple(name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1)


def _elsewhere(config: ClusterConfig) -> str:
    running = agent.process(config)
    command = command_line(running.pid) if running else []
    base = command[command.index("--base") + 1] if "--base" in command[:-1] else ""
    return base if base and Path(base) != config.base.absolute() else ""


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        return probe.connect_ex(path) == 0


def _kubectl_minor(program: str) -> int | None:
    """None for one that does not run or does not say, such as a shell script in its place."""
    try:
        command = [program, "version", "--client", "-o", "json"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        return int(json.loads(said)["clientVersion"]["minor"].rstrip("+"))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None


def _listener(port: int) -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return _owner(port)
    return ""


def _owner(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port:
            if connection.pid is None:
                break
            try:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                break
    return "an unknown process"


def _routes() -> tuple[str, ...]:
    """Networks in the main routing table, but for the default route and our own link's (proc_net(5))."""
    found = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        link, destination, _, _, _, _, _, mask, *_ = line.split()
        if mask != "00000000" and not link.startswith("sk8"):
            found.append(f"{_ip(destination)}/{bin(int(mask, 16)).count('1')}")
    return tuple(found)


def _ip(little_endian_hex: str) -> str:
    return ".".join(str(b) for b in reversed(bytes.fromhex(little_endian_hex)))
