"""Fault hooks: off by default, exact when told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raft.faults import CRASH_EXIT_CODE, Faults, FaultSpecError


def test_nothing_happens_by_default() -> None:
    Faults().hit("wal.fsync")
    Faults.parse("").hit("wal.fsync")


def test_fail_the_nth_time() -> None:
    faults = Faults.parse("fail:wal.fsync@2")
    faults.hit("wal.fsync")
    faults.hit("wal.write")
    with pytest.raises(OSError, match=r"injected fault at wal\.fsync"):
        faults.hit("wal.fsync")
    faults.hit("wal.fsync")


def test_delay() -> None:
    slept: list[float] = []
    faults = Faults(sleep=slept.append)
    faults.add("delay", "wal.fsync", delay_s=0.05)
    faults.hit("wal.fsync")
    assert slept == [0.05]


def test_crash_ends_the_process() -> None:
    script = "from raft.faults import Faults; Faults.parse('crash:wal.fsync').hit('wal.fsync')"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == CRASH_EXIT_CODE


@pytest.mark.parametrize("spec", ["fsync", "delay:wal.fsync", "fail:wal.fsync=5ms", "break:x", "fail:wal.fsync@x"])
def test_unreadable_specs_say_what_would_be_right(spec: str) -> None:
    with pytest.raises(FaultSpecError, match="must be like"):
        Faults.parse(spec)


def test_a_rule_may_be_about_one_thing_alone() -> None:
    faults = Faults.parse("fail:apiserver.after_commit~pods/default/x@2")
    for about in ("/registry/core/pods/default/x", "/registry/core/pods/default/y", ""):
        faults.hit("apiserver.after_commit", about)
    with pytest.raises(OSError, match=r"injected fault at apiserver\.after_commit"):
        faults.hit("apiserver.after_commit", "/registry/core/pods/default/x")
