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
            plot(json.loads(target.read_text()), name, target.with_suffix(".png"))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
