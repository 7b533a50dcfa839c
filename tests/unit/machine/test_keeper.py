"""RayKeeper's decisions, with processes and a head that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from cluster.machine import rejoin
from cluster.machine.config import ClusterConfig
from cluster.machine.head import HeadRecord
from cluster.machine.keeper import NEW_METADATA_AFTER, KeeperTimes, RayKeeper
from cluster.machine.processes import Children, Stat
from cluster.machine.rejoin import HeadStatus, Unreachable
from cluster.machine.release import Release
from tests.support.eventually import end, until, until_then_end
from tests.unit.machine.test_machine_parts import machine_in

NO_PID = 1 << 30  # above the kernel's greatest
TIMES = KeeperTimes(poll_s=0, backoff_s=(0,))


class FakeChildren:
    """Every command ends with `code`; Ray's daemons are two that the box has no pid for, until they are reaped."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.living: list[Stat] = []
        self.commands: list[Sequence[str]] = []

    async def run(self, command: Sequence[str], environment: Mapping[str, str], output: Path, timeout_s: float) -> int:
        self.commands.append(command)
        await asyncio.sleep(0)
        if not self.code and command[0].endswith("/ray"):
            self.living = [Stat(NO_PID + i, name, "S", 1, 1) for i, name in enumerate(("raylet", "gcs_server"))]
        return self.code

    def inherited(self) -> list[Stat]:
        return self.living

    def ended(self, pid: int) -> asyncio.Future[int]:
        return asyncio.get_running_loop().create_future()

    def reap(self) -> None:
        self.living = []


@dataclass
class FakeHead:
    answer: Callable[[], HeadStatus]
    asked: int = 0
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    given: asyncio.Event = field(default_factory=asyncio.Event)

    async def status(self, timeout_s: float = 2.0, *, tell: Any = None) -> HeadStatus:
        self.asked += 1
        await asyncio.sleep(0)
        return self.answer()

    @asynccontextmanager
    async def turn(self, machine: str, patience_s: float) -> AsyncIterator[bool]:
        self.wanted.set()
        await self.given.wait()
        yield True


def make(
    tmp_path: Path, name: str, children: FakeChildren, head: FakeHead, machines: ClusterConfig | None = None
) -> tuple[RayKeeper, HeadRecord]:
    config = replace(machines or ClusterConfig.local(3), base_dir=str(tmp_path))
    machine = config.machine(name)
    machine.ray_dir.mkdir(parents=True)
    record = HeadRecord(config, machine)
    keeper = RayKeeper(
        record,
        machine,
        cast(Children, children),
        lambda _: cast(rejoin.HeadClient, head),
        release=Release(Path("/venv/bin/python"), None),
        times=TIMES,
    )
    return keeper, record


def silent() -> HeadStatus:
    raise Unreachable("off")


async def test_a_head_whose_ray_does_not_start_begins_again_without_metadata(tmp_path: Path) -> None:
    children = FakeChildren(1)
    keeper, _ = make(tmp_path, "m1", children, FakeHead(silent))
    ray = ClusterConfig.local(3).machine("m1")
    ray_dir = replace(ray, base_dir=str(tmp_path)).ray_dir
    (ray_dir / "gcs").mkdir()
    (ray_dir / "gcs" / "CURRENT").write_text("damaged")
    (ray_dir / "epoch").write_text("before")
    task = asyncio.create_task(keeper.run())
    await until_then_end(lambda: len(children.commands) > NEW_METADATA_AFTER + 2, task)
    assert (ray_dir / "gcs.failed" / "CURRENT").read_text() == "damaged"
    assert not (ray_dir / "gcs" / "CURRENT").exists()
    assert (ray_dir / "epoch").read_text() != "before"


async def test_metadata_is_left_alone_while_our_own_gcs_may_run(tmp_path: Path) -> None:
    keeper, record = make(tmp_path, "m1", FakeChildren(0), FakeHead(silent))
    gcs = replace(ClusterConfig.local(3), base_dir=str(tmp_path)).machine("m1").ray_dir / "gcs"
    gcs.mkdir(exist_ok=True)
    (gcs / "CURRENT").write_text("in use")
    (gcs.parent / "epoch").write_text("e0")
    record.learn({"machine": "m1", "generation": 2})
    async with asyncio.timeout(30):
        await keeper._until_foreign()
    assert (gcs / "CURRENT").read_text() == "in use"


async def test_an_error_while_looking_at_the_head_restarts_nothing(tmp_path: Path) -> None:
    def broken() -> HeadStatus:
        raise RuntimeError("never expected")

    head = FakeHead(broken)
    keeper, _ = make(tmp_path, "m2", FakeChildren(0), head)
    await until_then_end(lambda: head.asked > 3, asyncio.create_task(keeper._until_foreign()))


async def test_an_answer_that_is_no_object_proves_nothing(tmp_path: Path) -> None:
    server_context, client_context = rejoin.contexts(machine_in(tmp_path))
    client_context.check_hostname = False  # the certificate names 10.89.0.11; this server is on loopback

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"[]\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    async with server:
        port = int(server.sockets[0].getsockname()[1])
        with pytest.raises(Unreachable):
            await rejoin.HeadClient(("127.0.0.1", port), client_context).status(10)


def test_a_turn_outlasts_whatever_its_holder_may_do() -> None:
    times = KeeperTimes()
    restart_s = times.ray.stop_actors_s + times.ray.start_s + times.ray.ensure_s + 3 * times.ray.stop_s
    assert times.longest_turn_s > times.turn_s + restart_s + times.turn_s + max(times.backoff_s)


async def test_a_head_that_hears_of_its_own_new_generation_starts_anew(tmp_path: Path) -> None:
    children = FakeChildren(0)
    keeper, record = make(tmp_path, "m1", children, FakeHead(silent))
    task = asyncio.create_task(keeper.run())

    def runs(starts: int) -> bool:
        status = keeper.status()
        return status["ray"] == rejoin.RUNNING and status["ensured"] is True and status["starts"] == starts

    async with asyncio.timeout(30):
        while not runs(1):
            await asyncio.sleep(0.001)
    first = str(keeper.status()["epoch"])
    record.learn({"machine": "m1", "generation": 2})
    async with asyncio.timeout(30):
        while not runs(2):
            await asyncio.sleep(0.001)
    second = str(keeper.status()["epoch"])
    await end(task)
    assert first and "-" not in first and second.startswith("2-")
    assert keeper.status()["ray"] == "stopped"


@pytest.mark.parametrize("name", ["m1", "m2"])
async def test_ray_begins_anew_when_asked_and_only_in_its_turn(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = FakeHead(lambda: HeadStatus("e", False, ray=rejoin.RUNNING))  # it may itself wait for the turn that we hold
    children = FakeChildren(0)
    keeper, task = await asked_to_restart(tmp_path, name, head, monkeypatch, children)
    status = keeper.status()
    assert (status["starts"], status["ray"], status["ensured"]) == (1, rejoin.RUNNING, True), "it serves until then"
    assert not orderly_stops(children)
    head.given.set()
    await started(keeper, 2)
    assert orderly_stops(children) == 1
    await end(task)


async def test_an_epoch_that_passes_while_a_turn_is_waited_for_freezes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = HeadStatus("e", True, ray=rejoin.RUNNING)
    head = FakeHead(lambda: told)
    keeper, task = await asked_to_restart(tmp_path, "m2", head, monkeypatch)
    told = HeadStatus("f", False, ray=rejoin.RUNNING)
    await until(lambda: keeper.status()["ray"] == "frozen")
    head.given.set()
    asked = head.asked
    await until(lambda: head.asked > asked)
    assert keeper.status()["starts"] == 1, "the head's own actors come first"
    told = HeadStatus("e", True, ray=rejoin.RUNNING)
    await started(keeper, 2)
    await end(task)


async def test_a_raylet_that_ends_while_a_turn_is_waited_for_starts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = FakeChildren(0)
    ends: list[asyncio.Future[int]] = []

    def ended(pid: int) -> asyncio.Future[int]:
        ends.append(asyncio.get_running_loop().create_future())
        return ends[-1]

    monkeypatch.setattr(children, "ended", ended)
    keeper, task = await asked_to_restart(
        tmp_path, "m2", FakeHead(lambda: HeadStatus("e", True, ray=rejoin.RUNNING)), monkeypatch, children
    )
    ends[-1].set_result(-9)
    await started(keeper, 2)
    await end(task)


async def test_a_worker_that_gets_no_turn_asks_who_is_head(tmp_path: Path) -> None:
    news = HeadStatus("e", True, {"machine": "m2", "generation": 2}, rejoin.RUNNING)
    given = iter((False, True))

    class Silent(FakeHead):
        @asynccontextmanager
        async def turn(self, machine: str, patience_s: float) -> AsyncIterator[bool]:
            yield next(given)

    keeper, record = make(tmp_path, "m4", FakeChildren(0), Silent(lambda: news), ClusterConfig.local(4, 3))
    async with asyncio.timeout(60), AsyncExitStack() as turn:
        await keeper._take_turn(turn)
    assert record.head.machine == keeper._config.ray_head == "m2"


async def test_nobody_leaves_his_ray_for_a_head_whose_own_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that failed to start so often that it set its metadata aside says another epoch, and starts still."""
    now = HeadStatus("e", True, ray=rejoin.RUNNING)
    head = FakeHead(lambda: now)
    head.given.set()
    keeper, _ = make(tmp_path, "m2", FakeChildren(0), head)
    monkeypatch.setattr(keeper, "_head_epoch", AsyncMock(side_effect=lambda _: now.epoch))
    monkeypatch.setattr(keeper, "_others_ready", AsyncMock(return_value=True))
    task = asyncio.create_task(keeper.run())

    async def says(ray: object, starts: int) -> None:
        async with asyncio.timeout(60):
            while (keeper.status()["ray"], keeper.status()["starts"]) != (ray, starts):
                await asyncio.sleep(0.001)

    await says(rejoin.RUNNING, 1)
    now = HeadStatus("another", False, ray="starting")
    await says("frozen", 1)
    asked = head.asked
    async with asyncio.timeout(60):
        while head.asked < asked + 5:
            await asyncio.sleep(0.001)
    assert not head.wanted.is_set() and keeper.status()["starts"] == 1
    now = HeadStatus("another", True, ray=rejoin.RUNNING)
    await says(rejoin.RUNNING, 2)
    assert keeper.status()["epoch"] == "another"
    await end(task)


async def test_a_turn_is_given_back_when_there_is_no_ray_to_join_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, _ = make(tmp_path, "m2", FakeChildren(0), FakeHead(lambda: HeadStatus("another", False, ray="starting")))
    monkeypatch.setattr(keeper, "_times", replace(TIMES, turn_s=-1))
    monkeypatch.setattr(keeper, "_others_ready", AsyncMock(return_value=False))
    assert keeper._head is not None
    assert not await keeper._others_can_spare_us(keeper._head)


def orderly_stops(children: FakeChildren) -> int:
    return sum("--stop" in command for command in children.commands)


async def asked_to_restart(
    tmp_path: Path,
    name: str,
    head: FakeHead,
    monkeypatch: pytest.MonkeyPatch,
    children: FakeChildren | None = None,
) -> tuple[RayKeeper, asyncio.Task[None]]:
    """A keeper that runs, and waits for its turn."""
    keeper, _ = make(tmp_path, name, children or FakeChildren(0), head)
    monkeypatch.setattr(keeper, "_head_epoch", AsyncMock(return_value="e"))  # no GCS listens here
    monkeypatch.setattr(keeper, "_others_ready", AsyncMock(return_value=True))  # nor another API server
    task = asyncio.create_task(keeper.run())
    await started(keeper, 1)
    keeper.restart_in_turn()
    async with asyncio.timeout(60):
        await head.wanted.wait()
    return keeper, task


async def started(keeper: RayKeeper, times: int) -> None:
    await until(lambda: keeper.status()["starts"] == times and keeper.status()["ensured"] is True)
