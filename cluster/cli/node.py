"""`sk8 node drain|cordon|uncordon`: kubectl's commands of the same names, with the administrator's rights. IO.

Flags, words and exit codes are kubectl's; `--output json` is besides, as everywhere in sk8.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cluster.api.duration import parse_duration
from cluster.api.errors import ApiError
from cluster.api.selectors import parse_label_selector
from cluster.cli.clusters import admin_http, existing
from cluster.cli.drain import Drainer, DrainError
from cluster.cli.drain_plan import Flags
from cluster.cli.output import CommandError, Output
from cluster.machinery.http_client import HttpClient

_DRAIN = """Marks the node unschedulable and evicts its pods, as `kubectl drain` does: it respects budgets and waits
until the pods are gone. Pods of DaemonSets, pods with emptyDir volumes and pods without a controller forbid it, so that
none is evicted, unless a flag says otherwise. Mirror pods stay."""


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    node = commands.add_parser("node", help="drain, cordon or uncordon a node, as kubectl does")
    verbs = node.add_subparsers(title="commands", required=True, metavar="COMMAND")
    which = _which()
    add = verbs.add_parser("cordon", parents=[common, which], help="mark it unschedulable")
    add.set_defaults(run=_cordon, wanted=True, verb="cordon")
    add = verbs.add_parser("uncordon", parents=[common, which], help="mark it schedulable")
    add.set_defaults(run=_cordon, wanted=False, verb="uncordon")
    text = "mark it unschedulable and move its pods away"
    add = verbs.add_parser("drain", parents=[common, which], help=text, description=_DRAIN)
    _add_drain_flags(add)
    add.set_defaults(run=_drain, verb="drain", interrupted="the node stays cordoned; the same command goes on")


def _which() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("names", nargs="*", metavar="NODE", help="its name, or several")
    parser.add_argument("-l", "--selector", default="", metavar="LABELS", help="nodes by their labels instead")
    text = "client: say what would be done; server: have the API check it, too (none)"
    parser.add_argument("--dry-run", choices=("none", "client", "server"), default="none", help=text)
    return parser


def _add_drain_flags(add: argparse.ArgumentParser) -> None:
    add.add_argument("--force", action="store_true", help="also pods that declare no controller: they do not come back")
    add.add_argument("--ignore-daemonsets", action="store_true", help="leave pods of DaemonSets where they are")
    add.add_argument("--delete-emptydir-data", action="store_true", help="also pods with emptyDir: its data goes")
    add.add_argument("--disable-eviction", action="store_true", help="delete instead: budgets are not asked")
    text = "seconds that each pod has to end; negative: its own (-1)"
    add.add_argument("--grace-period", type=int, default=-1, metavar="S", help=text)
    add.add_argument(
        "--timeout", default="0s", metavar="DURATION", help="give up after so long, such as 5m; 0: never (0s)"
    )
    add.add_argument("--pod-selector", default="", metavar="LABELS", help="only pods with these labels")
    text = "do not wait for pods that are being deleted for more than so many seconds; 0: wait (0)"
    add.add_argument("--skip-wait-for-delete-timeout", type=int, default=0, metavar="S", help=text)
    add.add_argument("--chunk-size", type=int, default=500, metavar="N", help="list so many at a time; 0: all (500)")


async def _cordon(args: argparse.Namespace, out: Output) -> int:
    async with _drainer(args, out, Flags(dry_run=args.dry_run)) as drainer:
        for node in await drainer.nodes(args.names, args.selector):
            await drainer.cordon(node, wanted=args.wanted)
    return 0


async def _drain(args: argparse.Namespace, out: Output) -> int:
    async with _drainer(args, out, _flags(args)) as drainer:
        nodes = await drainer.nodes(args.names, args.selector)
        for node in nodes:
            await drainer.cordon(node, wanted=True)
        reasons, pending = [], []
        for name in (node["metadata"]["name"] for node in nodes):
            try:
                await drainer.drain(name)
            except DrainError as e:
                drainer.complain(f'error: unable to drain node "{name}" due to error: {e}, continuing command...')
                reasons += e.reasons
                pending.append(name)
            else:
                drainer.tell(f"node/{name} drained{drainer.flags.suffix}")
        if reasons:
            drainer.complain("\n".join(["There are pending nodes to be drained:", *(f" {name}" for name in pending)]))
            raise CommandError(str(DrainError(reasons)))
    return 0


def _flags(args: argparse.Namespace) -> Flags:
    try:
        timeout_s = parse_duration(args.timeout)
    except ValueError as e:
        raise CommandError(f"--timeout: {e}") from e
    try:
        parse_label_selector(args.pod_selector)
    except ValueError as e:
        raise CommandError("--pod-selector=<pod_selector> must be a valid label selector", str(e)) from e
    return Flags(
        args.force,
        args.ignore_daemonsets,
        args.delete_emptydir_data,
        args.disable_eviction,
        args.grace_period,
        timeout_s,
        args.skip_wait_for_delete_timeout,
        args.pod_selector,
        args.dry_run,
        args.chunk_size,
    )


@asynccontextmanager
async def _drainer(args: argparse.Namespace, out: Output, flags: Flags) -> AsyncIterator[Drainer]:
    """What the API refuses ends the command. For programs, what is said is said once, at the end."""
    verb = args.verb
    if not args.names and not args.selector:
        raise CommandError(f"USAGE: {verb} NODE [flags]", f"sk8 node {verb} --help")
    if args.names and args.selector:
        raise CommandError("cannot specify both a node name and a --selector option", f"sk8 node {verb} --help")
    tell = out.say if args.output == "json" else out.result
    try:
        async with HttpClient(admin_http(existing(args.base))) as client:
            yield Drainer(client, flags, tell, out.say)
    except ApiError as e:
        raise CommandError(e.message, "kubectl get nodes" if e.code == 404 else "") from e
