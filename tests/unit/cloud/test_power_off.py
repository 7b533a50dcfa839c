"""`off` is a proof: it is said only when everything of the machine is gone, and tried for until then."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cloud import host_agent
from cluster.cloud import machines as module
from cluster.cloud.disks import Disks
from cluster.cloud.engine import Engine, EngineError
from cluster.cloud.machines import Machines, Record
from cluster.machine.config import ClusterConfig
from cluster.machine.files import Lock, Locked
from cluster.machine.identity import Authority
from cluster.machine.processes import ProcessId

NOBODY = ProcessId(1 << 22, 1)  # beyond pid_max


class FailingEngine(Engine):
    """Does not answer as often as it is told to."""

    def __init__(self, failures: int) -> None:
        super().__init__("/nowhere")
        self.failures = failures
        self.killed: list[str] = []

    async def containers(self, machine: str = "") -> list[str]:
        if self.failures:
            self.failures -= 1
            raise EngineError("it restarts")
        return [f"pod-of-{machine}"]

    async def kill(self, ids: Sequence[str]) -> None:
        self.killed += ids

    async def remove(self, ids: Sequence[str]) -> dict[str, str]:
        assert list(ids) == self.killed
        return dict.fromkeys(ids, "the engine hangs")


@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    socket = tmp_path / "engine.sock"
    socket.touch()
    base, run = str(tmp_path / "base"), str(tmp_path / "run")
    made = replace(ClusterConfig.local(), prefix="sk8u", base_dir=base, run_dir=run, engine_socket=str(socket))
    made.run.mkdir()
    made.base.mkdir()
    return made


def machines(config: ClusterConfig, engine: Engine) -> Machines:
    (config.run / "m1.json").write_bytes(Record(NOBODY, NOBODY).to_json())
    return Machines(config, Disks(config.disks_dir), engine, Authority(config), lambda: None)


async def test_a_machine_is_not_off_while_its_containers_may_run(config: ClusterConfig) -> None:
    """Regression: a kill that failed half-way left the machine "running", and nobody went on with it."""
    engine = FailingEngine(1)
    made = machines(config, engine)
    slot = made._slot("m1")
    slot.power, slot.record = "running", Record(NOBODY, NOBODY)
    with pytest.raises(EngineError):
        await made.kill("m1")
    assert made.power("m1") == "unknown" and not engine.killed
    async with asyncio.timeout(30):
        while made.power("m1") != "off":
            await asyncio.sleep(0.01)
    assert engine.killed == ["pod-of-sk8u-m1"] and not (config.run / "m1.json").exists()


async def test_containers_outlive_a_stopped_engine(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: without its socket the engine counted as never there, though live-restore keeps containers."""
    Path(config.engine_socket).unlink()
    namespaces = config.run / "netns"
    monkeypatch.setattr(module, "ENGINE_NAMESPACES", namespaces)
    made = machines(config, FailingEngine(1))
    assert await made._containers("m1") == []
    namespaces.mkdir()
    (namespaces / "default").touch()
    assert await made._containers("m1") == []
    (namespaces / "1f2e3d").touch()
    with pytest.raises(EngineError):
        await made._containers("m1")


async def test_a_second_agent_looks_at_nothing(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: it read the disks' table and mended their links before it found the lock taken."""

    def never(_: object) -> None:
        raise AssertionError("it went on")

    monkeypatch.setattr(host_agent, "HostAgent", never)
    lock = Lock(config.run / "host-agent.pid")
    lock.acquire()
    with pytest.raises(Locked):
        await host_agent._serve(config)
    lock.release()


async def test_a_machine_nobody_recorded_is_switched_off(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: an agent killed right after a boot left a machine that the next agent took for off."""
    engine = FailingEngine(0)
    made = machines(config, engine)
    (config.run / "m1.json").unlink()
    with subprocess.Popen(["sleep", "60"]) as orphan:
        found = ProcessId.of(orphan.pid)
        assert found is not None
        monkeypatch.setattr(made._switch, "namespaces", lambda: ["sk8u-m1", "sk8u-sw"])
        monkeypatch.setattr(module, "processes_in", lambda names: [found] if names == ["sk8u-m1"] else [])
        monkeypatch.setattr(made._switch, "remove_machine", lambda _: None)
        assert await made.adopt() == []
        assert orphan.wait(5) == -9
    assert made.power("m1") == "off" and engine.killed == ["pod-of-sk8u-m1"]


async def test_what_died_unwatched_never_counts_as_running(config: ClusterConfig) -> None:
    """Regression: a dead machine's record said "running" for a moment, and `sk8 up` did not boot that machine."""
    engine = FailingEngine(1)
    made = machines(config, engine)
    assert await made.adopt() == []
    assert made.power("m1") == "unknown"
    async with asyncio.timeout(30):
        while made.power("m1") != "off":
            await asyncio.sleep(0.01)
    assert engine.killed == ["pod-of-sk8u-m1"] and not (config.run / "m1.json").exists()


async def test_a_living_machine_is_adopted_and_left_alone(config: ClusterConfig) -> None:
    engine = FailingEngine(0)
    made = machines(config, engine)
    with subprocess.Popen(["sleep", "60"]) as init:
        found = ProcessId.of(init.pid)
        assert found is not None
        (config.run / "m1.json").write_bytes(Record(found, found).to_json())
        assert await made.adopt() == ["m1"]
        assert made.power("m1") == "running" and init.poll() is None and not engine.killed
        made.forget()
        init.kill()


def test_records_are_judged_by_pid_and_start(config: ClusterConfig) -> None:
    with subprocess.Popen(["sleep", "60"]) as init:
        found = ProcessId.of(init.pid)
        assert found is not None
        reused = ProcessId(found.pid, found.start - 1)
        (config.run / "m1.json").write_bytes(Record(found, found).to_json())
        (config.run / "m2.json").write_bytes(Record(reused, reused).to_json())
        (config.run / "m3.json").write_bytes(b"{}")
        assert module.recorded(config) == {"m1": True, "m2": False}
        assert module.living(config) == ["m1"]
        init.kill()
