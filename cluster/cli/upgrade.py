"""`sk8 upgrade`: another release of sk8 on every machine, one after another, while everything runs.

IO: the machines' disks and sk8-machines (through the host agent), the API, the store. Control planes first, Ray's head
the last of them, then the workers: no kubelet is newer than its API servers (Kubernetes' version skew policy). When a
machine's parts do not come up with the new release, it goes back to the one before, and the upgrade ends there: two
releases then run side by side, as they do during every upgrade.
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
from cluster.cli.output import CommandError, Output
from cluster.cli.status import look
from cluster.cloud.local import LocalProvider
from cluster.machine import rejoin, release
from cluster.machine.config import ClusterConfig, MachineConfig
from cluster.machine.head import newest
from cluster.machine.release import NoRelease, Release

_TEXT = """Puts the release in DIR (a checkout that infra/bootstrap.sh has prepared, or a virtual environment with sk8
in it) on every machine, one after another. Pods run on; the API, the store and the controllers go over to the other
machines meanwhile. --rollback goes back to what each machine ran before."""
_POLL_S = 1.0
_IMPORTS = ("state", "apiserver", "scheduler", "controllers", "supervisor", "kubelet", "proxy")


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser("upgrade", parents=[common], help="another release on all machines", description=_TEXT)
    what = add.add_mutually_exclusive_group(required=True)
    what.add_argument("dir", nargs="?", type=Path, metavar="DIR", help="the new release")
    what.add_argument("--rollback", action="store_true", help="each machine's former release")
    add.add_argument("--machine", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    add.add_argument("--timeout", type=float, default=300.0, metavar="S", help="how long to wait for a machine (300)")
    add.set_defaults(run=_run)


def order(config: ClusterConfig, head: str, only: Sequence[str]) -> list[str]:
    """The machines in the order of their upgrade. Pure. Raises ConfigError for a name that is none."""
    for name in only:
        config.spec(name)
    ranked = sorted(config.machines, key=lambda m: (not m.control_plane, m.name == head))
    return [m.name for m in ranked if not only or m.name in only]


async def _run(args: argparse.Namespace, out: Output) -> int:
    config = existing(args.base)
    if config.provider != "local":
        raise CommandError(
            "this goes over local machines; VMs are upgraded one at a time by infra/ray/setup.sh of the new checkout",
            'docs/clusters.md, "Upgrades, one machine at a time"',
        )
    wanted = None if args.rollback else await asyncio.to_thread(_checked, args.dir)
    with out.step("the cluster is healthy"):
        await _need_healthy(config)
    names = order(config, newest(config).machine, args.machine)
    for done, name in enumerate(names):
        machine = config.machine(name)
        target = wanted or release.before(machine)
        if target is None:
            out.say(f"  {name} has had no other release")
            continue
        if (await _status(machine, config)).release == str(target):
            out.say(f"  {name} runs {target} already")
            continue
        await _one(config, machine, target, args.timeout, out, names[:done])
    out.say("  the host agent keeps its release until the machines were all off: sk8 down --keep-data, sk8 up")
    return 0


def _checked(directory: Path) -> Release:
    """Raises CommandError unless every part of that release can at least be loaded: a machine whose first process fails
    is a machine that is off."""
    try:
        found = release.in_directory(directory)
    except NoRelease as e:
        raise CommandError(str(e)) from e
    modules = ["cluster.machine.__main__", "actors.ensure", *(f"actors.wiring.{part}" for part in _IMPORTS)]
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": os.environ.get("HOME", "/root")}
    if found.checkout is not None:
        env["PYTHONPATH"] = str(found.checkout)
    command = [str(found.python), "-c", f"import {', '.join(modules)}"]
    ended = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CommandError(f"the release in {directory} does not load: {last}", "nothing was changed")
    return found


async def _need_healthy(config: ClusterConfig) -> None:
    if not (await look(config))["healthy"]:
        raise CommandError(
            "the cluster is not healthy, so no machine may be taken down; nothing was changed",
            "sk8 doctor says what is wrong",
        )


async def _one(
    config: ClusterConfig, machine: MachineConfig, target: Release, timeout_s: float, out: Output, done: Sequence[str]
) -> None:
    former = release.chosen(machine) or release.running()
    try:
        with out.step(f"{machine.name} runs {target}"):
            await _go_over(config, machine, target, former, timeout_s)
    except TimeoutError as e:
        with out.step(f"{machine.name} goes back to {former}"):
            await _go_over(config, machine, former, target, timeout_s)
        there = f"; {', '.join(done)} keep the new one (sk8 upgrade --rollback --machine NAME)" if done else ""
        raise CommandError(
            f"{machine.name} was not healthy with {target} within {timeout_s:g} s and runs {former} again{there}",
            f"look into {machine.log_dir}",
        ) from e


async def _go_over(
    config: ClusterConfig, machine: MachineConfig, target: Release, former: Release, timeout_s: float
) -> None:
    """Returns when the whole cluster is healthy with `target` there. Raises TimeoutError."""
    before = await _status(machine, config)
    release.choose(machine, target, former)
    await LocalProvider(config.host_socket).restart_agent(machine.name)
    async with asyncio.timeout(timeout_s):
        while True:
            if _arrived(await _status(machine, config), before, target) and (await look(config))["healthy"]:
                return
            await asyncio.sleep(_POLL_S)


def _arrived(now: rejoin.HeadStatus, before: rejoin.HeadStatus, target: Release) -> bool:
    return now.life != before.life and now.ensured and now.release == str(target)


async def _status(machine: MachineConfig, config: ClusterConfig) -> rejoin.HeadStatus:
    """What its sk8-machine says; nothing of it when it does not answer. The certificate is the machine's own."""
    _, context = rejoin.contexts(machine)
    try:
        return await rejoin.HeadClient((machine.ip, config.machine_port), context).status(5.0)
    except rejoin.Unreachable:
        return rejoin.HeadStatus("", False)
