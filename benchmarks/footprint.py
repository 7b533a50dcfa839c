"""What a running local cluster costs at rest: proportional memory (PSS) and CPU of each part and of Ray's own daemons.

Needs a running cluster (`sk8 up`) and root. PSS counts a page shared by n processes as 1/n of it.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.frame import Bench, main

PARTS = ("State", "ApiServer", "Scheduler", "Controllers", "Supervisor", "Kubelet", "Proxy")
CONTROL_PLANE = ("State", "ApiServer", "Scheduler", "Controllers", "Supervisor")
WATCH_S = 20.0


def group_of(command: str) -> str:
    """Which group of processes a command line belongs to; "" for none of ours."""
    for part in PARTS:
        if command.startswith(f"ray::{part}"):
            return part
    if "cluster.machine" in command:
        return "sk8-machine"
    if "host-agent" in command:
        return "host agent"
    if any(mark in command for mark in ("gcs_server", "raylet", "ray/_private", "ray::")):
        return "Ray's daemons"
    return ""


def processes() -> dict[int, str]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        group = group_of(command)
        if group and not command.startswith(("nsenter", "unshare")):
            found[int(entry.name)] = group
    return found


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(bench: Bench) -> None:
    found = processes()
    if not found:
        raise SystemExit("no cluster runs here: start one with `sk8 up`")
    before = {pid: cpu_s(pid) for pid in found}
    wait_s = 2.0 if bench.smoke else WATCH_S
    time.sleep(wait_s)
    memory: dict[str, list[int]] = defaultdict(list)
    cpu: dict[str, float] = defaultdict(float)
    for pid, group in found.items():
        try:
            memory[group].append(pss_bytes(pid))
            cpu[group] += cpu_s(pid) - before[pid]
        except (FileNotFoundError, ProcessLookupError):
            continue
    for group in (*PARTS, "sk8-machine", "host agent", "Ray's daemons"):
        sizes = memory.get(group)
        if not sizes:
            continue
        goal = 150.0 if group == "State" else None
        bench.add(f"{group}: largest PSS", max(sizes) / 1e6, "MB", samples=len(sizes), goal=goal)
        bench.add(f"{group}: all of them", sum(sizes) / 1e6, "MB", samples=len(sizes))
        bench.add(f"{group}: CPU at rest, all of them", cpu[group] / wait_s * 100, "% of a core", samples=len(sizes))
    control_plane = sum(sum(memory[group]) for group in CONTROL_PLANE)
    bench.add("control plane without Ray's daemons", control_plane / 1e6, "MB", samples=len(found), goal=1000.0)


if __name__ == "__main__":
    main(run, __doc__)
