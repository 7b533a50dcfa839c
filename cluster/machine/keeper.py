"""Keeps one raylet running on this machine, in the Ray cluster that the head runs now, with all its actors made.

IO. One loop: wait for the head, start Ray, run the ensure command until it says that all actors are there, and wait
until something breaks:

 - raylet (or, on the head, the GCS) ended: what is left of Ray here is stopped, and it starts again after a pause;
 - the head runs another epoch (its disk was lost): our raylet spins, so it is frozen with SIGSTOP, which its actors
   do not notice; they go on serving. When the head's Ray runs, it gives this machine its turn, and the other API
   servers answer, Ray is restarted here. So at most one machine at a time is without its actors;
 - another machine is the head now (`head.py`): the same, with that one's epoch; if it is this one, Ray starts here as
   the head at once;
 - `restart_in_turn` was called (new certificates): the same, in the same epoch.

While the head is silent nothing is concluded and nothing is stopped (DESIGN.md, "What is true").
Invariant: before Ray starts, no process of an earlier start is left (two State actors never meet on one directory).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.machine import rejoin
from cluster.machine.config import MachineConfig
from cluster.machine.forwarder import Probe
from cluster.machine.head import HeadRecord
from cluster.machine.processes import Children, ProcessId, Stat, command_line
from cluster.machine.ray_command import ensure_command, environment, is_head, start_command, stop_command
from cluster.machine.release import Release

log = logging.getLogger(__name__)

NEW_METADATA_AFTER = 5
"""A head whose Ray did not start so often in a row begins again without Ray's metadata."""

Phase = Literal["waiting for the head", "starting", "running", "frozen", "stopping", "stopped"]


class RayFailed(RuntimeError):
    """Ray did not start; its own logs say why."""


@dataclass(frozen=True, slots=True)
class KeeperTimes:
    start_s: float = 120.0
    ensure_s: float = 180.0
    turn_s: float = 120.0
    poll_s: float = 2.0
    stop_s: float = 5.0
    stop_actors_s: float = 12.0
    backoff_s: tuple[float, ...] = (0.5, 1, 2, 5, 10, 20)

    @property
    def longest_turn_s(self) -> float:
        """How long a machine may hold its turn: the others waited for, Ray stopped, started, and an ensure command that
        was begun at the last moment; then a little for what lies between. When Ray does not start, it gives it back."""
        restart_s = 3 * self.stop_s + self.start_s + self.backoff_s[-1]
        return 1.1 * (self.turn_s + restart_s + self.turn_s + self.ensure_s)


class RayKeeper:
    """`run()` returns only by cancellation, which stops Ray on this machine. `ask` makes the client of another
    machine's sk8-machine."""

    def __init__(
        self,
        record: HeadRecord,
        machine: MachineConfig,
        children: Children,
        ask: Callable[[str], rejoin.HeadClient],
        *,
        release: Release,
        times: KeeperTimes | None = None,
    ) -> None:
        self._record = record
        self._machine = machine
        self._children = children
        self._ask = ask
        self._release = release
        self._python = release.python
        self._life = secrets.token_hex(4)
        self._asked = asyncio.Event()
        self._times = times or KeeperTimes()
        self._epoch = ""
        self._phase: Phase = "stopped"
        self._ensured = asyncio.Event()
        self._starts = 0
        self._daemons: dict[str, ProcessId] = {}
        self._adopt()

    @property
    def longest_turn_s(self) -> float:
        return self._times.longest_turn_s

    def status(self) -> dict[str, object]:
        """What the head tells the other machines, and what `health` shows."""
        return {
            "machine": self._machine.name,
            "epoch": self._epoch,
            "ensured": self._ensured.is_set(),
            "ray": self._phase,
            "starts": self._starts,
            "head": self._record.head.to_json(),
            "release": str(self._release),
            "life": self._life,
        }

    def restart_in_turn(self) -> None:
        """Ray and all actors of this machine begin anew, as soon as no other machine is without its own."""
        self._asked.set()

    def _adopt(self) -> None:
        """Whom the record names as head, from the next start of Ray on."""
        self._record.changed.clear()
        self._ensured.clear()
        config = self._config = self._record.config
        self._head = None if is_head(config, self._machine) else self._ask(config.ray_head)
        self._env = environment(config, self._machine, self._python, self._release.checkout, os.environ)

    async def _learn_from_others(self) -> None:
        """At the boot of a head: was another made the head while this machine was off? Silence proves nothing."""
        if self._head is None and not self._machine.state_bootstrap:
            await self._ask_the_others()

    async def _ask_the_others(self) -> None:
        """Whom the control planes believe to be the head: a machine that came after the cluster was made is not in the
        Supervisor's list, so nobody tells it."""

        async def one(name: str) -> None:
            try:
                self._record.learn((await self._ask(name).status(1.0)).head)
            except rejoin.Unreachable:
                return

        others = [m.name for m in self._config.control_planes if m.name != self._machine.name]
        await asyncio.gather(*(one(name) for name in others))

    async def run(self) -> None:
        await self._learn_from_others()
        failures = 0
        turn = AsyncExitStack()
        try:
            while True:
                try:
                    await self._start()
                    failures = 0
                    orderly = await self._run_until_broken(turn)
                except RayFailed as e:
                    log.error("%s", e)
                    orderly = False
                    failures += 1
                await turn.aclose()
                if orderly:
                    await self._take_turn(turn)
                await self._stop()
                if failures == NEW_METADATA_AFTER and self._head is None:
                    log.error("Ray does not start here as the head: its metadata is set aside")
                    rejoin.set_metadata_aside(self._machine)
                if not orderly:
                    await asyncio.sleep(self._pause(failures))
        finally:
            await turn.aclose()
            await self._stop_actors()
            await self._stop()

    def _pause(self, failures: int) -> float:
        return self._times.backoff_s[min(failures, len(self._times.backoff_s) - 1)]

    # -- start ---------------------------------------------------------------------------------------------------
    async def _start(self) -> None:
        self._phase = "waiting for the head"
        self._adopt()
        while self._head is not None and not (epoch := await self._head_epoch(self._head)):
            self._adopt()
        # Here alone, where no Ray of ours runs: it may remove the directory of Ray's metadata.
        head = self._record.head
        self._epoch = epoch if self._head is not None else rejoin.current_epoch(self._machine, head.generation)
        self._phase = "starting"
        self._asked.clear()
        self._prune_sessions()
        command = start_command(self._config, self._machine, self._python)
        output = self._machine.log_dir / "ray-start.log"
        try:
            code = await self._children.run(command, self._env, output, self._times.start_s)
        except TimeoutError as e:
            raise RayFailed(f"ray start took longer than {self._times.start_s:g} s; see {output}") from e
        if code != 0:
            raise RayFailed(f"ray start ended with {code}; see {output}")
        self._daemons = self._find_daemons()
        missing = {"raylet", *(("gcs_server",) if self._head is None else ())} - set(self._daemons)
        if missing:
            raise RayFailed(f"ray start left no {', '.join(sorted(missing))} running; see {self._machine.ray_dir}")
        self._starts += 1
        self._phase = rejoin.RUNNING
        log.info("Ray runs in epoch %s", self._epoch)

    async def _head_epoch(self, head: rejoin.HeadClient) -> str:
        """Waits as long as it takes until the head's GCS listens and its epoch is known. "": there is
        another head now."""
        ip, _, port = self._config.gcs_address.rpartition(":")
        while not self._record.changed.is_set():
            try:
                async with asyncio.timeout(2):
                    _, writer = await asyncio.open_connection(ip, int(port))
                    writer.close()
                if epoch := (await head.status()).epoch:
                    return epoch
            except (OSError, TimeoutError, rejoin.Unreachable):
                if not self._machine.control_plane:
                    await self._ask_the_others()
            await asyncio.sleep(0.1)
        return ""

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
            _remove_tree(old)

    # -- running -------------------------------------------------------------------------------------------------
    async def _run_until_broken(self, turn: AsyncExitStack) -> bool:
        """True when the head runs another epoch, or is another, or we were asked; False when a daemon of ours ended."""
        ended = {self._children.ended(p.pid): name for name, p in self._daemons.items()}
        foreign = asyncio.ensure_future(self._until_foreign())
        asked = asyncio.ensure_future(self._asked.wait())
        ensure = asyncio.ensure_future(self._ensure(turn))
        try:
            breaks: set[asyncio.Future[Any]] = {*ended, foreign, asked}
            await asyncio.wait({*breaks, ensure}, return_when=asyncio.FIRST_COMPLETED)
            if ensure.done():
                ensure.result()
                await asyncio.wait(breaks, return_when=asyncio.FIRST_COMPLETED)
            for future, name in ended.items():
                if future.done():
                    log.error("%s ended with %d; restarting Ray on this machine", name, future.result())
            return foreign.done() or asked.done()
        finally:
            for task in (foreign, asked, ensure):
                task.cancel()
            await asyncio.gather(foreign, asked, ensure, return_exceptions=True)
            self._ensured.clear()

    async def _until_foreign(self) -> None:
        while True:
            await asyncio.sleep(self._times.poll_s)
            try:
                if await self._is_foreign():
                    return
            except Exception:  # the outermost loop; what cannot be told restarts nothing
                log.exception("looking at the head")

    async def _is_foreign(self) -> bool:
        if self._record.changed.is_set():
            was_head = self._head is None
            self._adopt()
            if was_head or self._head is None:
                return True
        if self._head is None:
            return False
        try:
            status = await self._head.status()
        except rejoin.Unreachable:
            if not self._machine.control_plane:
                await self._ask_the_others()  # what is news is acted on when this is asked next
            return False
        if not status.epoch or status.epoch == self._epoch:
            return False
        log.warning("the head runs Ray epoch %s, we are in %s", status.epoch, self._epoch)
        return True

    async def _ensure(self, turn: AsyncExitStack) -> None:
        """Runs the ensure command until it succeeds once; a held turn ends with it, or after `turn_s`."""
        command = ensure_command(self._config, self._machine, self._python)
        output = self._machine.log_dir / "ensure.log"
        release = asyncio.get_running_loop().time() + self._times.turn_s
        for attempt in range(1_000_000):
            try:
                code = await self._children.run(command, self._env, output, self._times.ensure_s)
            except TimeoutError:
                code = -signal.SIGKILL
            if code == 0:
                break
            log.warning("ensure ended with %d; see %s", code, output)
            if asyncio.get_running_loop().time() > release:
                await turn.aclose()
            await asyncio.sleep(self._pause(attempt))
        self._ensured.set()
        await turn.aclose()
        log.info("all actors of this machine are there")

    # -- the head came back as another cluster, or we were asked ---------------------------------------------------
    async def _take_turn(self, turn: AsyncExitStack) -> None:
        """Freezes the raylet, waits until there is a Ray to join and for our turn, and then for the other machines."""
        self._phase = "frozen"
        raylet = self._daemons.get("raylet")
        if raylet is not None:
            raylet.signal(signal.SIGSTOP)
        while (head := self._giver()) is not None:
            mine = head.turn(self._machine.name, self._times.turn_s)
            given = await self._can_be_joined(head) and await turn.enter_async_context(mine)
            if given and (not self._machine.control_plane or await self._others_can_spare_us(head)):
                return
            await turn.aclose()
            await asyncio.sleep(self._times.poll_s)
            if self._record.changed.is_set():
                self._adopt()

    async def _can_be_joined(self, head: rejoin.HeadClient) -> bool:
        """A head that is still starting, or whose Ray ends again and again, has an epoch but no Ray to join: whoever
        left its own actors for that would be without any, and three machines at once without a store."""
        try:
            return self._head is None or (await head.status()).ray == rejoin.RUNNING
        except rejoin.Unreachable:
            return False

    async def _others_can_spare_us(self, head: rejoin.HeadClient) -> bool:
        """In our turn: waits until the other API servers answer, at most `turn_s`. False: there is no Ray to join."""
        deadline = asyncio.get_running_loop().time() + self._times.turn_s
        while not ((self._head is None or await self._head_complete(head)) and await self._others_ready()):
            if asyncio.get_running_loop().time() > deadline:
                if not await self._can_be_joined(head):
                    return False
                log.warning("not all other API servers are ready; rejoining Ray all the same")
                return True
            await asyncio.sleep(1)
        return True

    def _giver(self) -> rejoin.HeadClient | None:
        """Who gives turns. The head asks itself, but for what it must do at once: begin another Ray."""
        return self._head or (self._ask(self._machine.name) if self._asked.is_set() else None)

    @staticmethod
    async def _head_complete(head: rejoin.HeadClient) -> bool:
        """A machine that has just become the head restarts its own actors first."""
        try:
            return (await head.status()).ensured
        except rejoin.Unreachable:
            return False

    async def _others_ready(self) -> bool:
        others = [m for m in self._config.control_planes if m.name != self._machine.name and await self._is_on(m.name)]
        probes = [Probe((m.ip, self._config.api_port), self._machine.pki / "ca.crt", 2.0) for m in others]
        try:
            return all(await asyncio.gather(*(p.ready() for p in probes)))
        finally:
            for probe in probes:
                probe.close()

    async def _is_on(self, name: str) -> bool:
        """A machine that is off is not waited for: it may stay off, which is why there is another head."""
        try:
            await self._ask(name).status()
        except rejoin.Unreachable:
            return False
        return True

    # -- stop ----------------------------------------------------------------------------------------------------
    async def _stop_actors(self) -> None:
        """A planned stop: leadership handed over, disks synced. Not waited for longer than it is worth."""
        command = stop_command(self._config, self._machine, self._python)
        if self._phase != "running" or not command:
            return
        output = self._machine.log_dir / "ensure.log"
        try:
            code = await self._children.run(command, self._env, output, self._times.stop_actors_s)
            log.info("actors stopped: %d", code)
        except TimeoutError:
            log.warning("the actors did not stop in time; see %s", output)

    async def _stop(self) -> None:
        """Leaves no process of Ray on this machine: the raylet first, politely unless frozen, then all the rest."""
        frozen, self._phase = self._phase == "frozen", "stopping"
        loop = asyncio.get_running_loop()
        if not frozen:
            for name in ("raylet", "gcs_server"):
                daemon = self._daemons.get(name)
                if daemon is not None and daemon.signal(signal.SIGTERM):
                    await asyncio.wait({self._children.ended(daemon.pid)}, timeout=self._times.stop_s)
        deadline = loop.time() + self._times.stop_s
        while left := self._children.inherited():
            for process in left:
                ProcessId(process.pid, process.start).signal(signal.SIGKILL)
            if loop.time() > deadline:
                raise RuntimeError(f"processes that do not die: {', '.join(f'{p.pid} {p.name}' for p in left)}")
            await asyncio.sleep(0.05)
            self._children.reap()
        self._daemons = {}
        self._phase = "stopped"


def _daemon_name(process: Stat) -> str:
    """raylet, gcs_server, "unwanted" for what serves nothing here, or "" for other orphans."""
    if process.name in ("raylet", "gcs_server"):
        return process.name
    arguments = command_line(process.pid)
    unwanted = _runs(arguments, "dashboard/dashboard.py") or "ray.util.client.server" in arguments
    return "unwanted" if unwanted else ""


def _runs(arguments: Sequence[str], script: str) -> bool:
    return any(a.endswith(script) for a in arguments[:3])


def _remove_tree(path: Path) -> None:
    for directory, names, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        for name in names:
            full = os.path.join(directory, name)
            if os.path.islink(full):
                os.unlink(full)
            else:
                os.rmdir(full)
    path.rmdir()
