"""Every benchmark runs, small, and writes the rows it promises. Nothing is said of its figures here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import names

NEEDS_A_CLUSTER = {"footprint"}
COLUMNS = {"name", "value", "unit", "peer", "ratio", "goal", "ok", "samples"}

pytestmark = pytest.mark.root


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(set(names()) - NEEDS_A_CLUSTER))
def test_runs_small_and_writes_its_rows(name: str, tmp_path: Path) -> None:
    target, said = tmp_path / "rows.json", tmp_path / "said"
    command = [sys.executable, "-X", "faulthandler", "-m", f"benchmarks.{name}", "--smoke", "--json", str(target)]
    with said.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        process.wait(240)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it says where it stands
        process.wait()
    assert process.returncode == 0, said.read_text()[-6000:]
    report = json.loads(target.read_text())
    assert report["smoke"] is True and report["commit"] and report["machine"]["cores"]
    assert report["rows"] and all(set(row) == COLUMNS and row["samples"] > 0 for row in report["rows"])
