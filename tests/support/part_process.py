"""A part of a control plane as a process of its own, without Ray: wired as its actor wires it, started again as by Ray.

    python -m tests.support.part_process ROLE MACHINE BASE_DIR

The machine's address may be one of loopback: ports that parts open on 127.0.0.1 are then any that are free, since all
machines share that address here. Ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace

import uvloop

from cluster.machine.config import load_cluster
from cluster.machine.machine_config import load_machine

AGAIN_S = 0.2


async def run(role: str, machine: str, base_dir: str) -> None:
    if (task := asyncio.current_task()) is not None:  # not by an exception out of a handler, which uvloop may swallow
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    cluster = replace(load_cluster(base_dir), state_metrics_port=0, supervisor_port=0, scheduler_port=0)
    part = await importlib.import_module(f"actors.wiring.{role}").build(cluster, load_machine(base_dir, machine))
    await part.run()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with suppress(asyncio.CancelledError):
        while True:
            try:
                uvloop.run(run(*sys.argv[1:4]))
            except Exception:
                logging.exception("the part failed; it is started again")
            time.sleep(AGAIN_S)


if __name__ == "__main__":
    asyncio.set_event_loop_policy(None)
    main()
