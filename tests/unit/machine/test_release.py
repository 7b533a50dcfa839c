"""Which copy of sk8 a machine runs: what its disk says, and when it goes over."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.machine import release
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig, save_machine
from cluster.machine.release import NoRelease, Release


@pytest.fixture
def machine(tmp_path: Path) -> MachineConfig:
    machine = replace(ClusterConfig.local(3), base_dir=str(tmp_path)).machine("m1")
    machine.disk.mkdir(parents=True)
    return machine


def other(tmp_path: Path) -> Release:
    """Another release: prints which source tree it is and what was left of its environment."""
    root = tmp_path / "other"
    (root / ".venv/bin").mkdir(parents=True)
    (root / "cluster/machine").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    python = root / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    return release.in_directory(root)


def entering(machine: MachineConfig) -> str:
    """What a process that does `enter` prints."""
    code = (
        "from cluster.machine import release; from cluster.machine.machine_config import load_machine;"
        "from pathlib import Path; import sys;"
        "release.enter(load_machine(Path(sys.argv[2]), 'm1')); print('stayed')"
    )
    command = [sys.executable, "-c", code, "--base", machine.base_dir]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def test_a_disk_remembers_the_release_and_the_one_before(machine: MachineConfig, tmp_path: Path) -> None:
    assert release.chosen(machine) is None and release.before(machine) is None
    new = other(tmp_path)
    release.choose(machine, new, release.running())
    assert release.chosen(machine) == new and release.before(machine) == release.running()
    assert str(new) == str(tmp_path / "other")


def test_a_directory_without_libraries_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(NoRelease, match="is no release"):
        release.in_directory(tmp_path)


def test_a_record_that_cannot_be_read_is_none(machine: MachineConfig) -> None:
    (machine.disk / "release.json").write_text('{"python": 1}')
    assert release.chosen(machine) is None


def test_a_machine_enters_the_release_of_its_disk_unless_that_is_gone(machine: MachineConfig, tmp_path: Path) -> None:
    save_machine(machine)
    assert entering(machine) == "stayed"
    new = other(tmp_path)
    release.choose(machine, new, release.running())
    assert entering(machine) == f"{tmp_path / 'other'} -m cluster.machine --base {tmp_path}"
    new.python.unlink()
    assert entering(machine) == "stayed"


@pytest.mark.parametrize("again", [True, False])
def test_only_what_begins_anew_is_told_so_and_its_children_are_not(
    machine: MachineConfig, monkeypatch: pytest.MonkeyPatch, again: bool, tmp_path: Path
) -> None:
    entered: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda _path, _args, env: entered.append(env))
    release.choose(machine, other(tmp_path), None)
    release.enter(machine, again=again)
    for name, value in entered[0].items():
        monkeypatch.setenv(name, value)
    assert release.begun_again() is again
    assert release.begun_again() is False and "SK8_MACHINE_AGAIN" not in os.environ
