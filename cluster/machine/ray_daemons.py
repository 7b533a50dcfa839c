"""Ray's processes on this machine: started, frozen, and stopped so that none is left. When, `keeper.py` decides.

IO. `ray start` leaves its daemons behind as orphans, hence children of sk8-machine (`processes.py`), found by their
names. Invariant: after `stop`, no process of an earlier start is left (two State actors never meet on one directory).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machine.processes import Children, ProcessId, Stat, command_line
from cluster.machine.ray_command import ensure_command, environment, is_head, start_command, stop_command
from cluster.machine.release import Release

log = logging.getLogger(__name__)


class RayFailed(RuntimeError):
    """Ray did not start; its own logs say why."""


@dataclass(frozen=True, slots=True)
class RayTimes:
    start_s: float = 120.0
    ensure_s: float = 180.0
    stop_s: float = 5.0
    stop_actors_s: float = 12.0


class RayDaemons:
    """`configure` comes before everything else."""

    def __init__(self, machine: MachineConfig, children: Children, release: Release, times: RayTimes) -> None:
        self._machine = machine
        self._children = children
        self._release = release
        self._times = times
        self._daemons: dict[str, ProcessId] = {}

    def configure(self, config: ClusterConfig) -> None:
        """From the next command on."""
        self._config = config
        self._env = environment(config, self._machine, self._release.python, self._release.checkout, os.environ)

    # -- start ---------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Call while none of it runs. Raises RayFailed."""
        self._prune_sessions()
        command = start_command(self._config, self._machine, self._release.python)
        output = self._machine.log_dir / "ray-start.log"
        try:
            code = await self._children.run(command, self._env, output, self._times.start_s)
        except TimeoutError as e:
            raise RayFailed(f"ray start took longer than {self._times.start_s:g} s; see {output}") from e
        if code != 0:
            raise RayFailed(f"ray start ended with {code}; see {output}")
        self._daemons = self._find_daemons()
        wanted = {"raylet", "gcs_server"} if is_head(self._config, self._machine) else {"raylet"}
        if missing := wanted - set(self._daemons):
            raise RayFailed(f"ray start left no {', '.join(sorted(missing))} running; see {self._machine.ray_dir}")

    def _find_daemons(self) -> dict[str, ProcessId]:
        found = {}
        for process in self._children.inherited():
            name = _daemon_name(process)
            if name == "unwanted":  # the dashboard and the client server: 130 MB and an open port, asked for by nobody
                ProcessId(process.pid, process.start).signal(signal.SIGKILL)
            elif name:
                found[name] = ProcessId(process.pid, process.start)
        return found

    def _prune_sessions(self) -> None:
        """Ray makes a directory of logs at each start and removes none: the last three stay."""
        for old in sorted(self._machine.ray_dir.glob("session_2*"))[:-3]:
            shutil.rmtree(old)

    # -- running -------------------------------------------------------------------------------------------------
    def ended(self) -> dict[asyncio.Future[int], str]:
        """What resolves with the exit code when a daemon ends, and that daemon's name."""
        return {self._children.ended(daemon.pid): name for name, daemon in self._daemons.items()}

    async def ensure(self) -> bool:
        """Runs the ensure command once; whether all actors of this machine are there."""
        output = self._machine.log_dir / "ensure.log"
        command = ensure_command(self._config, self._machine, self._release.python)
        try:
            code = await self._children.run(command, self._env, output, self._times.ensure_s)
        except TimeoutError:
            code = -signal.SIGKILL
        if code != 0:
            log.warning("ensure ended with %d; see %s", code, output)
        return code == 0

    def freeze(self) -> None:
        """The raylet does nothing more; its actors do not notice, and go on serving."""
        raylet = self._daemons.get("raylet")
        if raylet is not None:
            raylet.signal(signal.SIGSTOP)

    # -- stop ----------------------------------------------------------------------------------------------------
    async def stop_actors(self) -> None:
        """A planned stop: leadership handed over, disks synced. Not waited for longer than it is worth."""
        command = stop_command(self._config, self._machine, self._release.python)
        if not command:
            return
        output = self._machine.log_dir / "ensure.log"
        try:
            code = await self._children.run(command, self._env, output, self._times.stop_actors_s)
            log.info("actors stopped: %d", code)
        except TimeoutError:
            log.warning("the actors did not stop in time; see %s", output)

    async def stop(self, *, politely: bool) -> None:
        """Leaves no process of Ray on this machine: the raylet first, unless it is frozen politely, then all the rest.
        Raises RuntimeError when something does not die."""
        if politely:
            for name in ("raylet", "gcs_server"):
                daemon = self._daemons.get(name)
                if daemon is not None and daemon.signal(signal.SIGTERM):
                    await asyncio.wait({self._children.ended(daemon.pid)}, timeout=self._times.stop_s)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._times.stop_s
        while left := self._children.inherited():
            for process in left:
                ProcessId(process.pid, process.start).signal(signal.SIGKILL)
            if loop.time() > deadline:
                raise RuntimeError(f"processes that do not die: {', '.join(f'{p.pid} {p.name}' for p in left)}")
            await asyncio.sleep(0.05)
            self._children.reap()
        self._daemons = {}


def _daemon_name(process: Stat) -> str:
    """raylet, gcs_server, "unwanted" for what serves nothing here, or "" for other orphans."""
    if process.name in ("raylet", "gcs_server"):
        return process.name
    arguments = command_line(process.pid)
    unwanted = _runs(arguments, "dashboard/dashboard.py") or "ray.util.client.server" in arguments
    return "unwanted" if unwanted else ""


def _runs(arguments: Sequence[str], script: str) -> bool:
    return any(a.endswith(script) for a in arguments[:3])
