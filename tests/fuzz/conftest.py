"""Puts this room on the path: the targets are imported by the fuzzer's own process, too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
