"""`sk8 configure`: other settings for a running cluster of local machines, one machine after another.

IO. The host agent writes them down; a machine takes them up when sk8's own processes there begin anew, in the order and
with the care of `sk8 upgrade`. When a machine does not come back healthy, the former settings come back, there and on
those before it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.cli import settings
from cluster.cli.clusters import existing
from cluster.cli.going_over import Failed, GoingOver
from cluster.cli.output import CommandError, Output
from cluster.cli.status import is_well, look
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
    names, new = order(after, newest(after).machine, ()), differences(before, after)
    with out.step("each machine says what it began with"):
        began = await _began(before, names, args.timeout)
    if not new:
        names = [name for name in names if began[name] not in (None, digest(after))]
        if not names:
            out.say("Nothing was changed.")
            return 0
        out.say(f"  written down already, but not taken up by {', '.join(names)}")
    sick = await _left_sick(before, began, names)
    await need_healthy(before, out, sick)
    if new:
        await LocalProvider(before.host_socket).configure(new)
        out.say(f"  changed: {', '.join(new)}")
    names.sort(key=lambda name: name != sick)
    await _go_over(before, after, names, sick, args.timeout, out)
    return 0


async def _began(config: ClusterConfig, names: Sequence[str], timeout_s: float) -> dict[str, str | None]:
    """With which settings each of them began, as `GoingOver.settings` has it."""
    going = [GoingOver(config, config.machine(name), timeout_s) for name in names]
    return dict(zip(names, await asyncio.gather(*(one.settings() for one in going)), strict=True))


async def _left_sick(config: ClusterConfig, began: Mapping[str, str | None], names: Sequence[str]) -> str:
    """That of `names` which this command, interrupted, left sick: other settings may cure it, so it need not be well.
    "" when it was not interrupted, and when another is sick, too: none is taken down beside that."""
    if all(settings in (None, digest(config)) for settings in began.values()):
        return ""
    seen = await look(config)
    sick = [row["name"] for row in seen["machines"] if not is_well(row, seen["store"])]
    return sick[0] if len(sick) == 1 and sick[0] in names else ""


async def _go_over(
    before: ClusterConfig, after: ClusterConfig, names: Sequence[str], sick: str, timeout_s: float, out: Output
) -> None:
    """Raises CommandError; the settings of `before` are in force again then, if they are others."""
    for count, name in enumerate(names, 1):
        going = GoingOver(after, after.machine(name), timeout_s)
        try:
            with out.step(f"{name} has them"):
                await (going.again_by_force(()) if name == sick else going.again())
        except asyncio.CancelledError as e:
            left = ", ".join(names[count - 1 :])
            raise CommandError(f"interrupted; not taken up by {left}", "the same command goes on there") from e
        except Failed as e:
            log, former = before.machine(name).log_dir, differences(after, before)
            if not former:
                fix = f"look into {log}; sk8 configure with the former settings goes back"
                raise CommandError(f"{name} {e}; the settings from before are not known any more", fix) from e
            await LocalProvider(before.host_socket).configure(former)
            await _back(before, list(reversed(names[:count])), timeout_s, out)
            raise CommandError(f"{name} {e}; the former settings are in force again", f"look into {log}") from e


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
