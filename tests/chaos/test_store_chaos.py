"""The store under every kind of fault, on real processes, disks and links. Longer: `make chaos-store MINUTES=10`.

SK8_CHAOS_SEED picks the seed (printed when it fails); the order of faults and the settings follow from it, the timing
does not: a history that broke is kept with its logs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.chaos_place import clean_up

HERE = Path(__file__).parent
KINDS = {
    "crash", "crash_all", "freeze", "partition", "one_way", "lossy", "slow_link", "full_disk", "slow_disk",
    "failing_sync", "crash_point", "replace", "compaction",
}  # fmt: skip
SECONDS = 60 * float(os.environ.get("SK8_CHAOS_MINUTES", "0"))
ROUND_S = 120.0
"""A long run is many of these, each with settings and disks of its own."""


@pytest.mark.root
@pytest.mark.timeout(600 + 4 * SECONDS)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, mounts, nftables")
def test_nothing_acknowledged_is_lost_and_every_watch_is_whole(tmp_path: Path) -> None:
    seed = int(os.environ.get("SK8_CHAOS_SEED") or random.randrange(1 << 20))
    until = time.monotonic() + SECONDS
    while True:
        report = one_round(tmp_path / str(seed), seed, min(ROUND_S, SECONDS))
        assert report["problems"] == [], f"seed {seed}; logs in {tmp_path}"
        assert set(report["faults"]) == KINDS
        assert report["events"] > 100 and report["watches"] > 5
        seed += 1
        if time.monotonic() >= until:
            return


def one_round(root: Path, seed: int, seconds: float) -> dict[str, object]:
    root.mkdir()
    command = [sys.executable, str(HERE / "store_chaos.py"), "--seconds", str(seconds), "--seed", str(seed)]
    name = f"sk8x{os.getpid() % 10000}"
    command += ["--root", str(root), "--name", name]
    try:
        done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True)
    finally:
        clean_up(name, root)
    print(done.stderr, done.stdout)
    assert done.stdout.startswith("{"), f"seed {seed}: {done.stderr}"
    report: dict[str, object] = json.loads(done.stdout)
    if not report["problems"]:
        shutil.rmtree(root)
    return report
