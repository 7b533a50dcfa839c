"""Keeps one raylet running on this machine, in the Ray cluster that the head runs now, with all its actors made.

IO. One loop: wait for the head, start Ray, run the ensure command until it says that all actors are there, and wait
until something breaks:

 - raylet (or, on the head, the GCS) ended: what is left of Ray here is stopped, and it starts again after a pause;
 - the head runs another epoch (its disk was lost): our raylet spins, so it is frozen with SIGSTOP, which its actors
   do not notice; they go on serving. When the head's Ray runs, it gives this machine its turn, and the other API
   servers answer, Ray is restarted here. So at most one machine at a time is without its actors;
 - another machine is the head now (`head.py`): the same, with that one's epoch; if it is this one, Ray starts here as
   the head at once;
 - `restart_in_turn` was called (new certificates): Ray runs on until this machine has its turn, then it restarts.

While the head is silent nothing is concluded and nothing is stopped (docs/architecture.md, "What is true").
Invariant: before Ray starts, no process of an earlier start is left (two State actors never meet on one directory).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.machine import rejoin
from cluster.machine.forwarder import Probe
from cluster.machine.head import HeadRecord
from cluster.machine.machine_config import MachineConfig
from cluster.machine.processes import Children
from cluster.machine.ray_command import is_head
from cluster.machine.ray_daemons import RayDaemons, RayFailed, RayTimes
from cluster.machine.release import Release

log = logging.getLogger(__name__)

NEW_METADATA_AFTER = 5
"""A head whose Ray did not start so often in a row begins again without Ray's metadata."""

Phase = Literal["waiting for the head", "starting", "running", "frozen", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class KeeperTimes:
    turn_s: float = 120.0
    poll_s: float = 2.0
    ray: RayTimes = field(default_factory=RayTimes)
    backoff_s: tuple[float, ...] = (0.5, 1, 2, 5, 10, 20)

    @property
    def longest_turn_s(self) -> float:
        """How long a machine may hold its turn: the others waited for, Ray stopped, started, and an ensure command that
        was begun at the last moment; then a little for what lies between. When Ray does not start, it gives it back."""
        restart_s = self.ray.stop_actors_s + 3 * self.ray.stop_s + self.ray.start_s + self.backoff_s[-1]
        return 1.1 * (self.turn_s + restart_s + self.turn_s + self.ray.ensure_s)


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
        self._ask = ask
        self._release = release
        self._life = secrets.token_hex(4)
        self._asked = asyncio.Event()
        self._times = times or KeeperTimes()
        self._ray = RayDaemons(machine, children, release, self._times.ray)
        self._epoch = ""
        self._phase: Phase = "stopped"
        self._ensured = asyncio.Event()
        self._starts = 0
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
        self._ray.configure(config)

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
            if self._phase == "running":
                await self._ray.stop_actors()
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
        await self._ray.start()
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

    # -- running -------------------------------------------------------------------------------------------------
    async def _run_until_broken(self, turn: AsyncExitStack) -> bool:
        """True when the head runs another epoch, or is another, or we were asked; False when a daemon of ours ended."""
        ended = self._ray.ended()
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
            if foreign.done():
                self._asked.clear()  # what was asked for happens with it
            return foreign.done() or asked.done()
        finally:
            for task in (foreign, asked, ensure):
                task.cancel()
            await asyncio.gather(foreign, asked, ensure, return_exceptions=True)

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
        release = asyncio.get_running_loop().time() + self._times.turn_s
        for attempt in range(1_000_000):
            if await self._ray.ensure():
                break
            if asyncio.get_running_loop().time() > release:
                await turn.aclose()
            await asyncio.sleep(self._pause(attempt))
        self._ensured.set()
        await turn.aclose()
        log.info("all actors of this machine are there")

    # -- the head came back as another cluster, or we were asked ---------------------------------------------------
    async def _take_turn(self, turn: AsyncExitStack) -> None:
        """A raylet of a past epoch waits frozen. A healthy one that we were asked to restart runs on until its turn,
        then its actors stop in good order; when it ends meanwhile, no turn is waited for."""
        if self._asked.is_set():
            if await self._waits_running(turn):
                return
            await turn.aclose()
        self._freeze()
        await self._wait_for_turn(turn)

    async def _waits_running(self, turn: AsyncExitStack) -> bool:
        """False when the epoch passed meanwhile."""
        foreign = asyncio.ensure_future(self._until_foreign())
        waiting = asyncio.ensure_future(self._wait_for_turn(turn))
        breaks: set[asyncio.Future[Any]] = {foreign, waiting, *self._ray.ended()}
        try:
            done, _ = await asyncio.wait(breaks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            foreign.cancel()
            waiting.cancel()
            await asyncio.gather(foreign, waiting, return_exceptions=True)
        if foreign in done:
            return False
        if waiting in done:
            waiting.result()
            if self._phase == rejoin.RUNNING:  # else it froze: another machine became the head
                self._ensured.clear()
                await self._ray.stop_actors()
        return True

    def _freeze(self) -> None:
        self._phase = "frozen"
        self._asked.clear()
        self._ensured.clear()
        self._ray.freeze()

    async def _wait_for_turn(self, turn: AsyncExitStack) -> None:
        """Until there is a Ray to join, we have our turn, and the other machines can spare us."""
        while (head := self._giver()) is not None:
            mine = head.turn(self._machine.name, self._times.turn_s)
            given = await self._can_be_joined(head) and await turn.enter_async_context(mine)
            if given and (not self._machine.control_plane or await self._others_can_spare_us(head)):
                return
            await turn.aclose()
            await asyncio.sleep(self._times.poll_s)
            if not self._machine.control_plane:
                await self._ask_the_others()
            if self._record.changed.is_set():
                self._freeze()
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
        while not (await self._head_complete(head) and await self._others_ready()):
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

    async def _head_complete(self, head: rejoin.HeadClient) -> bool:
        """A machine that has just become the head restarts its own actors first. In the same epoch it is waited for by
        nobody: it may wait for the turn that we hold."""
        if self._head is None or self._phase != "frozen":
            return True
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

    async def _stop(self) -> None:
        frozen, self._phase = self._phase == "frozen", "stopping"
        self._ensured.clear()
        await self._ray.stop(politely=not frozen)
        self._phase = "stopped"
