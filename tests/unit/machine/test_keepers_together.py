"""Three RayKeepers with the real protocol between their machines: who is without actors when, and that nobody waits for
ever. Ray's processes and the network's addresses are the test's; turns, epochs and heads are sk8-machine's own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.machine import rejoin
from cluster.machine.config import ClusterConfig
from cluster.machine.head import HeadRecord
from cluster.machine.keeper import KeeperTimes, RayKeeper
from cluster.machine.processes import Children
from cluster.machine.release import Release
from tests.support.eventually import until
from tests.unit.machine.test_keeper import FakeChildren
from tests.unit.machine.test_machine_parts import machine_in

NAMES = ("m1", "m2", "m3")
PATIENT = KeeperTimes(turn_s=3600, poll_s=0.01, backoff_s=(0.01,))
"""So patient that who waits for another that waits for it fails the test by its own time-out."""


def open_sockets() -> int:
    """Of this process; a TLS connection that is closed in good order ends a moment after whoever closed it."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


class Downs:
    """Which machines are without their actors; `most` at once, and the `order` in which they were."""

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.most = 0
        self.order: list[str] = []

    def begins(self, name: str) -> None:
        if name not in self.now:
            self.now.add(name)
            self.order.append(name)
        self.most = max(self.most, len(self.now))

    def clear(self) -> None:
        self.most, self.order = 0, []


class Actors(FakeChildren):
    """Ends with Ray, there again with the ensure command."""

    def __init__(self, name: str, downs: Downs) -> None:
        super().__init__(0)
        self._name, self._downs = name, downs

    async def run(self, command: Any, environment: Any, output: Path, timeout_s: float) -> int:
        await asyncio.sleep(0.02)
        code = await super().run(command, environment, output, timeout_s)
        if "actors.ensure" in command and "--stop" not in command:
            self._downs.now.discard(self._name)
        return code

    def reap(self) -> None:
        super().reap()
        self._downs.begins(self._name)


class Three:
    def __init__(self, tmp_path: Path, ports: Iterator[int]) -> None:
        self.downs = Downs()
        self._server_context, self._client_context = rejoin.contexts(machine_in(tmp_path))
        self._client_context.check_hostname = False  # the certificate names 10.89.0.11; these servers are on loopback
        self._ports = dict(zip(NAMES, ports, strict=False))
        self.keepers: dict[str, RayKeeper] = {}
        self.records: dict[str, HeadRecord] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        for name in NAMES:
            self._boot(tmp_path, name)

    def _client(self, name: str) -> rejoin.HeadClient:
        return rejoin.HeadClient(("127.0.0.1", self._ports[name]), self._client_context)

    def _boot(self, tmp_path: Path, name: str) -> None:
        config = replace(ClusterConfig.local(3), base_dir=str(tmp_path / name))
        machine = config.machine(name)
        machine.ray_dir.mkdir(parents=True)
        record = self.records[name] = HeadRecord(config, machine)
        children, release = cast(Children, Actors(name, self.downs)), Release(Path("/venv/bin/python"), None)
        keeper = RayKeeper(record, machine, children, self._client, release=release, times=PATIENT)
        self.keepers[name] = keeper
        listen = ("127.0.0.1", self._ports[name])
        server = rejoin.HeadServer(listen, self._server_context, keeper.status, turn_s=keeper.longest_turn_s)
        self._tasks[name] = [asyncio.create_task(part) for part in (keeper.run(), server.run())]

    async def cut(self, *names: str) -> None:
        for name in names:
            for task in self._tasks.pop(name):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            del self.keepers[name]
            self.downs.now.discard(name)
        self.downs.clear()

    async def close(self) -> None:
        await self.cut(*self.keepers)

    def starts(self) -> dict[str, object]:
        return {name: keeper.status()["starts"] for name, keeper in self.keepers.items()}

    async def rests(self, starts: dict[str, int]) -> None:
        """Every machine has its actors after so many starts of Ray."""

        def so() -> bool:
            ensured = all(keeper.status()["ensured"] is True for keeper in self.keepers.values())
            return ensured and self.starts() == starts

        await until(so, 120)


@pytest.fixture
async def three(
    tmp_path: Path, unused_tcp_port_factory: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Three]:
    async def listens(keeper: RayKeeper, head: rejoin.HeadClient) -> str:
        """Without a GCS: what the head's sk8-machine says is enough."""
        while not keeper._record.changed.is_set():
            try:
                if epoch := (await head.status()).epoch:
                    return epoch
            except rejoin.Unreachable:
                await asyncio.sleep(0.01)
        return ""

    async def ready(keeper: RayKeeper) -> bool:
        return not made.downs.now - {keeper._machine.name}

    monkeypatch.setattr(RayKeeper, "_head_epoch", listens)
    monkeypatch.setattr(RayKeeper, "_others_ready", ready)
    before = open_sockets()
    made = Three(tmp_path, iter([unused_tcp_port_factory() for _ in NAMES]))
    await made.rests(dict.fromkeys(NAMES, 1))
    made.downs.clear()
    yield made
    await made.close()
    await until(lambda: open_sockets() <= before)


async def test_all_are_asked_at_once_and_begin_anew_one_after_another(three: Three) -> None:
    for keeper in three.keepers.values():
        keeper.restart_in_turn()
    await three.rests(dict.fromkeys(NAMES, 2))
    assert sorted(three.downs.order) == list(NAMES) and three.downs.most == 1


async def test_another_head_comes_first_and_the_others_follow_it(three: Three) -> None:
    await three.cut("m1")
    for name in ("m2", "m3"):
        three.records[name].learn({"machine": "m2", "generation": 1})
    await three.rests({"m2": 2, "m3": 2})
    assert three.downs.order == ["m2", "m3"] and three.downs.most == 1
    epochs = {str(keeper.status()["epoch"]) for keeper in three.keepers.values()}
    assert len(epochs) == 1 and epochs.pop().startswith("1-")


async def test_another_head_while_two_wait_for_a_turn_of_the_one_that_is_lost(three: Three) -> None:
    await three.cut("m1")
    for keeper in three.keepers.values():
        keeper.restart_in_turn()
    for name in ("m2", "m3"):
        three.records[name].learn({"machine": "m3", "generation": 1})
    await three.rests({"m2": 2, "m3": 2})
    assert three.downs.order == ["m3", "m2"] and three.downs.most == 1
