"""`sk8 bench`: runs what is there, and says what is there when asked for something else."""

from __future__ import annotations

import pytest

from cluster.cli import bench as bench_module
from cluster.cli.main import main


def test_an_unknown_benchmark_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nothing"]) == 1
    said = capsys.readouterr().err
    assert "there is no benchmark 'nothing'" in said
    assert "schedule, " in said and "scheduler" in said


def test_its_arguments_are_passed_on_and_its_exit_code_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Done:
        returncode = 5

    def run(command: list[str], cwd: object) -> Done:
        seen.append((command[1:], cwd))
        return Done()

    monkeypatch.setattr(bench_module.subprocess, "run", run)
    assert main(["bench", "schedule", "--smoke", "--json", "x"]) == 5
    assert seen == [(["-m", "benchmarks.schedule", "--smoke", "--json", "x"], bench_module.CHECKOUT)]
