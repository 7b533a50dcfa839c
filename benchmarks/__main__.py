"""Run every benchmark and draw a plot of each: `make bench`. Results go to docs/benchmarks/."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "docs" / "benchmarks"
NOT_BENCHMARKS = {"__init__", "__main__", "frame", "store_quota"}  # the last: by hand, it fills a disk


def names() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in NOT_BENCHMARKS and not p.stem.startswith("_"))


def plot(report: dict[str, Any], name: str, path: Path) -> None:
    """Horizontal bars, one panel per unit, the peer beside ours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    units = sorted({row["unit"] for row in report["rows"]})
    figure, panels = pyplot.subplots(
        len(units), 1, figsize=(9, 1 + 0.45 * len(report["rows"]) + len(units)), squeeze=False
    )
    for panel, unit in zip(panels[:, 0], units, strict=True):
        rows = [row for row in report["rows"] if row["unit"] == unit]
        places = range(len(rows))
        panel.barh([p - 0.2 for p in places], [row["value"] for row in rows], 0.38, label="sk8")
        peers = [(p + 0.2, row["peer"]) for p, row in zip(places, rows, strict=True) if row["peer"] is not None]
        if peers:
            panel.barh([p for p, _ in peers], [value for _, value in peers], 0.38, label="peer")
        panel.set_yticks(list(places), [row["name"] for row in rows])
        panel.invert_yaxis()
        panel.set_xlabel(unit)
        panel.legend(loc="lower right")
    figure.suptitle(f"{name} at {report['commit']}, {report['machine']['cores']} cores")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def draw(report: dict[str, Any], name: str, path: Path) -> None:
    """The curves, one panel for each `panel`: rates over time, distributions, cost against size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = list(dict.fromkeys(curve["panel"] for curve in report["curves"]))
    figure, panels = pyplot.subplots(len(titles), 1, figsize=(9, 3.5 * len(titles)), squeeze=False)
    for panel, title in zip(panels[:, 0], titles, strict=True):
        for curve in report["curves"]:
            if curve["panel"] == title:
                panel.plot(*zip(*curve["points"], strict=True), label=curve["label"], marker=".", markersize=3)
                panel.set_xlabel(curve["x"])
                panel.set_ylabel(curve["y"])
                if curve["log"]:
                    panel.set_xscale("log")
        panel.set_title(title)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(loc="best")
    figure.suptitle(f"{name} at {report['commit']}, {report['machine']['cores']} cores")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, results not kept")
    parser.add_argument("names", nargs="*", help=f"only these of: {', '.join(names())}")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in args.names or names():
        print(f"== {name}", flush=True)
        target = (HERE.parent / "build" if args.smoke else RESULTS) / f"{name}.json"
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{name}",
            "--json",
            str(target),
            "--smoke" if args.smoke else "--peer",
        ]
        if subprocess.run(command).returncode:
            failed.append(name)
            continue
        if not args.smoke:
            report = json.loads(target.read_text())
            plot(report, name, target.with_suffix(".png"))
            if report.get("curves"):
                draw(report, name, target.with_name(f"{name}-curves.png"))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
