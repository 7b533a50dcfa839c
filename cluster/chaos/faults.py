"""Begins and ends one fault on local machines. IO: the host agent, signals, nftables, the clock, the engine. Root.

Every fault ends whole: `begin` and `end` may be called again after an error, and `mend` undoes whatever a run that was
interrupted may have left (stopped processes, filters, fault files, cut cables, machines that are off).
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from cluster.chaos.plan import Fault
from cluster.cloud.engine import Engine
from cluster.cloud.local import LocalProvider
from cluster.machine.config import ClusterConfig
from cluster.machine.processes import ProcessId, all_processes, command_line, start_daemon, wait_gone
from cluster.machinery.provider import ProviderError

_CLASSES = {"state": "State", "apiserver": "ApiServer", "scheduler": "Scheduler", "controllers": "Controllers",
            "supervisor": "Supervisor", "kubelet": "Kubelet", "proxy": "Proxy"}  # fmt: skip
_TABLE = "sk8-chaos"
_JUMP_S = 600.0
_INJECTED = {"disk-full": "fail:wal.write", "slow-fsync": "delay:wal.fsync=50ms"}
_POWER = frozenset({"kill-machine", "wipe-machine", "reboot-machine", "kill-leader", "kill-head"})
_CUT_OFF = frozenset({*_POWER, "partition-full", "partition-one-way", "slow-link", "lossy-link"})


class FaultError(RuntimeError):
    """The fault could not be made: there is nothing to break, or no means to."""


class Breaker:
    """`leader` and `head` tell which machine holds the store's leader and Ray's head at this moment."""

    def __init__(
        self, config: ClusterConfig, leader: Callable[[], Awaitable[str]], head: Callable[[], str], log: Path
    ) -> None:
        self._config = config
        self._provider = LocalProvider(config.host_socket)
        self._leader, self._head = leader, head
        self._log = log
        self._engine_command: list[str] = []
        self._jumped_s = 0.0
        self._netem = False

    async def aim(self, fault: Fault) -> Fault:
        """At the machine that holds the leader or the head now, or that has the actor at all."""
        what, _, actor = fault.kind.partition("-")
        if what in ("kill", "pause") and actor in _CLASSES:
            names = [spec.name for spec in self._config.machines]
            having = [name for name in names if self._processes(name, _is_actor(actor))]
            target = fault.targets[0] if fault.targets[0] in having else next(iter(having), fault.targets[0])
            return Fault(fault.kind, (target,), fault.lasts_s)
        if fault.kind == "kill-leader":
            return Fault(fault.kind, (await self._leader() or fault.targets[0],), fault.lasts_s)
        if fault.kind == "kill-head":
            return Fault(fault.kind, (self._head(),), fault.lasts_s)
        return fault

    @staticmethod
    def cut_off(fault: Fault) -> frozenset[str]:
        """Machines whose own addresses a client outside cannot be expected to reach meanwhile."""
        return frozenset(fault.targets) if fault.kind in _CUT_OFF else frozenset()

    async def begin(self, fault: Fault) -> None:
        """Raises FaultError, ProviderError."""
        machine = fault.targets[0]
        what, _, actor = fault.kind.partition("-")
        if fault.kind in _POWER:
            await (self._provider.stop if fault.kind == "reboot-machine" else self._provider.kill)(machine)
        elif fault.kind == "kill-raylet":
            self._signal(machine, _is_raylet, signal.SIGKILL, "raylet")
        elif what == "kill":
            self._signal(machine, _is_actor(actor), signal.SIGKILL, actor)
        elif what == "pause":
            self._signal(machine, _is_actor(actor), signal.SIGSTOP, actor)
        elif fault.kind == "partition-full":
            await self._provider.set_link(machine, up=False)
        elif what == "partition":
            await self._filter(machine, self._rules(fault))
        elif fault.kind in ("slow-link", "lossy-link"):
            slow = fault.kind == "slow-link"
            await self._provider.set_netem(machine, delay_ms=50 if slow else 0, loss_percent=0 if slow else 5)
        elif fault.kind in _INJECTED:
            self._faults_file(machine).write_text(_INJECTED[fault.kind] + "\n")
            self._signal(machine, _is_actor("state"), signal.SIGKILL, "state")
        elif fault.kind == "engine-restart":
            await self._stop_engine()
        elif fault.kind == "clock-jump":
            self._jump(_JUMP_S)
        else:
            raise FaultError(f"nothing here makes a {fault.kind}")

    async def end(self, fault: Fault) -> None:
        """Raises FaultError, ProviderError."""
        machine = fault.targets[0]
        if fault.kind in _POWER:
            await self._provider.start(machine, wipe=fault.kind == "wipe-machine")
        elif fault.kind.startswith("pause-"):
            self._resume(machine)
        elif fault.kind == "partition-full":
            await self._provider.set_link(machine, up=True)
        elif fault.kind.startswith("partition-"):
            await self._filter(machine, "")
        elif fault.kind in ("slow-link", "lossy-link"):
            await self._provider.set_netem(machine)
        elif fault.kind in _INJECTED:
            self._faults_file(machine).unlink(missing_ok=True)
            self._kill_state(machine)
        elif fault.kind == "engine-restart":
            await self._start_engine()
        elif fault.kind == "clock-jump":
            self._jump(-self._jumped_s)

    async def mend(self) -> list[str]:
        """As it was before any fault, each machine for itself; what could not be undone, in words."""
        self._jump(-self._jumped_s)
        left: list[str] = []
        try:
            await self._start_engine()
            machines = await self._provider.local_machines()
        except (FaultError, ProviderError) as e:
            return [str(e)]
        for machine in machines:
            try:
                await self._mend(machine.status.name, off=machine.status.state == "off")
            except (FaultError, ProviderError, OSError) as e:
                left.append(f"{machine.status.name}: {e}")
        return left

    async def _mend(self, machine: str, *, off: bool) -> None:
        file = self._faults_file(machine)
        injected = file.exists()
        file.unlink(missing_ok=True)
        if off:
            await self._provider.start(machine)
            return
        self._resume(machine)
        await self._filter(machine, "")
        await self._provider.set_link(machine, up=True)
        if injected:  # a member reads its faults when it starts
            self._kill_state(machine)
        if self._netem:
            await self._provider.set_netem(machine)

    async def netem_refusal(self) -> str:
        """Why packets cannot be delayed or lost here; "" when they can."""
        try:
            await self._provider.set_netem(self._config.machines[0].name, delay_ms=0.001)
            await self._provider.set_netem(self._config.machines[0].name)
        except ProviderError as e:
            return e.message
        self._netem = True
        return ""

    def actors(self) -> frozenset[tuple[str, str]]:
        """(actor, machine) of every actor that runs."""
        names = [spec.name for spec in self._config.machines]
        return frozenset((a, m) for m in names for a in _CLASSES if self._processes(m, _is_actor(a)))

    # -- processes -----------------------------------------------------------------------------------------------
    def _processes(self, machine: str, wanted: Callable[[list[str]], bool]) -> list[ProcessId]:
        """Of the machine's network namespace (pods have their own)."""
        namespace = Path(f"/run/netns/{self._config.prefix}-{machine}")
        if not namespace.exists():
            return []
        inode = namespace.stat().st_ino
        return [ProcessId(pid, start) for pid, start in _inside(inode) if wanted(command_line(pid))]

    def _signal(self, machine: str, wanted: Callable[[list[str]], bool], number: signal.Signals, what: str) -> None:
        found = self._processes(machine, wanted)
        if not found:
            raise FaultError(f"no {what} runs on {machine}")
        for process in found:
            process.signal(number)

    def _kill_state(self, machine: str) -> None:
        for process in self._processes(machine, _is_actor("state")):
            process.signal(signal.SIGKILL)

    def _resume(self, machine: str) -> None:
        for process in self._processes(machine, lambda words: bool(words) and words[0].startswith("ray::")):
            process.signal(signal.SIGCONT)

    # -- filters -------------------------------------------------------------------------------------------------
    def _rules(self, fault: Fault) -> str:
        if fault.kind == "partition-one-way":
            return 'chain out { type filter hook postrouting priority 400; oifname "eth0" drop; }'
        if fault.kind == "partition-bridge":
            others = [self._config.spec(fault.targets[1]).ip]
        else:
            others = [spec.ip for spec in self._config.control_planes if spec.name != fault.targets[0]]
        there = ", ".join(others)
        return (
            f"chain in {{ type filter hook prerouting priority -400; ip saddr {{ {there} }} drop; }}\n"
            f"chain out {{ type filter hook postrouting priority 400; ip daddr {{ {there} }} drop; }}"
        )

    async def _filter(self, machine: str, rules: str) -> None:
        """In one transaction: no moment with half of it. Empty rules: no table."""
        script = f"table ip {_TABLE}\ndelete table ip {_TABLE}\n"
        if rules:
            script += f"table ip {_TABLE} {{\n{rules}\n}}\n"
        command = f"nsenter --net=/run/netns/{self._config.prefix}-{machine} nft -f -"
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        _, error = await process.communicate(script.encode())
        if process.returncode:
            raise FaultError(f"nft in {machine}: {error.decode().strip()}")

    # -- the box -------------------------------------------------------------------------------------------------
    def _faults_file(self, machine: str) -> Path:
        return self._config.base / "machines" / machine / "faults"

    def _jump(self, by_s: float) -> None:
        if by_s:
            time.clock_settime(time.CLOCK_REALTIME, time.time() + by_s)
            self._jumped_s += by_s

    async def _stop_engine(self) -> None:
        """The engine that listens on the cluster's socket: there may be others on the box."""
        pid = await asyncio.to_thread(_listener, self._config.engine_socket)
        words = command_line(pid) if pid else []
        if not words or not words[0].endswith("dockerd"):
            raise FaultError(f"no dockerd listens on {self._config.engine_socket}")
        self._engine_command = words
        process = ProcessId.of(pid)
        if process is not None:
            process.signal(signal.SIGTERM)
        if process is not None and await wait_gone([process], 30):
            raise FaultError(f"dockerd (process {pid}) does not end")

    async def _start_engine(self) -> None:
        """As it was; something of the box (systemd) may have started it already."""
        engine = Engine(self._config.engine_socket)
        if not self._engine_command or await engine.answers():
            return
        start_daemon(self._engine_command, os.environ, self._log)
        for _ in range(300):
            if await engine.answers():
                return
            await asyncio.sleep(0.1)
        raise FaultError(f"{self._engine_command[0]} does not answer again; see {self._log}")


def _listener(path: str) -> int:
    """The process that accepts on a unix socket, 0 when nobody does: who answers a connection (SO_PEERCRED)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(path)
        except OSError:
            return 0
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])


def _is_raylet(words: list[str]) -> bool:
    return bool(words) and words[0].endswith("/raylet")


def _is_actor(actor: str) -> Callable[[list[str]], bool]:
    title = f"ray::{_CLASSES[actor]}"
    return lambda words: bool(words) and words[0].split(".")[0] == title


def _inside(namespace: int) -> Iterator[tuple[int, int]]:
    for found in all_processes():
        try:
            if Path(f"/proc/{found.pid}/ns/net").stat().st_ino == namespace:
                yield found.pid, found.start
        except OSError:
            continue  # it ended meanwhile
