"""Local machines as processes: power on, power off, power failure, and finding them again after this agent restarts.

IO. A machine is PID 1 of a PID namespace in a network namespace on the switch; its record (`<run>/<m>.json`) holds the
process ids with their start times, so that another incarnation of the host agent adopts it.

                start                          SIGTERM, containers stopped
   off ----------------------> running ------------------------------------> off        (stop)
    ^                             | link down, SIGKILL, containers killed
    +-----------------------------+                                          (kill, or PID 1 died by itself)

Invariant: "off" is said only when no process and no container of the machine runs, nothing of its disk is mounted and
none of its devices is attached: it is the proof on which volumes and identities move elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import orjson

from cluster.cloud import cgroups, mounts, network
from cluster.cloud.cleanup import ENGINE_NAMESPACES, processes_in
from cluster.cloud.disks import DiskError, Disks
from cluster.cloud.engine import Engine, EngineError
from cluster.machine import identity
from cluster.machine.config import ClusterConfig
from cluster.machine.files import make_private_dir, write_atomic
from cluster.machine.machine_config import MachineConfig, container_label, load_machine
from cluster.machine.pods_shutdown import LONGEST_S
from cluster.machine.processes import ProcessId, children_of, wait_gone
from cluster.machine.release import checkout_dir
from cluster.machinery.container_kill import kill_here
from cluster.machinery.pod_logs import remove_machine_logs

log = logging.getLogger(__name__)

Power = Literal["running", "off", "unknown"]


class MachineError(RuntimeError):
    """A request that does not fit the machine's state."""


@dataclass(frozen=True, slots=True)
class Record:
    """The processes of a running machine: `launcher` is unshare(1), `init` the machine's PID 1 seen from the host."""

    launcher: ProcessId
    init: ProcessId

    def to_json(self) -> bytes:
        pairs = {k: [p.pid, p.start] for k, p in (("launcher", self.launcher), ("init", self.init))}
        return orjson.dumps(pairs)

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        raw = orjson.loads(data)
        return cls(*(ProcessId(int(raw[k][0]), int(raw[k][1])) for k in ("launcher", "init")))


@dataclass(slots=True)
class _Slot:
    """What this agent knows of one machine; `busy` serializes operations on it."""

    power: Power = "off"
    record: Record | None = None
    process: subprocess.Popen[bytes] | None = None
    watch: asyncio.Task[None] | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class Machines:
    """All machines of one cluster on this box. Use from one event loop."""

    def __init__(
        self,
        config: ClusterConfig,
        disks: Disks,
        engine: Engine,
        authority: identity.Authority,
        changed: Callable[[], None],
    ) -> None:
        self._config = config
        self._disks = disks
        self._engine = engine
        self._authority = authority
        self._changed = changed
        self._switch = network.Switch(config)
        self._slots = {m.name: _Slot() for m in config.machines}

    def reshape(self, config: ClusterConfig, authority: identity.Authority) -> None:
        """Other machines from now on; those that are left out are off."""
        self._config, self._authority = config, authority
        self._slots = {m.name: self._slots.get(m.name) or _Slot() for m in config.machines}
        self._changed()

    def power(self, name: str) -> Power:
        return self._slot(name).power

    def pid(self, name: str) -> int:
        """Of PID 1, seen from the host; 0 when it is off."""
        record = self._slot(name).record
        return record.init.pid if record is not None else 0

    async def adopt(self) -> list[str]:
        """Finds machines that an earlier host agent started; cleans up those that died meanwhile."""
        found = []
        for name, slot in self._slots.items():
            record = read_record(self._config, name)
            if record is None:
                await self._end_unrecorded(name, slot)
                continue
            slot.record = record
            if record.init.alive():
                slot.power = "running"
                found.append(name)
            else:
                log.warning("machine %s ended while no agent watched it", name)
                slot.power = "unknown"  # until the watch has made sure of the rest
            slot.watch = asyncio.create_task(self._watch(name, record.init))
        self._changed()
        return found

    async def _end_unrecorded(self, name: str, slot: _Slot) -> None:
        """An agent that died between booting a machine and recording it left one that nobody could switch off."""
        here = [n for n in self._switch.namespaces() if n == self._switch.namespace_of(name)]
        left = await asyncio.to_thread(processes_in, here)
        if not left:
            return
        log.warning("machine %s runs without a record: it is switched off", name)
        slot.power = "unknown"
        for process in left:
            process.signal(signal.SIGKILL)
        await wait_gone(left, 10)
        try:
            await self._power_failure(name, slot)
        except (EngineError, DiskError, OSError, MachineError) as e:
            log.error("machine %s is not off yet, kill it: %s", name, e)

    def forget(self) -> None:
        """Stops watching; the machines go on."""
        for slot in self._slots.values():
            if slot.watch is not None:
                slot.watch.cancel()

    # -- operations ----------------------------------------------------------------------------------------------
    async def start(self, name: str, *, wipe: bool = False) -> None:
        """Boots a machine that is off, from its disk, or from an empty one. Raises MachineError when it is not off."""
        slot = self._slot(name)
        async with slot.busy:
            if slot.power != "off":
                raise MachineError(f"machine {name} is {slot.power}; kill or stop it first")
            machine = await asyncio.to_thread(self._prepare, name, wipe)
            await self._launch(machine, slot)
            log.info("machine %s is on, pid %d", name, self.pid(name))

    async def kill(self, name: str) -> None:
        """A power failure. Idempotent."""
        slot = self._slot(name)
        async with slot.busy:
            if slot.power != "off":
                await self._cut(name, slot)
                log.info("machine %s lost power", name)

    async def stop(self, name: str, grace_s: float = LONGEST_S + 20.0) -> None:
        """An orderly shutdown: sk8-machine and Ray first, so that nothing is restarted, then its containers."""
        slot = self._slot(name)
        async with slot.busy:
            if slot.power == "off":
                return
            self._unwatch(slot)
            told = slot.record is not None and slot.record.init.signal(signal.SIGTERM)
            if told and slot.record is not None and await wait_gone([slot.record.init], grace_s):
                log.warning("machine %s did not stop within %g s", name, grace_s)
            try:
                await self._engine.stop(await self._engine.containers(self._label(name)), 10)
            except EngineError as e:
                log.warning("machine %s: %s", name, e)
            await self._cut(name, slot)
            log.info("machine %s is off", name)

    def tell(self, name: str, number: signal.Signals) -> None:
        """A signal to the sk8-machine of a machine that is on: SIGHUP, SIGUSR1. Raises MachineError."""
        record = self._slot(name).record
        if record is None or not record.init.signal(number):
            raise MachineError(f"machine {name} is {self.power(name)}; start it first")

    async def kill_container(self, name: str, container_id: str, *, shim: bool) -> str:
        """For a kubelet, which sees no process outside of its machine; what was done. Raises MachineError."""
        if container_id not in await self._engine.containers(self._label(name)):
            raise MachineError(f"machine {name} has no container {container_id}")
        return await asyncio.to_thread(kill_here, container_id, shim=shim)

    async def wipe(self, name: str) -> None:
        """Empties the disk of a machine that is off."""
        slot = self._slot(name)
        async with slot.busy:
            if slot.power != "off":
                raise MachineError(f"machine {name} is {slot.power}; kill or stop it first")
            await asyncio.to_thread(self._wipe, name)

    # -- on ------------------------------------------------------------------------------------------------------
    def _prepare(self, name: str, wipe: bool) -> MachineConfig:
        spec = self._config.spec(name)
        if wipe:
            self._wipe(name)
        try:
            machine = load_machine(self._config.base, name)
            if not identity.is_complete(machine):
                self._authority.invite(machine)
        except FileNotFoundError:
            machine = self._config.machine(name)
            self._authority.provision(machine)
        make_private_dir(machine.log_dir)
        write_atomic(machine.disk / "resolv.conf", self._resolv_conf().encode(), 0o644)
        mounts.keep_proc(self._config.box_proc)
        self._switch.make()
        self._switch.make_machine(spec)
        self._disks.attach_again(name)
        return machine

    def _resolv_conf(self) -> str:
        """The machines ask the box (cluster/network/dns_relay.py): its own resolvers may be of no use to them."""
        box = Path("/etc/resolv.conf")
        lines = box.read_text().splitlines() if box.exists() else []
        kept = [line for line in lines if line.split()[:1] in (["search"], ["domain"])]
        return "\n".join([f"nameserver {self._config.host_ip}", *kept]) + "\n"

    def _wipe(self, name: str) -> None:
        machine = self._config.machine(name)
        disk = machine.disk
        remove_machine_logs(machine.kubelet_dir)
        mounts.unmount_below(disk)
        if disk.exists():
            shutil.rmtree(disk)

    async def _launch(self, machine: MachineConfig, slot: _Slot) -> None:
        process = slot.process = await asyncio.to_thread(_boot, machine)
        slot.record = await self._find_init(machine, process)
        write_atomic(self._record_file(machine.name), slot.record.to_json())
        slot.power = "running"
        slot.watch = asyncio.create_task(self._watch(machine.name, slot.record.init))
        self._changed()

    async def _find_init(self, machine: MachineConfig, process: subprocess.Popen[bytes]) -> Record:
        deadline = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < deadline:
            launcher = ProcessId.of(process.pid)
            children = children_of(process.pid)
            if launcher is not None and children:
                return Record(launcher, ProcessId(children[0].pid, children[0].start))
            if process.poll() is not None:
                break
            await asyncio.sleep(0.005)
        process.kill()
        log_file = machine.log_dir / "machine.log"
        raise MachineError(f"machine {machine.name} did not boot; see {log_file}")

    # -- off -----------------------------------------------------------------------------------------------------
    async def _watch(self, name: str, init: ProcessId) -> None:
        """Waits for the death of PID 1 and then makes sure of the rest, trying again until it is."""
        await _process_end(init)
        slot = self._slot(name)
        slot.watch = None
        async with slot.busy:
            if slot.record is None or slot.record.init != init:
                return
            if slot.power == "running":
                log.warning("machine %s ended by itself", name)
            slot.power = "unknown"
            self._changed()
            while True:
                try:
                    await self._power_failure(name, slot)
                    return
                except (EngineError, DiskError, OSError, MachineError) as e:
                    log.error("machine %s is not off yet: %s", name, e)
                    await asyncio.sleep(1)

    async def _cut(self, name: str, slot: _Slot) -> None:
        """`_power_failure`, gone on with in the background when something of it fails; the error is the caller's."""
        try:
            await self._power_failure(name, slot)
        except BaseException:
            if slot.power != "off":
                slot.power = "unknown"
                self._changed()
                if slot.record is not None:
                    slot.watch = asyncio.create_task(self._watch(name, slot.record.init))
            raise

    async def _power_failure(self, name: str, slot: _Slot) -> None:
        """In this order: its peers hear nothing more; its processes end; its containers; its mounts and devices."""
        self._unwatch(slot)
        await asyncio.to_thread(self._switch.set_link, name, up=False)
        if slot.record is not None:
            slot.record.init.signal(signal.SIGKILL)
            slot.record.launcher.signal(signal.SIGKILL)
            if left := await wait_gone([slot.record.init], 10):
                raise MachineError(f"machine {name}: process {left[0].pid} does not die")
        if slot.process is not None:
            try:
                await asyncio.to_thread(slot.process.wait, 10)
            except subprocess.TimeoutExpired as e:
                raise MachineError(f"machine {name}: its launcher, process {slot.process.pid}, does not end") from e
            slot.process = None
        ids = await self._containers(name)
        await self._engine.kill(ids)
        await asyncio.to_thread(self._let_go, name)
        slot.record, slot.power = None, "off"
        self._record_file(name).unlink(missing_ok=True)
        self._changed()
        await self._engine.remove(ids)  # what stays does not run; the kubelet clears it when the machine is back
        await asyncio.to_thread(cgroups.remove_empty, self._config.machine(name).netns)

    async def _containers(self, name: str) -> list[str]:
        """None when no engine was ever there. Containers outlive one that was stopped, and so do their namespaces."""
        if not await asyncio.to_thread(os.path.exists, self._config.engine_socket) and not _engine_was_here():
            return []
        return await self._engine.containers(self._label(name))

    def _label(self, name: str) -> str:
        return container_label(self._config.prefix, name)

    def _let_go(self, name: str) -> None:
        mounts.unmount_below(self._config.machine(name).disk)
        self._disks.release_machine(name)
        self._switch.remove_machine(name)

    def _unwatch(self, slot: _Slot) -> None:
        if slot.watch is not None and slot.watch is not asyncio.current_task():
            slot.watch.cancel()
        slot.watch = None

    def _slot(self, name: str) -> _Slot:
        self._config.spec(name)
        return self._slots[name]

    def _record_file(self, name: str) -> Path:
        return _record_file(self._config, name)


def _record_file(config: ClusterConfig, name: str) -> Path:
    return config.run / f"{name}.json"


def read_record(config: ClusterConfig, name: str) -> Record | None:
    """None when there is none, or none that can be read."""
    file = _record_file(config, name)
    try:
        return Record.from_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, IndexError) as e:
        log.warning("%s is no record of a machine: %r", file, e)
        return None


def recorded(config: ClusterConfig) -> dict[str, bool]:
    """The machines that some host agent recorded as running, and whether their PID 1 lives. Asks no agent."""
    found = {m.name: read_record(config, m.name) for m in config.machines}
    return {name: record.init.alive() for name, record in found.items() if record is not None}


def living(config: ClusterConfig) -> list[str]:
    """The machines that a new host agent will adopt."""
    return [name for name, lives in recorded(config).items() if lives]


def _engine_was_here() -> bool:
    return ENGINE_NAMESPACES.is_dir() and any(n.name != "default" for n in ENGINE_NAMESPACES.iterdir())


def _boot(machine: MachineConfig) -> subprocess.Popen[bytes]:
    with (machine.log_dir / "machine.log").open("ab") as output:
        return subprocess.Popen(
            launch_command(machine),
            env=agent_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def launch_command(machine: MachineConfig) -> list[str]:
    """`nsenter --net`, not `ip netns exec`: the latter's private mounts are invisible to the container engine."""
    return [
        *("nsenter", f"--net=/run/netns/{machine.netns}"),
        *("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--propagation", "unchanged", "--kill-child"),
        *(sys.executable, "-m", "cluster.machine", "--machine", machine.name, "--base", machine.base_dir),
    ]


def agent_environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "LC_ALL", "TZ")}
    kept["PATH"] = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    kept["PYTHONUNBUFFERED"] = "1"
    checkout = checkout_dir()
    if checkout is not None:
        kept["PYTHONPATH"] = str(checkout)
    return kept


async def _process_end(process: ProcessId) -> None:
    """Returns once it has ended, also when it is no child of ours (pidfd_open(2))."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        if process.alive():
            await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
