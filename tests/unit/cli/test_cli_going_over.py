"""A machine that begins anew with other settings: one that is busy, and the way back of one that is deaf or off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import going_over
from cluster.cli.going_over import Failed, GoingOver
from cluster.cli.status import is_healthy
from cluster.machine.config import ClusterConfig
from cluster.machine.rejoin import HeadStatus
from cluster.machinery.provider import MachineState, MachineStatus, ProviderError

SILENT = HeadStatus("", False)
NAME = "m2"


class Box:
    """m2, and its host agent. `busy`: how many times it will not answer; `deaf`: neither, nor does it take signals."""

    def __init__(self) -> None:
        self.power: MachineState = "running"
        self.life, self.busy, self.deaf = 1, 0, False
        self.sick: set[str] = set()
        self.told: list[str] = []

    async def machines(self) -> list[MachineStatus]:
        return [MachineStatus(NAME, self.power, ())]

    async def restart_agent(self, name: str) -> None:
        self.told.append("restart")
        if self.power == "off":
            raise ProviderError(f"machine {name} is off; start it first")
        self.life += not self.deaf

    async def kill(self, name: str) -> None:
        self.told.append("kill")
        self.power = "off"

    async def start(self, name: str) -> None:
        self.told.append("start")
        self.power, self.deaf = "running", False
        self.life += 1

    def status(self) -> HeadStatus:
        self.busy -= 1
        if self.busy >= 0 or self.deaf or self.power == "off":
            return SILENT
        return HeadStatus("e", True, release="/opt/sk8", life=str(self.life), settings="s")

    async def look(self, _: ClusterConfig) -> dict[str, Any]:
        rows = [
            {"name": n, "state": "running", "node": "NotReady" if n in self.sick else "Ready"} for n in ("m2", "m3")
        ]
        seen = {"api": True, "machines": rows, "store": {"leader": "m1", "members": []}}
        return {"healthy": is_healthy(seen)} | seen


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    box = Box()

    async def status(_: GoingOver) -> HeadStatus:
        return box.status()

    monkeypatch.setattr(going_over, "LocalProvider", lambda _: box)
    monkeypatch.setattr(going_over, "_POLL_S", 0.001)
    monkeypatch.setattr(going_over, "look", box.look)
    monkeypatch.setattr(GoingOver, "_status", status)
    return box


@pytest.fixture
def going(tmp_path: Path, box: Box) -> GoingOver:
    config = replace(ClusterConfig.local(3), base_dir=str(tmp_path))
    return GoingOver(config, config.machine(NAME), 300.0)


async def test_a_busy_machine_is_told_once_it_is_known_which_life_it_leads(box: Box, going: GoingOver) -> None:
    """Regression: silent for a moment, it was of no release, and whatever it did afterwards was no new beginning."""
    box.busy = 3
    await going.again()
    assert box.told == ["restart"] and box.life == 2


async def test_a_deaf_machine_is_told_nothing(box: Box, going: GoingOver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(going_over, "_HANGS_S", 0.01)
    box.deaf = True
    with pytest.raises(Failed, match=r"did not say how it is within 0\.01 s"):
        await going.again()
    assert box.told == [] and await going.settings() == ""


async def test_a_machine_that_is_off_fails_at_once(box: Box, going: GoingOver) -> None:
    box.power = "off"
    with pytest.raises(Failed, match="it went off"):
        await going.again()
    assert await going.settings() is None, "it boots with what is written down"


async def test_by_force_a_machine_that_is_well_keeps_its_pods(box: Box, going: GoingOver) -> None:
    await going.again_by_force(())
    assert box.told == ["restart"] and await going.settings() == "s"


@pytest.mark.parametrize("state", ["deaf", "off"])
async def test_by_force_another_one_boots(
    box: Box, going: GoingOver, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(going_over, "_HANGS_S", 0.01)
    box.deaf, box.power = state == "deaf", "off" if state == "off" else "running"
    await going.again_by_force(())
    assert box.told == ["kill", "start"]


async def test_the_health_of_those_that_failed_before_is_not_waited_for(box: Box, going: GoingOver) -> None:
    box.sick = {"m3"}
    await going.again_by_force({"m3"})
    assert box.told == ["restart"]
