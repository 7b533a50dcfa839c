"""`sk8 snapshot restore`: a stopped cluster's store becomes what a snapshot holds, as a new group. IO.

    snapshot checked > every control plane's member made beside the old one > all put in place > cluster.json

The group gets a new cluster id and new member ids, so that no member of the old one, forgotten on some disk, can ever
speak to it. Interrupted, it can be run again. The old members' directories are kept aside until somebody removes them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cluster.cli import agent
from cluster.cli.keyfile import install_keys, load_keys
from cluster.cli.output import CommandError, Output
from cluster.cli.store_access import clear_errors
from cluster.cli.store_snapshot import local_copy, share, show
from cluster.cloud.local import LocalProvider
from cluster.cloud.machines import living
from cluster.machine.config import ClusterConfig, save_cluster
from cluster.machine.files import make_private_dir, sync_dir
from cluster.machine.identity import Authority
from cluster.machine.machine_config import MachineConfig, StateMember, load_machine, save_machine
from cluster.registry.keys import MEMBER_REQUESTS, RAY_HEAD
from raft.backup.file import SnapshotStatus, describe, restore
from raft.config import Address

MEMBER = "member"
# An unfinished replacement from back then would take a member of the new group for the lost one. Who was Ray's head
# then is not who it is now, as the machines' disks have it: the Supervisor asks them.
DROPPED = (MEMBER_REQUESTS, RAY_HEAD)


async def run(args: argparse.Namespace, existing: ClusterConfig | None, out: Output) -> None:
    config, keys = _config(args, existing)
    if existing is not None:
        await _refuse_running(config)
    async with local_copy(args.file, args.url, config, out) as path:
        with out.step("read and checked every record") as step, clear_errors():
            found = await asyncio.to_thread(
                describe,
                path,
                skip_hash_check=args.skip_hash_check,
                progress=lambda done, of: share(step, done, of),
            )
        config = replace(config, cluster_id=secrets.token_hex(8))
        with out.step(f"made {len(config.control_planes)} members of a new group") as step, clear_errors():
            if keys is not None:
                await asyncio.to_thread(install_keys, config, keys)
            aside = await asyncio.to_thread(_restore, path, found, config, args.bump_revision, step.update)
    _report(args, found, config, aside, out)


def _config(args: argparse.Namespace, existing: ClusterConfig | None) -> tuple[ClusterConfig, dict[str, bytes] | None]:
    if existing is not None:
        if args.keys is not None:
            raise CommandError(
                f"there is a cluster in {existing.base_dir}, which has keys of its own",
                "without --keys its store is replaced; sk8 down removes it first",
            )
        return existing, None
    if args.keys is None:
        raise CommandError(
            f"there is no cluster in {args.base}",
            "--keys FILE brings back the keys and settings that sk8 snapshot save --keys FILE saved",
        )
    return load_keys(args.keys, args.base)


async def _refuse_running(config: ClusterConfig) -> None:
    on = living(config)
    if await agent.answers(config):
        on = [m.name for m in await LocalProvider(config.host_socket).machines() if m.state != "off"]
    if on:
        raise CommandError(
            f"machines are on ({', '.join(on)}): a restore replaces the store of all of them",
            "sk8 down --keep-data stops them and keeps their disks; then run this again, then sk8 up",
        )


# -- doing -----------------------------------------------------------------------------------------------------------
def _restore(
    path: Path, found: SnapshotStatus, config: ClusterConfig, bump_revision: int, say: Callable[[str], None]
) -> list[Path]:
    """Every member before any is put in place; cluster.json last. What was there before, where it is now."""
    _authority(config)
    members = tuple(StateMember(found.greatest_id + 1 + i, m.name, m.ip) for i, m in enumerate(config.control_planes))
    addresses: dict[int, Address] = {m.id: (m.ip, config.state_peer_port, config.state_client_port) for m in members}
    for member in members:
        say(member.name)
        staged = _staged(config.machine(member.name))
        shutil.rmtree(staged, ignore_errors=True)
        make_private_dir(staged.parent)
        restore(
            path,
            staged,
            config.cluster_id,
            member.id,
            addresses,
            bump_revision=bump_revision,
            drop=DROPPED,
        )
    aside = [_put_in_place(config, member, members) for member in members]
    for spec in config.machines:
        if not spec.control_plane:
            save_machine(replace(_machine(config, spec.name), cluster_id=config.cluster_id, state_members=members))
    save_cluster(config)
    return [directory for directory in aside if directory is not None]


def _authority(config: ClusterConfig) -> None:
    """Machines that have no disk any more get a new one, which joins as at the birth of the cluster."""
    authority = Authority(config)
    authority.create()
    for spec in config.machines:
        machine = config.machine(spec.name)
        if not (machine.disk / "machine.json").exists():
            authority.provision(machine)


def _machine(config: ClusterConfig, name: str) -> MachineConfig:
    return load_machine(config.base_dir, name)


def _staged(machine: MachineConfig) -> Path:
    return machine.state_dir / "restored"


def _put_in_place(config: ClusterConfig, member: StateMember, members: tuple[StateMember, ...]) -> Path | None:
    machine = _machine(config, member.name)
    current, aside = machine.state_dir / MEMBER, None
    if current.exists():
        aside = machine.state_dir / f"before-restore-{len(list(machine.state_dir.glob('before-restore-*'))) + 1}"
        current.rename(aside)
    _staged(machine).rename(current)
    sync_dir(machine.state_dir)
    save_machine(
        replace(
            machine,
            cluster_id=config.cluster_id,
            state_member_id=member.id,
            state_members=members,
            state_bootstrap=False,
        )
    )
    return aside


def _report(
    args: argparse.Namespace, found: SnapshotStatus, config: ClusterConfig, aside: list[Path], out: Output
) -> None:
    if args.output == "json":
        document = {
            "file": args.file,
            "cluster_id": config.cluster_id,
            "revision": found.revision + args.bump_revision,
            "kept": [str(path) for path in aside],
            "snapshot": found.to_json(),
        }
        out.result(json.dumps(document, indent=2))
        return
    show(found, args.file, out, as_json=False)
    for path in aside:
        out.say(f"  the store as it was is kept in {path}; remove it when it is of no use any more")
    out.say(f"The store of {config.base_dir} is the snapshot's. sk8 up starts the cluster on it.")
