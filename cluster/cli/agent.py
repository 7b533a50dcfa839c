"""Starting and stopping the host agent from the command line. IO."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from cluster.cli.output import CommandError
from cluster.cloud.local import LocalProvider
from cluster.cloud.machines import agent_environment, living, read_record
from cluster.machine.config import ClusterConfig
from cluster.machine.files import make_private_dir
from cluster.machine.processes import ProcessId, command_line, start_daemon, wait_gone
from cluster.machinery.provider import ProviderError


async def answers(config: ClusterConfig) -> bool:
    try:
        await LocalProvider(config.host_socket, timeout_s=3).health()
    except ProviderError:
        return False
    return True


def process(config: ClusterConfig) -> ProcessId | None:
    """The running host agent of this cluster, by its pid file."""
    try:
        pid = int((config.run / "host-agent.pid").read_text().strip())
    except (FileNotFoundError, ValueError):
        return None
    return ProcessId.of(pid) if "host-agent" in command_line(pid) else None


def serves(config: ClusterConfig) -> Path | None:
    """The directory of the cluster whose host agent has this one's run directory; None when none runs."""
    running = process(config)
    return _base_of(running) if running is not None else None


def machines_of(config: ClusterConfig) -> Path | None:
    """The directory of the cluster whose machines live by the records in this run directory; None when none does."""
    records = [read_record(config, name) for name in living(config)]
    bases = [base for record in records if record is not None and (base := _base_of(record.init)) is not None]
    return bases[0] if bases else None


def _base_of(process: ProcessId) -> Path | None:
    command = command_line(process.pid)
    return Path(command[command.index("--base") + 1]) if "--base" in command[:-1] else None


async def start(config: ClusterConfig) -> bool:
    """Starts it unless it answers. True when it was started. Raises CommandError with what its log says."""
    if await answers(config):
        return False
    log = config.run / "host-agent.log"
    running = process(config)
    if running is not None:
        if await _comes(config, running):
            return False
        if running.alive():
            fix = f"look into {log}; after kill {running.pid}, sk8 up starts another one, which adopts the machines"
            raise CommandError(f"the host agent (process {running.pid}) runs but does not answer", fix)
    child = await asyncio.to_thread(_spawn, config, log)
    if await _comes(config, child):
        return True
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    raise CommandError(f"the host agent did not start: {lines[-1] if lines else 'it said nothing'}", f"look into {log}")


async def _comes(config: ClusterConfig, agent: ProcessId) -> bool:
    for _ in range(1200):  # a minute: a box may be busy, and an agent that ends is seen at once
        if await answers(config):
            return True
        if not agent.alive():
            break
        await asyncio.sleep(0.05)
    return False


async def stop(config: ClusterConfig) -> bool:
    running = process(config)
    if running is None:
        return False
    running.signal(signal.SIGTERM)
    if await wait_gone([running], 10):
        running.signal(signal.SIGKILL)
        await wait_gone([running], 5)
    return True


def _spawn(config: ClusterConfig, log: Path) -> ProcessId:
    make_private_dir(config.run)
    command = [sys.executable, "-m", "cluster.cli.main", "host-agent", "--base", config.base_dir]
    return start_daemon(command, agent_environment(), log)
