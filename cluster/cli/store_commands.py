"""The arguments of `sk8 snapshot`, `sk8 member` and `sk8 store`. Pure; what they call is imported when it is called.

The store's libraries take a third of a second to import, which no other command shall pay.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cluster.cli.clusters import existing
from cluster.cli.output import Output
from cluster.machine.config import ClusterConfig, load_cluster

FILE = "a file; a name `sk8 snapshot list` shows; `newest`; or a URL such as s3://bucket/prefix/name"
URL = "where the snapshots are, instead of the cluster's snapshot_url: a directory, s3://... or gs://..."


def add_commands(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    _snapshot(commands, parents)
    _member(commands, parents)
    _store(commands, parents)


def _snapshot(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    verbs = _group(commands, "snapshot", "save, look at, restore and try the store's snapshots")
    add = _verb(verbs, "save", parents, "save the store's state into a file, and check it", _save)
    add.add_argument("file", type=Path, metavar="FILE", help="where to")
    add.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add.add_argument("--from", dest="machine", metavar="MACHINE", help="that machine's member, leader or not")
    add.add_argument(
        "--keys", type=Path, metavar="KEYS", help="also the cluster's keys and settings, into a file of their own"
    )
    add = _verb(verbs, "status", parents, "what is in a snapshot, and whether it is whole", _status)
    _file(add, hash_check=True)
    add = _verb(verbs, "list", parents, "the snapshots that were kept on schedule", _list)
    add.add_argument("--url", default="", metavar="URL", help=URL)
    add = _verb(
        verbs, "restore", parents, "make a stopped cluster's store what a snapshot holds, as a new group", _restore
    )
    _file(add, hash_check=True)
    add.add_argument("--keys", type=Path, metavar="KEYS", help="make the cluster anew, with the keys saved with --keys")
    add.add_argument(
        "--bump-revision",
        type=int,
        default=1_000_000_000,
        metavar="N",
        help="how far revisions jump, so that no watcher takes new ones for old (1000000000; 0: not at all)",
    )
    add = _verb(verbs, "drill", parents, "restore a snapshot into a scratch group, and compare hashes", _drill)
    add.add_argument("file", nargs="?", default="newest", metavar="FILE", help=FILE)
    add.add_argument("--url", default="", metavar="URL", help=URL)
    add.add_argument("--scratch", type=Path, metavar="DIR", help="where there is room for three copies (TMPDIR)")


def _file(add: argparse.ArgumentParser, *, hash_check: bool) -> None:
    add.add_argument("file", metavar="FILE", help=FILE)
    add.add_argument("--url", default="", metavar="URL", help=URL)
    if hash_check:
        text = "take a file without checksum: a data.mdb that was copied from a member's directory"
        add.add_argument("--skip-hash-check", action="store_true", help=text)


def _member(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    verbs = _group(commands, "member", "the members of the store")
    _verb(verbs, "list", parents, "who they are", _member_list)
    add = _verb(verbs, "add", parents, "add one, as a learner", _member_add)
    add.add_argument("host", metavar="HOST", help="a machine or an address")
    add.add_argument("--peer-port", type=int, default=0, metavar="N", help="(the cluster's)")
    add.add_argument("--client-port", type=int, default=0, metavar="N", help="(the cluster's)")
    for verb, text, run in (
        ("promote", "make a learner that has caught up a voter", _member_promote),
        ("remove", "remove one for good; its id never comes back", _member_remove),
    ):
        add = _verb(verbs, verb, parents, text, run)
        add.add_argument("member", metavar="MEMBER", help="an id, a machine or an address")


def _store(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    verbs = _group(commands, "store", "look at the store, and keep it in order")
    _verb(verbs, "status", parents, "each member: size, role, term, how far it is", _store_status)
    add = _verb(verbs, "hash", parents, "each member's hash of its records, which must be equal", _store_hash)
    add.add_argument("--revision", type=int, default=0, metavar="N", help="at that revision (the newest)")
    add = _verb(verbs, "compact", parents, "forget history", _store_compact)
    add.add_argument("revision", metavar="REVISION", help="everything before it; `now`: all but the newest")
    add = _verb(verbs, "alarms", parents, "what is wrong (NOSPACE, CORRUPT), and what to do", _store_alarms)
    add.add_argument("--disarm", action="store_true", help="clear them, once the reason is gone")
    add = _verb(verbs, "dump-wal", parents, "print a member's log", _dump_wal)
    add.add_argument(
        "directory", type=Path, metavar="DIR", help="a machine's directory, its member's, or the wal directory"
    )
    add.add_argument("--values", action="store_true", help="print values, too: there may be secrets among them")


def _group(commands: Any, name: str, text: str) -> Any:
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(title="commands", required=True, metavar="COMMAND")


def _verb(verbs: Any, name: str, parents: list[argparse.ArgumentParser], text: str, run: Any) -> Any:
    add = verbs.add_parser(name, parents=parents, help=text, description=text)
    add.set_defaults(run=run)
    return add


def _maybe_cluster(base: Path) -> ClusterConfig | None:
    try:
        return load_cluster(base)
    except FileNotFoundError:
        return None


# -- commands --------------------------------------------------------------------------------------------------------
async def _save(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_snapshot

    await store_snapshot.save(args, existing(args.base), out)
    return 0


async def _status(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_snapshot

    await store_snapshot.status(args, _maybe_cluster(args.base), out)
    return 0


async def _list(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_snapshot

    await store_snapshot.list_kept(args, existing(args.base), out)
    return 0


async def _restore(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_restore

    await store_restore.run(args, _maybe_cluster(args.base), out)
    return 0


async def _drill(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_snapshot

    await store_snapshot.run_drill(args, _maybe_cluster(args.base), out)
    return 0


async def _member_list(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_members

    await store_members.list_members(args, existing(args.base), out)
    return 0


async def _member_add(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_members

    await store_members.add(args, existing(args.base), out)
    return 0


async def _member_promote(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_members

    await store_members.promote(args, existing(args.base), out)
    return 0


async def _member_remove(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_members

    await store_members.remove(args, existing(args.base), out)
    return 0


async def _store_status(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_ops

    await store_ops.status(args, existing(args.base), out)
    return 0


async def _store_hash(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_ops

    return await store_ops.compare_hashes(args, existing(args.base), out)


async def _store_compact(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_ops

    await store_ops.compact(args, existing(args.base), out)
    return 0


async def _store_alarms(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_ops

    return await store_ops.alarms(args, existing(args.base), out)


async def _dump_wal(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli import store_ops

    await store_ops.dump_wal(args, out)
    return 0
