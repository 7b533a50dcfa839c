"""Every benchmark runs, small, and writes the rows it promises. Nothing is said of its figures here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import names

NEEDS_A_CLUSTER = {"footprint"}
COLUMNS = {"name", "value", "unit", "peer", "ratio", "goal", "ok", "samples"}

pytestmark = pytest.mark.root


@pytest.mark.parametrize("name", sorted(set(names()) - NEEDS_A_CLUSTER))
def test_runs_small_and_writes_its_rows(name: str, tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--json", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(target.read_text())
    assert report["smoke"] is True and report["commit"] and report["machine"]["cores"]
    assert report["rows"] and all(set(row) == COLUMNS and row["samples"] > 0 for row in report["rows"])
