"""`sk8 configure`: other settings for a running cluster of local machines, one machine after another.

IO. The host agent writes them down; a machine takes them up when sk8's own processes there begin anew, in the order and
with the care of `sk8 upgrade`. When a machine does not come back healthy, the former settings come back, there and on
those before it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.cli import settings
from cluster.cli.clusters import existing
from cluster.cli.going_over import Failed, GoingOver
from cluster.cli.output import CommandError, Output
from cluster.cli.upgrade import need_healthy, order
from cluster.cloud.local import LocalProvider
from cluster.machine.changes import changed, differences
from cluster.machine.config import ClusterConfig
from cluster.machine.head import newest

_TEXT = """Gives a running cluster the settings in FILE; those that are not in it stay as they are. On one machine after
another sk8's own processes begin anew with them; pods run on. What cannot be changed once a cluster is made is refused
(docs/configuration.md)."""


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser("configure", parents=[common], help="other settings, while it runs", description=_TEXT)
    add.add_argument("file", type=Path, metavar="FILE", help="YAML of settings, as for sk8 up --config")
    add.add_argument("--timeout", type=float, default=300.0, metavar="S", help="how long to wait for a machine (300)")
    add.set_defaults(run=_run)


async def _run(args: argparse.Namespace, out: Output) -> int:
    before = existing(args.base)
    if before.provider != "local":
        raise CommandError(
            "this goes over local machines; on a VM, its own cluster.json has the settings",
            f"change {before.base}/cluster.json there, then systemctl restart sk8-machine; one machine after another",
        )
    with settings.can_work():
        after = settings.checked(changed(before, settings.read(args.file)))
    new = differences(before, after)
    if not new:
        out.say("Nothing was changed.")
        return 0
    await need_healthy(before, out)
    provider = LocalProvider(before.host_socket)
    await provider.configure(new)
    out.say(f"  changed: {', '.join(new)}")
    names = order(after, newest(after).machine, ())
    for count, name in enumerate(names, 1):
        try:
            await _again(after, name, args.timeout, out)
        except Failed as e:
            await provider.configure(differences(after, before))
            await _back(before, list(reversed(names[:count])), args.timeout, out)
            log = before.machine(name).log_dir
            raise CommandError(f"{name} {e}; the former settings are in force again", f"look into {log}") from e
    return 0


async def _again(config: ClusterConfig, name: str, timeout_s: float, out: Output) -> None:
    """Raises Failed."""
    with out.step(f"{name} has them"):
        await GoingOver(config, config.machine(name), timeout_s).again()


async def _back(config: ClusterConfig, names: Sequence[str], timeout_s: float, out: Output) -> None:
    """The one that failed first. Raises CommandError naming those that may still have the new ones."""
    for number, name in enumerate(names):
        try:
            with out.step(f"{name} goes back"):
                await GoingOver(config, config.machine(name), timeout_s).again()
        except Failed as e:
            left = ", ".join(names[number:])
            raise CommandError(f"{name} {e}", f"sk8 machine restart takes the former settings up on {left}") from e
        except asyncio.CancelledError:
            out.say(f"  sk8 machine restart takes the former settings up on {', '.join(names[number:])}")
            raise
