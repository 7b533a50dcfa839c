"""`sk8 hollow`: nodes that run nothing, beside the real ones, for as long as the command runs.

IO: the API with the administrator's certificate, signals. What a hollow node is: cluster/node/hollow/.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

from cluster.cli.clusters import admin_http, existing
from cluster.cli.output import CommandError, Output
from cluster.machinery.http_client import HttpClient

if TYPE_CHECKING:
    from cluster.node.hollow.node import HollowSpec

_TEXT = """Adds nodes whose pods are simulated: the kubelet's own core, admission, statuses and heartbeats, on a
container runtime that runs nothing. For trying schedulers, controllers and clients at scale. The nodes are labelled and
tainted sk8.io/hollow=true: pods come there that tolerate it. Runs until it is interrupted; then the nodes go."""


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser("hollow", parents=[common], help="add simulated nodes, for scale", description=_TEXT)
    add.add_argument("--nodes", type=int, required=True, metavar="N", help="how many")
    add.add_argument("--prefix", default="hollow-", metavar="NAME", help="what their names begin with (hollow-)")
    add.add_argument("--cpu", default="8", help="each one's processors (8)")
    add.add_argument("--memory", default="32Gi", help="each one's memory (32Gi)")
    add.add_argument("--max-pods", type=int, default=110, metavar="N", help="(110)")
    add.add_argument("--zones", default="", metavar="A,B", help="topology.kubernetes.io/zone, in turn")
    add.add_argument("--labels", default="", metavar="K=V,..", help="further labels")
    add.add_argument("--no-taint", action="store_true", help="any pod may come there, and will not really run")
    add.add_argument("--start-seconds", type=float, default=0.0, metavar="S", help="how long a container's start takes")
    add.add_argument("--keep", action="store_true", help="leave the Node objects at the end")
    add.set_defaults(run=_run)


def spec_of(args: argparse.Namespace) -> HollowSpec:
    """Raises CommandError for labels that are none."""
    from cluster.node.hollow.node import HollowSpec

    pairs = [pair.partition("=") for pair in args.labels.split(",") if pair]
    if any(not key or not equals for key, equals, _ in pairs):
        raise CommandError(f"--labels {args.labels}: not of the form key=value,key=value")
    return HollowSpec(
        cpu=args.cpu,
        memory=args.memory,
        max_pods=args.max_pods,
        labels={key: value for key, _, value in pairs},
        zones=tuple(zone for zone in args.zones.split(",") if zone),
        tainted=not args.no_taint,
        start_s=args.start_seconds,
    )


async def _run(args: argparse.Namespace, out: Output) -> int:
    from cluster.node.hollow.fleet import HollowFleet  # the node's room is not loaded for every other command

    if args.nodes < 1:
        raise CommandError(f"--nodes {args.nodes}: must be at least 1")
    spec = spec_of(args)
    async with HttpClient(admin_http(existing(args.base))) as client:
        fleet = HollowFleet(client, args.nodes, spec, prefix=args.prefix, clock=time.time)
        interrupted = _interrupted()  # before there are nodes to leave behind
        running = asyncio.create_task(fleet.run())
        try:
            with out.step(f"{args.nodes} hollow nodes") as step:
                await _first(running, fleet.ready, interrupted)
                if not fleet.ready.is_set():
                    step.update("interrupted")
            if not interrupted.is_set():
                out.say(f"  {args.nodes} nodes are Ready: kubectl get nodes -l sk8.io/hollow=true; interrupt to end")
                await _first(running, interrupted)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            if not args.keep:
                with out.step("removing the hollow nodes"):
                    await fleet.remove()
    return 0


async def _first(running: asyncio.Task[None], *wanted: asyncio.Event) -> None:
    """Wait for one of `wanted`; the fleet's end before that is its failure."""
    waits = [asyncio.create_task(event.wait()) for event in wanted]
    try:
        await asyncio.wait([*waits, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
    finally:
        for wait in waits:
            wait.cancel()


def _interrupted() -> asyncio.Event:
    event = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event
