"""Says at the end how many seeds were played."""

from __future__ import annotations

import sys
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    harness = sys.modules.get("tests.sim.harness")
    if harness is not None and harness.TOTAL.seeds:
        terminalreporter.write_line(f"simulation: {harness.TOTAL}")
