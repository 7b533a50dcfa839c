"""Live hollow nodes beside a target, in a process of their own: kubelet cores with leases and statuses, no containers.

    python -m benchmarks._fleet --base DIR --nodes N      "ready" once all are Ready; then runs until it is told to stop

They stand for other machines, so their CPU is no server's; what their heartbeats cost the servers is measured there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from benchmarks._stack import Target
from cluster.machinery.http_client import HttpClient, HttpConfig
from cluster.node.hollow.fleet import HollowFleet
from cluster.node.hollow.node import HollowSpec

SPEC = HollowSpec(cpu="4", tainted=False, zones=("z0", "z1", "z2"))
STOP_S = 30.0


def config_of(target: Target, base: Path) -> HttpConfig:
    """An administrator of the stack in `base`."""
    return _config(target.host, target.port, base)


def _config(host: str, port: int, base: Path) -> HttpConfig:
    ca, cert, key = (str(base / "cluster" / "pki" / name) for name in ("ca.crt", "admin.crt", "admin.key"))
    return HttpConfig(f"https://{host}:{port}", ca_file=ca, cert_file=cert, key_file=key)


@contextmanager
def live(target: Target, base: Path, nodes: int, *, niceness: int = 0) -> Iterator[None]:
    """So many nodes, Ready, with heartbeats. Raises RuntimeError when they do not come up. `niceness`: how far the
    servers go before them on the processors they have to share here, where they would have other machines' own."""
    command = [sys.executable, "-m", "benchmarks._fleet", "--base", str(base), "--nodes", str(nodes)]
    command += ["--host", target.host, "--port", str(target.port)]
    with (base / "fleet.log").open("wb") as log:
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    os.setpriority(os.PRIO_PROCESS, popen.pid, niceness)
    try:
        if popen.stdout is None or popen.stdout.readline() != "ready\n":
            told = (base / "fleet.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{nodes} hollow nodes did not become Ready: {told}")
        yield
    finally:
        popen.terminate()
        try:
            popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


async def _run(config: HttpConfig, nodes: int) -> None:
    async with HttpClient(config) as client:
        fleet = HollowFleet(client, nodes, SPEC, clock=time.time)
        running = asyncio.create_task(fleet.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        ready = asyncio.create_task(fleet.ready.wait())
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            print("ready", flush=True)
        await asyncio.gather(running, return_exceptions=True)
        ready.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    uvloop.run(_run(_config(args.host, args.port, args.base), args.nodes))


if __name__ == "__main__":
    main()
