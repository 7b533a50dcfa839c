"""Makes the suite's own modules, and the simulation's, importable (tests are not packages)."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "sim"):
    sys.path.insert(0, str(folder))
