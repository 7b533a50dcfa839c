"""Machines outlive their host agent: `sk8 status` says so, and `sk8 up` adopts them instead of clearing them away."""

from __future__ import annotations

import datetime as dt
import io
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import agent, kubeconfig
from cluster.cli import up as up_module
from cluster.cli.main import main
from cluster.cli.output import CommandError, Output
from cluster.cli.up import UpOptions
from cluster.cloud import cleanup
from cluster.cloud.cleanup import Leftovers
from cluster.cloud.machines import Record
from cluster.machine import pki
from cluster.machine.config import ClusterConfig, save_cluster
from cluster.machine.identity import Authority, utcnow
from cluster.machine.processes import ProcessId
from cluster.machinery.provider import MachineState, MachineStatus

NOBODY = ProcessId(1 << 22, 1)  # beyond pid_max


class Box:
    """A host agent and an API as far as `sk8 up` sees them; `states` is told one after the other, the last for good."""

    def __init__(self, states: Sequence[dict[str, MachineState]] = ()) -> None:
        self.answers = False
        self.states = list(states)
        self.done: list[str] = []
        self.nodes_ready = {"m1": True, "m2": True, "m3": True}
        self.renewed: dict[str, float] = {}

    # -- LocalProvider
    async def machines(self) -> list[MachineStatus]:
        now = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return [MachineStatus(name, state, ("10.0.0.1",), "") for name, state in now.items()]

    async def start(self, name: str) -> None:
        self.done.append(f"boot {name}")
        self.states = [self.states[-1] | {name: "running"}]
        self.renewed[name] = time.time() + 1

    # -- AdminApi
    async def ready(self) -> bool:
        return True

    async def nodes(self) -> dict[str, bool]:
        return self.nodes_ready

    async def renewals(self) -> dict[str, float]:
        return self.renewed

    def access(self) -> None:
        return None


@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    made = replace(ClusterConfig.local(), base_dir=str(tmp_path / "sk8"), run_dir=str(tmp_path / "run"), api_port=1)
    made.base.mkdir()
    made.run.mkdir()
    save_cluster(made)
    return made


def record(config: ClusterConfig, *alive: str, dead: Sequence[str] = ()) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    for name in alive:
        (config.run / f"{name}.json").write_bytes(Record(me, me).to_json())
    for name in dead:
        (config.run / f"{name}.json").write_bytes(Record(NOBODY, NOBODY).to_json())


def install(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(_: ClusterConfig) -> bool:
        return box.answers

    async def start(_: ClusterConfig) -> bool:
        box.done.append("agent")
        box.answers = True
        return True

    async def ensure_engine(*_: Any) -> None:
        box.done.append("engine")

    async def ensure_pause(*_: Any) -> None:
        return None

    async def remove(*_: Any) -> None:
        raise AssertionError("cleared")

    monkeypatch.setattr(agent, "answers", answers)
    monkeypatch.setattr(agent, "start", start)
    monkeypatch.setattr(up_module, "_ensure_engine", ensure_engine)
    monkeypatch.setattr(up_module, "ensure_pause_image", ensure_pause)
    monkeypatch.setattr(cleanup, "find", lambda _: Leftovers(namespaces=["sk8-m1"]))
    monkeypatch.setattr(cleanup, "remove", remove)
    monkeypatch.setattr(up_module, "LocalProvider", lambda _: box)
    monkeypatch.setattr(up_module, "AdminApi", lambda _: box)
    monkeypatch.setattr(kubeconfig, "has", lambda *_: True)


async def up(config: ClusterConfig, tmp_path: Path) -> str:
    err = io.StringIO()
    environment = {"KUBECONFIG": str(tmp_path / "kubeconfig")}
    await up_module.up(UpOptions(None, None, None, config.base, 2), Output(err=err), environment)
    return err.getvalue()


async def test_up_adopts_and_touches_nothing(
    config: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it power-failed all running machines as "remains of an earlier run"."""
    box = Box([{"m1": "running", "m2": "running", "m3": "running"}])
    install(box, monkeypatch)
    record(config, "m1", "m2", "m3")
    said = await up(config, tmp_path)
    assert "the host agent was gone; started it again, adopted m1, m2, m3\n" in said
    assert "is up: m1, m2, m3 running" in said and "Nothing was changed" in said
    assert box.done == ["agent"]


async def test_up_renews_the_administrators_certificate(
    config: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it did so for new clusters alone, and a year later every command was refused."""
    install(Box([{"m1": "running", "m2": "running", "m3": "running"}]), monkeypatch)
    record(config, "m1", "m2", "m3")
    assert "no new certificate" in await up(config, tmp_path), "there is no CA"
    Authority(config).create()
    ca = pki.KeyPair((config.pki / "ca.crt").read_bytes(), (config.pki / "ca.key").read_bytes())
    old = pki.issue(ca, pki.ADMIN, utcnow() - dt.timedelta(days=300))
    (config.pki / "admin.key").write_bytes(old.key)
    (config.pki / "admin.crt").write_bytes(old.cert)
    assert "no new certificate" not in await up(config, tmp_path)
    assert not pki.needs_renewal((config.pki / "admin.crt").read_bytes(), utcnow())


async def test_what_died_meanwhile_is_booted_once_it_is_off(
    config: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on: dict[str, MachineState] = {"m1": "running", "m2": "running"}
    box = Box([on | {"m3": "unknown"}, on | {"m3": "off"}])
    install(box, monkeypatch)
    record(config, "m1", "m2", dead=["m3"])
    said = await up(config, tmp_path)
    assert "adopted m1, m2\n" in said and "is up: m1, m2, m3 running" in said
    assert box.done == ["agent", "engine", "boot m3"]


async def test_a_machine_that_was_switched_off_stays_off_and_is_named(
    config: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box([{"m1": "running", "m2": "running", "m3": "off"}])
    install(box, monkeypatch)
    record(config, "m1", "m2")
    assert "machine m3 is off. sk8 machine start m3" in await up(config, tmp_path)
    assert box.done == ["agent"]


async def test_a_start_boots_what_is_off_after_adoption(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: m3 was not yet "off" when the machines were looked at, and stayed off unnamed."""
    off: dict[str, MachineState] = {"m1": "off", "m2": "off"}
    box = Box([off | {"m3": "unknown"}, off | {"m3": "off"}])
    install(box, monkeypatch)
    await up_module._start(config, Output(quiet=True), 2)
    assert sorted(box.done) == ["agent", "boot m1", "boot m2", "boot m3", "engine"]
    box.states = [{"m1": "unknown"}]
    with pytest.raises(CommandError, match="not certain whether m1 is off"):
        await up_module._start(config, Output(quiet=True), 0)


async def test_a_living_machine_is_never_a_remain(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    install(Box(), monkeypatch)
    record(config, "m2", dead=["m1"])
    with pytest.raises(CommandError, match="m2 run, and the host agent does not answer"):
        await up_module._clear_remains(config, Output(quiet=True))


@pytest.mark.parametrize(
    ("state", "renewed", "missing"),
    [("running", 50.0, "m3"), ("off", 200.0, "m3"), ("running", None, "m3"), ("running", 200.0, "")],
)
async def test_ready_from_another_life_does_not_count(
    state: MachineState, renewed: float | None, missing: str, config: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: "3 nodes are Ready" with m3 off, from the conditions in kept data."""
    box = Box([{"m1": "running", "m2": "running", "m3": state}])
    install(box, monkeypatch)
    box.renewed = {"m1": 200.0, "m2": 200.0} | ({} if renewed is None else {"m3": renewed})
    wait = up_module.wait_ready(config, Output(quiet=True), 0, ["m1", "m2", "m3"], 100.0)
    if not missing:
        await wait
        return
    with pytest.raises(CommandError, match="2 of 3 nodes are Ready, not m3"):
        await wait


def test_status_names_what_runs_without_an_agent(config: ClusterConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Regression: it said that no machine runs."""
    record(config, "m1", "m3", dead=["m2"])
    assert main(["status", "--base", config.base_dir]) == 3
    said = capsys.readouterr().out
    assert "the host agent does not answer; m1, m3 may well be running" in said
    assert "sk8 up starts it again and leaves the machines alone" in said
    assert main(["machine", "list", "--base", config.base_dir]) == 1
    assert "leaves the machines alone" in capsys.readouterr().err


async def test_an_agent_that_hangs_is_named(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one beside it could not take its lock."""

    async def never(*_: Any) -> bool:
        return False

    me = ProcessId.of(os.getpid())
    monkeypatch.setattr(agent, "answers", never)
    monkeypatch.setattr(agent, "_comes", never)
    monkeypatch.setattr(agent, "process", lambda _: me)
    with pytest.raises(CommandError, match="runs but does not answer"):
        await agent.start(config)


async def test_machines_of_another_directory_are_neither_adopted_nor_cleared(
    config: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box([{"m1": "running"}])
    install(box, monkeypatch)
    record(config, "m1")
    monkeypatch.setattr(agent, "command_line", lambda _: ["python", "--machine", "m1", "--base", "/srv/other"])
    with pytest.raises(CommandError, match="machines of the cluster in /srv/other run here"):
        await up(config, tmp_path)
    with pytest.raises(CommandError, match="machines of the cluster in /srv/other run here"):
        await up_module._clear_remains(config, Output(quiet=True))
    assert box.done == []
