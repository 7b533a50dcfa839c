"""`sk8 bench NAME`: one benchmark of the checkout, in a process of its own. IO: starts it and waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster.cli.output import CommandError

CHECKOUT = Path(__file__).resolve().parents[2]


def bench(name: str, arguments: list[str]) -> int:
    """Its exit code. Raises CommandError where there is no such benchmark."""
    directory = CHECKOUT / "benchmarks"
    known = sorted(
        p.stem for p in directory.glob("*.py") if not p.stem.startswith("_") and ("def run(" in p.read_text())
    )
    if not known:
        raise CommandError("the benchmarks are not here: they come with the source", "run it from a checkout")
    if name not in known:
        raise CommandError(f"there is no benchmark {name!r}", f"known are {', '.join(known)}")
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=CHECKOUT).returncode
