"""What sk8 left on a box, and its removal: after a crash, a reboot, or an orderly `sk8 down`.

IO; blocking but for the engine. Everything sk8 makes is recognisable (docs/contracts.md, "Containers on a box"), so
nothing here depends on a record that a crash may have lost. Idempotent; other people's namespaces, links, containers,
mounts and tables are not touched. What does not go holds up nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from cluster.cloud import container_processes, mounts, network
from cluster.cloud.disks import loop_devices
from cluster.cloud.engine import Engine, EngineError
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import container_label
from cluster.machine.processes import ProcessId, all_processes, command_line, wait_gone
from cluster.machinery.pod_logs import remove_machine_logs

ENGINE_NAMESPACES = Path("/run/docker/netns")
_NETNS = Path("/run/netns")
_OWN = ("cluster.json", "disks", "machines", "pki", "snapshots")
_TABLE = re.compile(r"^table (\w+) (sk8\S*)$")


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Names of what is there now; empty lists everywhere when the box is clean."""

    processes: list[ProcessId] = field(default_factory=list)
    agents: list[ProcessId] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    tables: list[tuple[str, str]] = field(default_factory=list)

    @property
    def any(self) -> bool:
        return any((self.processes, self.agents, self.namespaces, self.links, self.mounts, self.loops, self.tables))

    def summary(self) -> str:
        parts = (
            (len(self.processes), "processes of machines"),
            (len(self.agents), "host agent"),
            (len(self.namespaces), "network namespaces"),
            (len(self.links), "links"),
            (len(self.mounts), "mounts"),
            (len(self.loops), "loop devices"),
            (len(self.tables), "nftables tables"),
        )
        return ", ".join(f"{count} {what}" for count, what in parts if count) or "nothing"


def find(config: ClusterConfig) -> Leftovers:
    """What is on the box that belongs to this cluster's directories or carries sk8's names. Needs root."""
    base = str(config.base)
    switch = network.Switch(config)
    names = switch.namespaces()
    table = mounts.mounts()
    return Leftovers(
        processes=processes_in(names),
        agents=_host_agents(config),
        namespaces=names,
        links=[n for n in sorted(os.listdir("/sys/class/net")) if n == switch.host_link],
        mounts=[str(m.path) for m in table if m.path == config.box_proc or _is_ours(m, table, config.base)],
        loops=[device for image, device in loop_devices().items() if str(image).startswith(base + "/")],
        tables=_tables() if config.prefix == ClusterConfig.local().prefix else [],
    )


@dataclass(slots=True)
class Stayed:
    """What did not go: containers by id with the engine's reason, all else in words."""

    containers: dict[str, str] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    def words(self) -> list[str]:
        return [f"container {i[:12]} ({why})" for i, why in self.containers.items()] + self.other

    def attempt(self, what: str, step: Callable[[], object]) -> None:
        """One of several steps that do not need each other."""
        try:
            step()
        except (OSError, RuntimeError, NetlinkError, subprocess.SubprocessError) as e:
            self.other.append(f"{what} ({e})")


async def remove(config: ClusterConfig, engine: Engine | None) -> Stayed:
    """Removes all of it, in the order of a power failure: cables, processes, containers, mounts, devices, names."""
    found, stayed = find(config), Stayed()
    switch = network.Switch(config)
    for name in _machines(switch, found):
        cut = partial(switch.set_link, name, up=False)
        await asyncio.to_thread(stayed.attempt, f"the cable of {name}", cut)
    for process in (*found.agents, *found.processes):
        process.signal(signal.SIGKILL)
    left = await wait_gone([*found.agents, *found.processes], 10)
    stayed.other += [f"process {p.pid} (it does not die)" for p in left]
    if engine is not None and await engine.answers():
        await _remove_containers(config, engine, stayed)
    else:
        await _end_without_engine(config, stayed)
    await asyncio.to_thread(_remove_rest, config, found, stayed)
    return stayed


async def _remove_containers(config: ClusterConfig, engine: Engine, stayed: Stayed) -> None:
    try:
        ids = await _containers(config, engine)
    except EngineError as e:
        stayed.other.append(f"containers ({e})")
        await _end_without_engine(config, stayed)
        return
    try:
        await engine.kill(ids)
    except EngineError as e:
        stayed.other.append(str(e))
    stayed.containers = await engine.remove(ids)


async def _end_without_engine(config: ClusterConfig, stayed: Stayed) -> None:
    """An engine that is gone, or hangs as a whole, leaves containers running for good; its list of them stays."""
    left = await container_processes.end_groups(_groups_of_pods(config), 10)
    stayed.other += [f"process {pid} of a container (it does not die)" for pid in left]


def _groups_of_pods(config: ClusterConfig) -> list[str]:
    """Names of control groups that all its pods' containers are below, and nobody else's.

    Elsewhere than on local machines the box is the machine, and another kubelet's pods may be in the same `kubepods`.
    """
    if config.provider == "local":
        return [config.machine(machine.name).netns for machine in config.machines]
    return [f"pod{pod.name}" for pod in sorted(config.base.glob("machines/*/kubelet/pods/*"))]


def foreign(base: Path) -> list[str]:
    """The names in a cluster's directory that sk8 did not make."""
    if not base.is_dir():
        return []
    return sorted(n for n in os.listdir(base) if n not in (*_OWN, "lost+found") and not n.startswith(".cluster.json."))


def remove_files(config: ClusterConfig, *, keep_data: bool) -> None:
    """The run directory, and of the cluster's own what sk8 made; it goes itself when nothing else is in it.

    Raises OSError while something is mounted below: what is there may be somebody else's (a hostPath volume).
    """
    shutil.rmtree(config.run, ignore_errors=True)
    if keep_data or not config.base.is_dir():
        return
    if below := mounts.mounts_below(config.base, mounts.mounts()):
        raise OSError(f"{below[0].path} is still mounted")
    for name in sorted(set(os.listdir(config.base)) - {*foreign(config.base), "lost+found"}):
        path = config.base / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    with contextlib.suppress(OSError):  # not empty, or a file system of its own
        config.base.rmdir()


def _is_ours(mount: mounts.Mount, table: list[mounts.Mount], base: Path) -> bool:
    return base in mount.path.parents or (mount.path == base and mounts.is_self_bind(mount, table))


def _remove_rest(config: ClusterConfig, found: Leftovers, stayed: Stayed) -> None:
    for machine in config.machines:
        kubelet = config.machine(machine.name).kubelet_dir
        stayed.attempt(f"logs of pods of {machine.name}", partial(remove_machine_logs, kubelet))
    stayed.attempt(f"{config.box_proc}", partial(mounts.drop_proc, config.box_proc))
    if config.base.exists():
        stayed.attempt("mounts", partial(mounts.unmount_below, config.base))
    for image, device in loop_devices().items():
        if config.base in image.parents:
            stayed.attempt(f"device {device}", partial(_run, "losetup", "--detach", device))
    switch = network.Switch(config)
    for name in _machines(switch, found):
        stayed.attempt(f"the network of {name}", partial(switch.remove_machine, name))
    stayed.attempt("the switch", switch.remove)
    for family, table in found.tables:
        stayed.attempt(f"table {table}", partial(_run, "nft", "delete", "table", family, table))
    needed = _shared_by_others(config)
    for path in _shared(config):
        if path.exists() and path not in needed:
            stayed.attempt(f"the mount on {path}", partial(mounts.unshare, path))


def _run(*command: str) -> None:
    """Its failure shows in what `find` finds afterwards."""
    subprocess.run(command, check=False, capture_output=True, timeout=30)


def mark_shared(config: ClusterConfig, path: Path) -> None:
    """Remembers that this cluster needs `path` shared by an `sk8 up`; the end of the last such cluster undoes it."""
    if path not in _shared(config):
        with _shared_file(config).open("a") as file:
            file.write(f"{path}\n")


def _shared_by_others(config: ClusterConfig) -> set[Path]:
    """What clusters of other run directories beside ours still need: their machines would stop seeing new pods."""
    files = [f for f in config.run.parent.glob(f"*/{_shared_file(config).name}") if f != _shared_file(config)]
    return {Path(line) for f in files for line in f.read_text().splitlines() if line}


def _shared(config: ClusterConfig) -> list[Path]:
    file = _shared_file(config)
    marked = [Path(line) for line in file.read_text().splitlines()] if file.exists() else []
    return list(dict.fromkeys([config.base, *marked]))


def _shared_file(config: ClusterConfig) -> Path:
    return config.run / "shared-mounts"


def _machines(switch: network.Switch, found: Leftovers) -> list[str]:
    start = switch.namespace_of("")
    return [n.removeprefix(start) for n in found.namespaces if n != switch.namespace]


async def _containers(config: ClusterConfig, engine: Engine) -> list[str]:
    """All that carry our label; those of its own machines alone for a cluster that shares the box with another."""
    if config.prefix == ClusterConfig.local().prefix:
        return await engine.containers()
    return [i for m in config.machines for i in await engine.containers(container_label(config.prefix, m.name))]


def processes_in(namespaces: list[str]) -> list[ProcessId]:
    """Processes whose network namespace is one of ours: machines and what runs in them, never pods or the host."""
    wanted = {(s.st_dev, s.st_ino) for s in (os.stat(_NETNS / n) for n in namespaces)}
    found = []
    for process in all_processes():
        try:
            here = os.stat(f"/proc/{process.pid}/ns/net")
        except OSError:
            continue  # it ended, or is a zombie
        if (here.st_dev, here.st_ino) in wanted:
            found.append(ProcessId(process.pid, process.start))
    return found


def _host_agents(config: ClusterConfig) -> list[ProcessId]:
    found = []
    for process in all_processes():
        line = command_line(process.pid)
        if "host-agent" in line and line[-1:] == [str(config.base)]:
            found.append(ProcessId(process.pid, process.start))
    return found


def _tables() -> list[tuple[str, str]]:
    """nftables tables of ours in the host's own namespace; those of machines go with their namespaces."""
    if shutil.which("nft") is None:
        return []
    done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False, timeout=30)
    matches = (_TABLE.match(line.strip()) for line in done.stdout.splitlines())
    return [(m[1], m[2]) for m in matches if m]
