"""A container engine of our own, for boxes where none answers: started by `sk8 up`, stopped by `sk8 down`.

IO. It listens on the standard socket, so that everything on the box finds it, keeps its data under its own root, and
lets containers live when it restarts. An engine that answers already is used as it is and never stopped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import orjson

from cluster.cli.output import CommandError
from cluster.cli.preflight import INSTALL
from cluster.cloud import mounts
from cluster.cloud.engine import Engine
from cluster.machine.config import ClusterConfig
from cluster.machine.files import make_private_dir, write_atomic
from cluster.machine.processes import ProcessId, all_processes, command_line, start_daemon, wait_gone

_RUN = Path("/run/docker")
"""dockerd's default run directory, as kubelets look for pods' network namespaces there."""


class PrivateEngine:
    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._record = config.run / "engine.json"
        self._log = config.run / "engine.log"
        self._data = Path(f"{config.base_dir}-engine")

    def command(self) -> list[str]:
        """No bridge and no packet filter rules: pods get their network from the kubelet, and iptables is not needed.

        A docker0 that a stopped engine of the box left is removed by this; that engine makes it anew when it starts.
        """
        return [
            "dockerd",
            f"--data-root={self._data}",
            f"--host=unix://{self._config.engine_socket}",
            f"--pidfile={self._config.run / 'engine.pid'}",
            "--live-restore",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
        ]

    async def start(self) -> bool:
        """True when it was started, False when an engine answered already. Raises CommandError."""
        engine = Engine(self._config.engine_socket)
        if await engine.answers():
            return False
        if shutil.which("dockerd") is None:
            raise CommandError("no container engine answers, and dockerd is not installed", INSTALL)
        ours = not await asyncio.to_thread(_RUN.exists)
        process = await asyncio.to_thread(self._spawn)
        write_atomic(self._record, orjson.dumps([process.pid, process.start, ours]))
        for _ in range(300):
            if await engine.answers():
                return True
            if not process.alive():
                break
            await asyncio.sleep(0.1)
        raise CommandError(f"dockerd did not start: {_last_line(self._log)}", f"look into {self._log}")

    async def stop(self, *, keep_data: bool) -> bool:
        """Stops the engine if it is ours. Its images go with its data, also when it was stopped before.

        The record is gone after a reboot, and after `--keep-data`; the data is still ours to remove.
        """
        recorded = self._record.exists()
        process, ours = await asyncio.to_thread(self._running)
        if process is None and not recorded and (keep_data or not self._data.exists()):
            return False
        if process is not None and process.signal(signal.SIGTERM) and await wait_gone([process], 20):
            process.signal(signal.SIGKILL)
            await wait_gone([process], 5)
        self._record.unlink(missing_ok=True)
        await asyncio.to_thread(mounts.unshare, self._data)  # with --live-restore dockerd leaves its root mounted
        if not keep_data:
            await asyncio.to_thread(shutil.rmtree, self._data, True)
        if ours and not await Engine(self._config.engine_socket).answers():  # the box's own may run by now
            await asyncio.to_thread(mounts.unmount_below, _RUN)
            await asyncio.to_thread(shutil.rmtree, _RUN, True)
        return process is not None

    def _running(self) -> tuple[ProcessId | None, bool]:
        """The engine, by its record or by its command line, and whether /run/docker came with it."""
        if self._record.exists():
            pid, start, ours = orjson.loads(self._record.read_bytes())
            return ProcessId(pid, start), bool(ours)
        mark = f"--data-root={self._data}"
        found = (ProcessId(p.pid, p.start) for p in all_processes() if mark in command_line(p.pid))
        return next(found, None), False

    def _spawn(self) -> ProcessId:
        make_private_dir(self._config.run)
        return start_daemon(self.command(), os.environ, self._log)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it said nothing"
