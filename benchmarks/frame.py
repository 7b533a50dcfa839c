"""The frame of every benchmark: rows, where they were measured, and how they are written. IO: one JSON file.

A benchmark is a module with `def run(bench: Bench) -> None` and ends in `main(run, __doc__)`:

    python -m benchmarks.NAME --json FILE [--smoke] [--peer [NAME]]

A row is {name, value, unit, peer, ratio, goal, ok}: `peer` is the same thing measured in the same run on the system
we compare with (None where it is not installed), `ratio` is how much better we are (above 1 is better, whichever way
the unit points), `ok` whether the goal was met (None without a goal). A curve is what a plot shows and a row cannot: a
rate over time, a distribution. `--smoke` is small and proves only that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOWER_IS_BETTER = ("s", "ms", "us", "bytes", "MB", "MiB", "cpu_us", "cpu_percent")


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: float
    unit: str
    samples: int
    peer: float | None = None
    goal: float | None = None

    @property
    def lower_is_better(self) -> bool:
        return self.unit in LOWER_IS_BETTER

    @property
    def ratio(self) -> float | None:
        if self.peer is None or not self.value or not self.peer:
            return None
        return round(self.peer / self.value if self.lower_is_better else self.value / self.peer, 3)

    @property
    def ok(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.lower_is_better else self.value >= self.goal

    def to_dict(self) -> dict[str, Any]:
        own = {"name": self.name, "value": self.value, "unit": self.unit, "peer": self.peer}
        return own | {"ratio": self.ratio, "goal": self.goal, "ok": self.ok, "samples": self.samples}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of the panel `panel`; `x` and `y` name the axes, with units. `log`: the x axis is logarithmic."""

    panel: str
    label: str
    x: str
    y: str
    points: list[tuple[float, float]]
    log: bool = False

    def to_dict(self) -> dict[str, Any]:
        points = [(round(x, 4), round(y, 4)) for x, y in self.points]
        return {"panel": self.panel, "label": self.label, "x": self.x, "y": self.y, "log": self.log, "points": points}


def distribution(values: Sequence[float], most: int = 200) -> list[tuple[float, float]]:
    """(value, share of the sample at or below it), at most so many points."""
    ordered = sorted(values)
    step = max(len(ordered) // most, 1)
    return [(ordered[i], (i + 1) / len(ordered)) for i in range(step - 1, len(ordered), step)]


@dataclass(slots=True)
class Bench:
    """What a benchmark measures with: its options, and the rows and curves it adds."""

    smoke: bool = False
    peer: bool = False
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        samples: int,
        peer: float | None = None,
        goal: float | None = None,
    ) -> Row:
        row = Row(name, round(value, 4), unit, samples, None if peer is None else round(peer, 4), goal)
        self.rows.append(row)
        extra = "" if row.ratio is None else f"   peer {row.peer:g}   ratio {row.ratio:g}"
        print(f"  {name:<48} {row.value:>12g} {unit}{extra}", flush=True)
        return row

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"  note: {text}", flush=True)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of a non-empty sample."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]


def where() -> dict[str, Any]:
    """The commit and the machine a run was made on."""
    commit, dirty = _git("rev-parse", "--short=12", "HEAD") or "unknown", _git("status", "--porcelain")
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "commit": commit + ("+" if dirty else ""),
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": round(memory_gib, 1),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
    }


def _git(*arguments: str) -> str:
    """Its answer; "" outside a checkout or without git."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def main(run: Callable[[Bench], None], doc: str | None) -> None:
    parser = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--smoke", action="store_true", help="small sizes: does it run at all")
    text = "measure the peer in the same run where it is installed; its name may be given (kubernetes, etcd)"
    parser.add_argument("--peer", nargs="?", const="yes", metavar="NAME", help=text)
    args = parser.parse_args()
    bench = Bench(smoke=args.smoke, peer=args.peer is not None)
    run(bench)
    if args.json:
        report = where() | {"smoke": args.smoke, "notes": bench.notes, "rows": [row.to_dict() for row in bench.rows]}
        if bench.curves:
            report["curves"] = [curve.to_dict() for curve in bench.curves]
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(1 if not bench.rows else 0)
