"""Makes the simulation's own modules importable (tests are not packages)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    harness = sys.modules.get("harness")
    if harness is not None and harness.TOTAL.seeds:
        terminalreporter.write_line(f"simulation: {harness.TOTAL}")
