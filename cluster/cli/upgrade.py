"""`sk8 upgrade`: another release of sk8 on every machine, one after another, while everything runs.

IO; a machine's own way is `going_over.py`. Control planes first, Ray's head the last of them, then the workers: no
kubelet is newer than its API servers (Kubernetes' version skew policy). When a machine's parts do not come up with the
new release, it goes back to what it ran, and the upgrade ends there: two releases then run side by side, as they do
during every upgrade.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.cli.clusters import existing
from cluster.cli.going_over import Failed, GoingOver, is_there, previous, same
from cluster.cli.output import CommandError, Output
from cluster.cli.status import is_healthy, is_well, look
from cluster.machine import release
from cluster.machine.config import ClusterConfig
from cluster.machine.head import newest
from cluster.machine.release import NoRelease, Release

_TEXT = """Puts the release in DIR (a checkout that infra/bootstrap.sh has prepared, or a virtual environment with sk8
in it) on every machine, one after another. Pods run on; the API, the store and the controllers go over to the other
machines meanwhile. --rollback goes back to what each machine ran before."""
_IMPORTS = ("state", "apiserver", "scheduler", "controllers", "supervisor", "kubelet", "proxy")


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser("upgrade", parents=[common], help="another release on all machines", description=_TEXT)
    what = add.add_mutually_exclusive_group(required=True)
    what.add_argument("dir", nargs="?", type=Path, metavar="DIR", help="the new release")
    what.add_argument("--rollback", action="store_true", help="each machine's former release")
    add.add_argument("--machine", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    add.add_argument("--timeout", type=float, default=300.0, metavar="S", help="how long to wait for a machine (300)")
    add.set_defaults(run=_run, interrupted="the same command goes on where it was")


def order(config: ClusterConfig, head: str, only: Sequence[str]) -> list[str]:
    """The machines in the order of their upgrade. Pure. Raises ConfigError for a name that is none."""
    for name in only:
        config.spec(name)
    ranked = sorted(config.machines, key=lambda m: (not m.control_plane, m.name == head))
    return [m.name for m in ranked if not only or m.name in only]


def sick_first(names: Sequence[str], seen: dict[str, Any]) -> list[str]:
    """Of a rollback: no other machine may be taken down before those that `look` saw sick are well. Pure."""
    rows = {row["name"]: row for row in seen["machines"]}
    return sorted(names, key=lambda name: name in rows and is_well(rows[name], seen["store"]))


async def _run(args: argparse.Namespace, out: Output) -> int:
    config = existing(args.base)
    if config.provider != "local":
        raise CommandError(
            "this goes over local machines; VMs are upgraded one at a time by infra/ray/setup.sh of the new checkout",
            'docs/clusters.md, "Upgrades, one machine at a time"',
        )
    wanted = None if args.rollback else await asyncio.to_thread(_checked, args.dir, config.base)
    names = order(config, newest(config).machine, args.machine)
    if wanted is None:
        names = sick_first(names, await look(config))
    else:
        await need_healthy(config, out)
    for done, name in enumerate(names):
        going = GoingOver(config, config.machine(name), args.timeout)
        target = wanted or release.before(going.machine)
        if target is None:
            out.say(f"  {name} has had no other release")
            continue
        ran = await going.runs()
        if is_there(ran, release.chosen(going.machine), target):
            out.say(f"  {name} runs {target} already")
            continue
        if wanted is None:
            await asyncio.to_thread(_need_runnable, target, name, config.base)
            await need_healthy(config, out, besides=name)
        elif ran is None:
            raise CommandError(f"{name} does not say what it runs, so it could not go back", "sk8 doctor says why")
        await _one(going, target, ran, out, names[:done], by_force=wanted is None)
    out.say("  the host agent keeps its release until the machines were all off: sk8 down --keep-data, sk8 up")
    return 0


def _checked(directory: Path, base: Path) -> Release:
    """Raises CommandError unless every part of that release can at least be loaded, and reads this cluster's settings:
    a machine whose first process fails is a machine that is off."""
    try:
        found = release.in_directory(directory)
    except NoRelease as e:
        raise CommandError(str(e)) from e
    modules = ["cluster.machine.__main__", "actors.ensure", *(f"actors.wiring.{part}" for part in _IMPORTS)]
    if why := _fault(found, f"import {', '.join(modules)}"):
        raise CommandError(f"the release in {directory} does not load: {why}", "nothing was changed")
    if why := _fault(found, _reads(base)):
        raise CommandError(f"the release in {directory} cannot run this cluster: {why}", "nothing was changed")
    return found


def _need_runnable(former: Release, name: str, base: Path) -> None:
    """A machine passes over a release that is gone, so it would never come up with it; with one that does not know a
    setting of the cluster it would go off."""
    there = os.access(former.python, os.X_OK)
    why = _fault(former, _reads(base)) if there else f"there is no {former.python}"
    if why:
        raise CommandError(f"{name} cannot go back to {former}: {why}; nothing was changed there", "sk8 upgrade DIR")


def _reads(base: Path) -> str:
    return f"from cluster.machine.config import load_cluster; load_cluster({str(base)!r}).validate()"


def _fault(release: Release, code: str) -> str:
    """The last words of that release's Python when it fails with `code`, else ""."""
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": os.environ.get("HOME", "/root")}
    if release.checkout is not None:
        env["PYTHONPATH"] = str(release.checkout)
    command = [str(release.python), "-c", code]
    ended = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    return (ended.stderr.strip().splitlines() or ["it said nothing"])[-1] if ended.returncode else ""


async def need_healthy(config: ClusterConfig, out: Output, besides: str = "") -> None:
    """`besides`: the machine that a rollback is to cure."""
    with out.step(f"the machines besides {besides} are healthy" if besides else "the cluster is healthy"):
        if not is_healthy(await look(config), (besides,)):
            raise CommandError(
                "the cluster is not healthy, so no machine may be taken down; nothing was changed",
                "sk8 doctor says what is wrong",
            )


async def _one(
    going: GoingOver, target: Release, ran: Release | None, out: Output, done: Sequence[str], *, by_force: bool
) -> None:
    """Raises CommandError when the machine did not get there; it then runs what it ran, unless that fails, too.
    `by_force`: a rollback; until it is there its disk names no other way, so that said again it goes on."""
    name, before = going.machine.name, release.before(going.machine)
    left = previous(target, ran, release.chosen(going.machine), before)
    try:
        with out.step(f"{name} runs {target}"):
            await going.go(target, target if by_force else left, by_force=by_force)
        release.choose(going.machine, target, left)
    except asyncio.CancelledError:
        out.say(f"  {name} may run either: the same command goes on, sk8 upgrade --rollback --machine {name} goes back")
        raise
    except Failed as e:
        look_into = f"look into {going.machine.log_dir}"
        if ran is None:
            raise CommandError(f"{name} {e}", look_into) from e
        await _back(going, ran, before, e, out)
        there = f"; {', '.join(done)} keep the new one (sk8 upgrade --rollback --machine NAME)" if done else ""
        raise CommandError(f"{name} {e} and runs {ran} again{there}", look_into) from e


async def _back(going: GoingOver, ran: Release, before: Release | None, why: Failed, out: Output) -> None:
    """`before`: what `ran` had been chosen after; a rollback must not lead to what has just failed."""
    name = going.machine.name
    try:
        with out.step(f"{name} goes back to {ran}"):
            await going.go(ran, None if same(before, ran) else before, by_force=True)
    except Failed as e:
        raise CommandError(
            f"{name} {why}, and then {e}; its disk names {ran} for its next boot",
            f"look into {going.machine.log_dir}; sk8 machine kill {name} and sk8 machine start {name} boot it",
        ) from e
