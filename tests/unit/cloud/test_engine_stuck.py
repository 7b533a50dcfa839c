"""An engine that hangs on one container: the others go, and the one ends without it, or is named."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from cluster.cloud import cleanup, container_processes, engine
from cluster.cloud.cleanup import Leftovers
from cluster.cloud.engine import LABEL, Engine, EngineError
from cluster.machine.config import ClusterConfig
from cluster.machine.processes import ProcessId

WELL, STUCK = "a" * 64, "b" * 64


class HangingEngine:
    """Never answers for one of its two containers, as dockerd does while another call holds that one's lock."""

    def __init__(self, *, until_shim_dies: bool = False) -> None:
        self.removed: list[str] = []
        self.until_shim_dies = until_shim_dies
        self.shim_died = False

    @contextlib.asynccontextmanager
    async def serving(self, socket: Path) -> AsyncIterator[Engine]:
        app = web.Application()
        app.router.add_get("/_ping", self._ping)
        app.router.add_get("/containers/json", self._list)
        for method, path in (("POST", "/{verb}"), ("DELETE", "")):
            app.router.add_route(method, "/containers/{id}" + path, self._act)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(socket)).start()
            yield Engine(str(socket))
        finally:
            await runner.cleanup()

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _list(self, request: web.Request) -> web.Response:
        here = f"{LABEL}=sk8u-m1" in request.query["filters"]
        return web.json_response([{"Id": i, "Labels": {LABEL: "sk8u-m1"}} for i in (WELL, STUCK) if here])

    async def _act(self, request: web.Request) -> web.Response:
        container = request.match_info["id"]
        while container == STUCK and not (self.until_shim_dies and self.shim_died):
            await asyncio.sleep(0.01)
        if request.method == "DELETE":
            self.removed.append(container)
            raise web.HTTPNotFound
        return web.Response(status=204)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the calls about the stuck container wait, in turn; the last of them goes for all that follow. Those
    about the other one wait for as long as a busy box may need."""
    left, call = [1.0], Engine._call

    async def patiently(
        self: Engine, method: str, path: str, params: dict[str, str], timeout_s: float
    ) -> tuple[int, str]:
        if STUCK not in path:
            return await call(self, method, path, params, 60.0)
        return await call(self, method, path, params, left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr(Engine, "_call", patiently)
    return left


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """By pid: the control group that a process shows; all others show none."""
    made: dict[int, str] = {}
    monkeypatch.setattr(container_processes, "_groups", lambda pid: made.get(pid, ""))
    return made


async def test_a_container_that_the_engine_does_not_kill_ends_by_its_processes(
    tmp_path: Path, groups: dict[int, str]
) -> None:
    """Regression: one kill that was never answered failed the power-off of a whole machine."""
    async with HangingEngine().serving(tmp_path / "s") as made:
        with subprocess.Popen(["sleep", "600"]) as inside:
            groups[inside.pid] = f"9:pids:/sk8-m1/kubepods/poduid/{STUCK}\n0::/\n"
            await made.kill([WELL, STUCK])
            assert inside.wait(30) == -9


async def test_no_process_is_proof_where_the_engines_processes_are_seen(
    tmp_path: Path, groups: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HangingEngine().serving(tmp_path / "s") as made:
        await made.kill([STUCK])  # its listener is this very process
        monkeypatch.setattr(container_processes, "sees_processes_of", lambda _: False)
        with pytest.raises(EngineError, match="not known to have ended: container bbbbbbbbbbbb: no answer within"):
            await made.kill([STUCK])


async def test_a_process_that_does_not_die_is_named(
    tmp_path: Path, groups: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HangingEngine().serving(tmp_path / "s") as made:
        monkeypatch.setattr(engine, "_PROCESSES_S", 0.1)
        monkeypatch.setattr(ProcessId, "signal", lambda *_: True)  # as in an uninterruptible wait
        with subprocess.Popen(["sleep", "600"]) as inside:
            groups[inside.pid] = f"0::/system.slice/docker-{STUCK}.scope\n"
            with pytest.raises(EngineError, match=f"container bbbbbbbbbbbb: process {inside.pid} does not die"):
                await made.kill([STUCK])
            inside.kill()


async def test_what_is_not_removed_is_told_and_the_rest_is_gone(tmp_path: Path, groups: dict[int, str]) -> None:
    served = HangingEngine()
    async with served.serving(tmp_path / "s") as made:
        assert await made.remove([WELL, STUCK]) == {STUCK: "no answer within 1 s"}
    assert served.removed == [WELL]


async def test_an_engine_that_waited_for_a_dead_shim_goes_on_once_it_is_gone(
    tmp_path: Path, groups: dict[int, str], waits: list[float]
) -> None:
    waits.append(60.0)
    served = HangingEngine(until_shim_dies=True)
    line = ["containerd-shim-of-a-test", "-c", "read line", "-id", STUCK]
    with subprocess.Popen(line, executable="/bin/sh", stdin=subprocess.PIPE) as shim:

        async def waits_for_it() -> None:
            while shim.poll() is None:
                await asyncio.sleep(0.01)
            served.shim_died = True

        async with served.serving(tmp_path / "s") as made, asyncio.TaskGroup() as group:
            group.create_task(waits_for_it())
            assert await made.remove([WELL, STUCK]) == {}


async def test_without_any_engine_a_machines_containers_end_by_their_control_groups(groups: dict[int, str]) -> None:
    def sleeper() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "600"])

    with sleeper() as inside, sleeper() as beside, sleeper() as root:
        groups[inside.pid] = f"9:pids:/sk8-m1/kubepods/poduid/{WELL}\n0::/\n"
        groups[root.pid] = "9:pids:/sk8-m1\n"
        groups[beside.pid] = f"9:pids:/sk8-m11/kubepods/poduid/{STUCK}\n"
        assert await container_processes.end_groups([], 30) == [] and inside.poll() is None
        assert await container_processes.end_groups(["sk8-m1", "sk8-m2"], 30) == []
        assert inside.wait(30) == root.wait(30) == -9 and beside.poll() is None
        beside.kill()


async def test_a_frozen_container_is_thawed_to_end_without_its_engine(tmp_path: Path, groups: dict[int, str]) -> None:
    """In version 1 a SIGKILL waits for the thaw."""
    freezer = tmp_path / "freezer" / "sk8-m1" / "kubepods" / "poduid" / WELL / "freezer.state"
    freezer.parent.mkdir(parents=True)
    freezer.write_text("FROZEN\n")
    with subprocess.Popen(["sleep", "600"]) as inside:
        groups[inside.pid] = f"9:freezer:/sk8-m1/kubepods/poduid/{WELL}\n"
        assert await container_processes.end_groups(["sk8-m1"], 30, tmp_path) == []
    assert freezer.read_text() == "THAWED"


def test_on_a_machine_of_its_own_only_its_own_pods_are_ended(tmp_path: Path) -> None:
    """Regression: all of /kubepods was, whoever's kubelet had made the pods there."""
    config = replace(ClusterConfig.local(), provider="vm", base_dir=str(tmp_path))
    for uid in ("uid-2", "uid-1"):
        (config.machine("m1").kubelet_dir / "pods" / uid).mkdir(parents=True)
    assert cleanup._groups_of_pods(config) == ["poduid-1", "poduid-2"]


async def test_down_takes_all_else_away(
    tmp_path: Path, groups: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: `sk8 down` ended with a traceback, and left links, mounts and every other container."""
    base, run = str(tmp_path / "base"), str(tmp_path / "run")
    config = replace(ClusterConfig.local(), prefix="sk8u", base_dir=base, run_dir=run)
    monkeypatch.setattr(cleanup, "find", lambda _: Leftovers(loops=["/dev/loop77"]))
    monkeypatch.setattr(cleanup, "loop_devices", lambda: {config.base / "disks" / "a": "/dev/loop77"})
    ran: list[tuple[str, ...]] = []

    def run_command(*command: str) -> None:
        ran.append(command)

    monkeypatch.setattr(cleanup, "_run", run_command)
    served = HangingEngine()
    async with served.serving(tmp_path / "s") as made:
        stayed = await cleanup.remove(config, made)
    assert served.removed == [WELL]
    assert ran == [("losetup", "--detach", "/dev/loop77")]
    assert stayed.words() == ["container bbbbbbbbbbbb (no answer within 1 s)"]
