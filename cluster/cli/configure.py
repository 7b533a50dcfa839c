"""`sk8 configure`: other settings for a running cluster of local machines, one machine after another.

IO. The host agent writes them down; a machine takes them up when sk8's own processes there begin anew, in the order and
with the care of `sk8 upgrade`. When a machine does not come back healthy, the former settings come back, there and on
those before it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cluster.cli import settings
from cluster.cli.clusters import existing
from cluster.cli.going_over import Failed, GoingOver
from cluster.cli.output import CommandError, Output
from cluster.cli.upgrade import need_healthy, order
from cluster.cloud.local import LocalProvider
from cluster.machine.changes import changed, differences, digest
from cluster.machine.config import ClusterConfig
from cluster.machine.head import newest

_TEXT = """Gives a running cluster the settings in FILE; those that are not in it stay as they are. On one machine after
another sk8's own processes begin anew with them; pods run on. What cannot be changed once a cluster is made is refused
(docs/configuration.md)."""


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser("configure", parents=[common], help="other settings, while it runs", description=_TEXT)
    add.add_argument("file", type=Path, metavar="FILE", help="YAML of settings, as for sk8 up --config")
    add.add_argument("--timeout", type=float, default=300.0, metavar="S", help="how long to wait for a machine (300)")
    add.set_defaults(run=_run, interrupted="the same command goes on where it was")


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
    names = order(after, newest(after).machine, ())
    if not new:
        names = await _behind(after, names, args.timeout)
        if not names:
            out.say("Nothing was changed.")
            return 0
        out.say(f"  written down already, but not taken up by {', '.join(names)}")
    await need_healthy(before, out)
    provider = LocalProvider(before.host_socket)
    if new:
        await provider.configure(new)
        out.say(f"  changed: {', '.join(new)}")
    for count, name in enumerate(names, 1):
        try:
            await _again(after, name, args.timeout, out)
        except asyncio.CancelledError as e:
            left = ", ".join(names[count - 1 :])
            raise CommandError(f"interrupted; not taken up by {left}", "the same command goes on there") from e
        except Failed as e:
            log = before.machine(name).log_dir
            if not new:
                fix = f"look into {log}; sk8 machine kill {name} and sk8 machine start {name} boot it"
                raise CommandError(f"{name} {e}; the settings from before are not known any more", fix) from e
            await provider.configure(differences(after, before))
            await _back(before, list(reversed(names[:count])), args.timeout, out)
            raise CommandError(f"{name} {e}; the former settings are in force again", f"look into {log}") from e
    return 0


async def _behind(config: ClusterConfig, names: Sequence[str], timeout_s: float) -> list[str]:
    """Those that began with other settings than `config` has (somebody interrupted this command), or do not say."""
    going = [GoingOver(config, config.machine(name), timeout_s) for name in names]
    began = await asyncio.gather(*(one.settings() for one in going))
    return [name for name, settings in zip(names, began, strict=True) if settings not in (None, digest(config))]


async def _again(config: ClusterConfig, name: str, timeout_s: float, out: Output) -> None:
    """Raises Failed."""
    with out.step(f"{name} has them"):
        await GoingOver(config, config.machine(name), timeout_s).again()


async def _back(config: ClusterConfig, names: Sequence[str], timeout_s: float, out: Output) -> None:
    """The one that failed first; one that does not come back keeps none of the others from it. Raises CommandError
    naming those that did not."""
    failed: dict[str, Failed] = {}
    for number, name in enumerate(names):
        try:
            with out.step(f"{name} goes back"):
                await GoingOver(config, config.machine(name), timeout_s).again_by_force(failed)
        except Failed as e:
            failed[name] = e
        except asyncio.CancelledError as e:
            left = (*failed, *names[number:])
            what = f"interrupted; the former settings are written down, but not taken up by {', '.join(left)}"
            raise CommandError(what, f"{_boots(left)} boot with them") from e
    if failed:
        what = "; ".join(f"{name} {why}" for name, why in failed.items())
        raise CommandError(
            f"the former settings are written down again, but {what}",
            f"look into {config.machine(next(iter(failed))).log_dir}; {_boots(failed)} boot with them",
        )


def _boots(names: Iterable[str]) -> str:
    return ", ".join(f"sk8 machine kill {name} and sk8 machine start {name}" for name in names)
