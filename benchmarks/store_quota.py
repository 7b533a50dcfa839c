"""Does the store hold its quota of live data and history, and what does that cost? One member, on a real disk.

    python -m benchmarks.store_quota [--gib 8] [--value-kib 256] [--dir DIR]

Writes half of the quota as live keys and as much again as history (each key twice), then until NOSPACE; restarts the
member and reads everything back; deletes and compacts until the space is back, and writes again. Prints sizes, private
memory and times. Needs about three times the quota of free disk (log, backend, both while they are written).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from raft.client import StoreClient
from raft.errors import StoreError

IN_FLIGHT = 16


class One:
    """The member as a process of its own."""

    def __init__(self, root: Path, quota: int) -> None:
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            b.bind(("127.0.0.1", 0))
            peer, self.port = a.getsockname()[1], b.getsockname()[1]
        member = {"cluster_id": "quota", "member_id": 1, "members": {1: ["127.0.0.1", peer, self.port]}}
        config: dict[str, Any] = {"dir": str(root / "m"), "host": "127.0.0.1", "peer_port": peer}
        config |= {"client_port": self.port, "metrics": None, "create": member}
        config |= {
            "quota_backend_bytes": quota,
            "map_bytes": max(16 << 30, 2 * quota),
            "auto_compaction_retention_s": 0,
        }
        self._file = root / "member.json"
        self._file.write_text(json.dumps(config))
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> tuple[StoreClient, float]:
        """A client, and how long it took until the member answered."""
        began = time.monotonic()
        command = [sys.executable, "-m", "raft", "--config", str(self._file)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - it is what is measured
        store = StoreClient([("127.0.0.1", self.port)], timeout_s=300)
        await store.read_index()
        return store, time.monotonic() - began

    def private_mib(self) -> float:
        """Without the pages of the backend's file, which the kernel takes back when it needs them."""
        if self.process is None:
            return 0.0
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(120)


async def put_all(store: StoreClient, keys: range, value: bytes) -> int:
    """How many were written before NOSPACE."""
    done, left = 0, iter(keys)

    async def writer() -> None:
        nonlocal done
        for i in left:
            await store.put(b"k/%08d" % i, value)
            done += 1

    results = await asyncio.gather(*(writer() for _ in range(IN_FLIGHT)), return_exceptions=True)
    for result in results:
        if isinstance(result, StoreError) and result.code == "no_space":
            continue
        if isinstance(result, BaseException):
            raise result
    return done


async def run(gib: float, value_kib: int, root: Path) -> dict[str, float]:
    quota = int(gib * (1 << 30))
    value = b"v" * ((value_kib << 10) - 100)  # with its head and key, whole pages
    count = int(quota * 0.48 / (value_kib << 10))
    one, report = One(root, quota), {"quota_gib": gib, "live_keys": float(count)}
    try:
        store, _ = await one.start()
        began = time.monotonic()
        for round_ in range(2):
            written = await put_all(store, range(count), value)
            if written < count:
                raise SystemExit(f"NOSPACE after {written} keys of round {round_ + 1}: the quota does not hold")
        report["write_s"] = time.monotonic() - began
        status = await store.status(store.endpoints[0])
        report |= {"in_use_gib": status["db_in_use_bytes"] / (1 << 30), "private_mib": one.private_mib()}
        more = await put_all(store, range(count, 2 * count), value)
        report["more_until_nospace"] = float(more)
        if more == count:
            raise SystemExit("NOSPACE never came")
        await store.close()
        one.stop()
        store, report["restart_s"] = await one.start()
        report["private_mib_after_restart"] = one.private_mib()
        revision = await store.read_index()
        old = (await store.range(b"k/%08d" % 0, revision=count // 2)).count
        report |= {"history_readable": float(old), "file_gib": _size_gib(root)}
        began = time.monotonic()
        await store.delete(b"k/", b"k0")
        await store.compact(await store.read_index())
        while (await store.status(store.endpoints[0]))["db_in_use_bytes"] > quota // 10:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        await store.alarm_disarm()
        report["space_back_s"] = time.monotonic() - began
        report["written_again"] = float(await put_all(store, range(count // 4), value))
        report |= {"file_gib_at_the_end": _size_gib(root), "revision": float(revision)}
        await store.close()
    finally:
        one.stop()
    return report


def _size_gib(root: Path) -> float:
    return (root / "m" / "db" / "data.mdb").stat().st_size / (1 << 30)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store_quota", description=__doc__.split("\n")[0])
    parser.add_argument("--gib", type=float, default=8.0, help="the quota (8)")
    parser.add_argument("--value-kib", type=int, default=256, help="size of a value (256)")
    parser.add_argument("--dir", type=Path, help="where there is room (TMPDIR)")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="sk8-quota-", dir=arguments.dir))
    needed, free = int(3 * arguments.gib * (1 << 30)), shutil.disk_usage(root).free
    try:
        if free < needed:
            raise SystemExit(
                f"{root} has {free >> 30} GiB of free space; {needed >> 30} GiB are needed: --dir, or --gib"
            )
        for name, number in asyncio.run(run(arguments.gib, arguments.value_kib, root)).items():
            print(f"{name:28} {number:12.2f}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
