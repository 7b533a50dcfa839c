"""`sk8 upgrade` when a release fails or somebody interrupts it: what each machine runs, and where a rollback leads."""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cluster.cli import going_over, upgrade
from cluster.cli.going_over import GoingOver, is_there, previous
from cluster.cli.output import CommandError, Output
from cluster.cli.status import is_healthy
from cluster.machine import release
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machine.rejoin import HeadStatus
from cluster.machine.release import Release
from cluster.machinery.provider import MachineState, MachineStatus, ProviderError

NAME = "m2"


async def interrupted() -> None:
    """As by Ctrl-C."""
    raise asyncio.CancelledError


def made(root: Path) -> Release:
    for directory in (".venv/bin", "cluster/machine"):
        (root / directory).mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / ".venv/bin/python").write_text("#!/bin/sh\n")
    (root / ".venv/bin/python").chmod(0o755)
    return release.in_directory(root)


class Box:
    """Three machines as far as the upgrade sees them. A release that `dies` takes the machine's first process with it,
    a `deaf` one never answers and takes no signal, a `sick` one answers and is never healthy."""

    def __init__(self, config: ClusterConfig, first: Release) -> None:
        self.config = config
        self.power: dict[str, MachineState] = {m.name: "running" for m in config.machines}
        self.life = dict.fromkeys(self.power, 1)
        self.runs = dict.fromkeys(self.power, first)
        self.first = first
        self.dies: Sequence[Release] = ()
        self.deaf: Sequence[Release] = ()
        self.sick: Sequence[Release] = ()
        self.told: list[str] = []
        self.on_restart: Callable[[], Awaitable[None]] | None = None

    async def machines(self) -> list[MachineStatus]:
        return [MachineStatus(name, state, ()) for name, state in self.power.items()]

    async def restart_agent(self, name: str) -> None:
        self.told.append(f"restart {name}")
        if self.on_restart is not None:
            await self.on_restart()
        if self.power[name] != "running":
            raise ProviderError(f"machine {name} is off; start it first")
        if self.runs[name] not in self.deaf:
            self._begin(name)

    async def kill(self, name: str) -> None:
        self.told.append(f"kill {name}")
        self.power[name] = "off"

    async def start(self, name: str) -> None:
        self.told.append(f"start {name}")
        self._begin(name)

    def _begin(self, name: str) -> None:
        self.runs[name] = release.chosen(self.config.machine(name)) or self.first
        self.life[name] += 1
        self.power[name] = "off" if self.runs[name] in self.dies else "running"

    def status(self, name: str) -> HeadStatus:
        runs = self.runs[name]
        if self.power[name] != "running" or runs in self.deaf:
            return HeadStatus("", False)
        return HeadStatus("e", True, release=str(runs), life=str(self.life[name]))

    async def look(self, _: ClusterConfig) -> dict[str, Any]:
        well = {n: p == "running" and self.runs[n] not in (*self.deaf, *self.sick) for n, p in self.power.items()}
        rows = [{"name": n, "state": self.power[n], "node": "Ready" if ok else "NotReady"} for n, ok in well.items()]
        members = [{"name": n, "answers": ok} for n, ok in well.items()]
        seen = {"api": True, "machines": rows, "store": {"leader": "m1", "members": members}}
        return {"healthy": is_healthy(seen)} | seen

    def machine(self) -> MachineConfig:
        return self.config.machine(NAME)


@pytest.fixture
def old(tmp_path: Path) -> Release:
    return made(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> Release:
    return made(tmp_path / "new")


@pytest.fixture
def box(tmp_path: Path, old: Release, monkeypatch: pytest.MonkeyPatch) -> Box:
    config = replace(ClusterConfig.local(3), base_dir=str(tmp_path))
    for spec in config.machines:
        config.machine(spec.name).disk.mkdir(parents=True)
    box = Box(config, old)

    async def status(going: GoingOver) -> HeadStatus:
        return box.status(going.machine.name)

    monkeypatch.setattr(going_over, "LocalProvider", lambda _: box)
    monkeypatch.setattr(going_over, "_POLL_S", 0.001)
    monkeypatch.setattr(going_over, "_HANGS_S", 0.01)
    monkeypatch.setattr(GoingOver, "_status", status)
    monkeypatch.setattr(upgrade, "existing", lambda _: config)
    monkeypatch.setattr(upgrade, "_checked", lambda directory, _: release.in_directory(directory))
    for module in (going_over, upgrade):
        monkeypatch.setattr(module, "look", box.look)
    return box


async def sk8_upgrade(box: Box, to: Release | None, *only: str, timeout_s: float = 300.0) -> str:
    """What it said. `to` None: a rollback."""
    said = io.StringIO()
    args = argparse.Namespace(
        base=box.config.base, rollback=to is None, dir=to and to.checkout, machine=only, timeout=timeout_s
    )
    await upgrade._run(args, Output(out=said, err=said))
    return said.getvalue()


async def test_the_new_releases_own_command_knows_what_the_machine_ran(
    box: Box, old: Release, new: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "running", lambda: new)
    await sk8_upgrade(box, new, NAME)
    assert release.chosen(box.machine()) == new and release.before(box.machine()) == old
    await sk8_upgrade(box, None, NAME)
    assert box.runs[NAME] == old and box.told == ["restart m2", "restart m2"], "no pod was lost on the way"


async def test_a_machine_that_does_not_say_what_it_runs_is_left_alone(
    box: Box, new: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "status", lambda _: HeadStatus("", False))
    with pytest.raises(CommandError, match="does not say what it runs"):
        await sk8_upgrade(box, new, NAME)
    assert box.told == [] and release.chosen(box.machine()) is None


async def test_a_release_that_dies_at_once_is_taken_back_and_no_rollback_leads_to_it(
    box: Box, old: Release, new: Release
) -> None:
    box.dies = [new]
    with pytest.raises(CommandError, match=f"it went off.* and runs {old} again"):
        await sk8_upgrade(box, new, NAME)
    assert box.power[NAME] == "running" and box.runs[NAME] == old
    assert box.told[-1] == "start m2"
    assert "has had no other release" in await sk8_upgrade(box, None, NAME)


async def test_a_deaf_first_process_loses_power_and_boots_with_the_former_release(
    box: Box, old: Release, new: Release
) -> None:
    box.deaf = [new]
    with pytest.raises(CommandError, match=f"was not healthy with {new} within 0.01 s and runs {old} again"):
        await sk8_upgrade(box, new, NAME, timeout_s=0.01)
    assert box.runs[NAME] == old and box.told == ["restart m2", "restart m2", "kill m2", "start m2"]


async def test_a_way_back_that_fails_too_says_so(box: Box, old: Release, new: Release) -> None:
    box.dies = [old, new]
    with pytest.raises(CommandError, match=f"its disk names {old} for its next boot"):
        await sk8_upgrade(box, new, NAME)
    assert release.chosen(box.machine()) == old


async def test_after_an_automatic_return_a_rollback_leads_to_the_release_before(
    box: Box, old: Release, new: Release, tmp_path: Path
) -> None:
    oldest = made(tmp_path / "oldest")
    release.choose(box.machine(), old, oldest)
    box.sick = [new]
    with pytest.raises(CommandError, match="again"):
        await sk8_upgrade(box, new, NAME, timeout_s=0.01)
    assert (release.chosen(box.machine()), release.before(box.machine())) == (old, oldest)


async def test_an_upgrade_that_was_interrupted_before_the_machine_was_told_goes_on(
    box: Box, old: Release, new: Release
) -> None:
    box.on_restart = interrupted
    with pytest.raises(asyncio.CancelledError):
        await sk8_upgrade(box, new, NAME)
    assert box.runs[NAME] == old and release.chosen(box.machine()) == new
    box.on_restart = None
    await sk8_upgrade(box, new, NAME)
    assert box.runs[NAME] == new and release.before(box.machine()) == old


async def test_a_rollback_that_was_interrupted_goes_on_and_does_not_turn_round(
    box: Box, old: Release, new: Release
) -> None:
    await sk8_upgrade(box, new, NAME)
    box.on_restart = interrupted
    with pytest.raises(asyncio.CancelledError):
        await sk8_upgrade(box, None, NAME)
    box.on_restart = None
    await sk8_upgrade(box, None, NAME)
    assert box.runs[NAME] == old and release.before(box.machine()) == new


async def test_a_machine_that_runs_the_former_release_but_would_boot_with_another_is_not_skipped(
    box: Box, old: Release, new: Release
) -> None:
    release.choose(box.machine(), new, old)
    assert "already" not in await sk8_upgrade(box, None, NAME)
    assert release.chosen(box.machine()) == old and release.before(box.machine()) == new


async def test_a_host_agent_that_refuses_leads_back(box: Box, old: Release, new: Release) -> None:
    async def refused() -> None:
        box.on_restart = None
        raise ProviderError("not now")

    box.on_restart = refused
    with pytest.raises(CommandError, match=f"not now.* and runs {old} again"):
        await sk8_upgrade(box, new, NAME)
    assert release.chosen(box.machine()) == old


@pytest.mark.parametrize("how", ["dies", "deaf", "sick"])
async def test_a_rollback_cures_the_sick_machine_first(box: Box, old: Release, new: Release, how: str) -> None:
    for name in box.power:
        release.choose(box.config.machine(name), new, old)
        box.runs[name] = new if name == NAME else old
    setattr(box, how, [new])
    box.power[NAME] = "off" if how == "dies" else "running"
    await sk8_upgrade(box, None)
    assert box.told[0] == "restart m2" and set(box.runs.values()) == {old} and set(box.power.values()) == {"running"}


async def test_a_rollback_waits_for_the_other_machines(box: Box, old: Release, new: Release) -> None:
    release.choose(box.machine(), new, old)
    box.power["m3"] = "off"
    with pytest.raises(CommandError, match="not healthy"):
        await sk8_upgrade(box, None, NAME)
    assert box.told == []


async def test_a_rollback_to_a_release_that_is_gone_is_refused(box: Box, old: Release, new: Release) -> None:
    release.choose(box.machine(), new, old)
    box.runs[NAME] = new
    old.python.unlink()
    with pytest.raises(CommandError, match="cannot go back"):
        await sk8_upgrade(box, None, NAME)
    assert box.told == [] and release.chosen(box.machine()) == new


def reads_settings(root: Path) -> Release:
    """A release with this one's own configuration, and without a setting that is called `newer`."""
    found = made(root)
    (root / "cluster/machine").rmdir()
    (root / "cluster").rmdir()
    (root / "cluster").symlink_to(Path(release.__file__).parents[1])
    found.python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return found


async def test_a_rollback_to_a_release_that_does_not_know_a_setting_is_refused(
    box: Box, new: Release, tmp_path: Path
) -> None:
    """Regression: the machine went off with its pods."""
    former, file = reads_settings(tmp_path / "former"), box.config.base / "cluster.json"
    release.choose(box.machine(), new, former)
    box.runs[NAME] = new
    file.write_bytes(orjson.dumps(orjson.loads(box.config.to_json()) | {"newer": True}))
    with pytest.raises(CommandError, match=r"cannot go back to .*: .*unknown setting newer"):
        await sk8_upgrade(box, None, NAME)
    assert box.told == [] and release.chosen(box.machine()) == new
    file.write_bytes(box.config.to_json())
    await sk8_upgrade(box, None, NAME)
    assert box.runs[NAME] == former


def test_an_upgrade_to_a_release_that_cannot_read_the_settings_is_refused(new: Release, tmp_path: Path) -> None:
    assert upgrade._checked(tmp_path / "new", tmp_path) == new
    new.python.write_text('#!/bin/sh\ncase "$2" in *load_cluster*) echo unknown setting newer >&2; exit 1;; esac\n')
    with pytest.raises(CommandError, match="cannot run this cluster: unknown setting newer"):
        upgrade._checked(tmp_path / "new", tmp_path)


def test_what_a_rollback_leads_to_is_never_the_target() -> None:
    a, b, c = (Release(Path(f"/{x}/.venv/bin/python"), Path(f"/{x}")) for x in "abc")
    assert previous(b, ran=a, chosen=None, before=None) == a
    assert previous(b, ran=b, chosen=b, before=a) == a, "said again"
    assert previous(a, ran=a, chosen=b, before=a) == b, "chosen, but not told"
    assert previous(a, ran=None, chosen=b, before=a) == b
    assert previous(c, ran=b, chosen=b, before=a) == b
    assert is_there(a, None, a) and is_there(a, a, a) and not is_there(a, b, a) and not is_there(None, a, a)
