"""`sk8 machine` and `sk8 link`: the power and the cables of a cluster's local machines. IO (the host agent).

Workers that come and go are in workers.py, machines of clusters of VMs that are forgotten in vm_members.py.
"""

from __future__ import annotations

import argparse
from typing import Any

from cluster.cli import vm_members, workers
from cluster.cli.clusters import existing
from cluster.cli.output import CommandError, Output
from cluster.cli.status import show_machines
from cluster.cloud.local import LocalProvider


def add_commands(
    commands: Any,
    acting: argparse.ArgumentParser,
    common: argparse.ArgumentParser,
    listing: argparse.ArgumentParser,
) -> None:
    machine = commands.add_parser("machine", help="list, add, remove, kill, start or stop machines")
    verbs = machine.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add = verbs.add_parser("list", parents=[common, listing], help="all machines and their power")
    add.set_defaults(run=_list)
    power = {
        "kill": "cut its power: processes, containers and network go at once",
        "stop": "shut it down in good order",
        "start": "switch it on; it boots from its disk",
        "restart": "begin anew with sk8's own processes there; its pods run on",
        "renew": "give it new keys and certificates now; it does so by itself before they end",
    }
    ways = _each_of_a_machine(verbs, power, acting, run=_power, wipe=False)
    ways["start"].add_argument("--wipe", action="store_true", help="empty its disk first, as if it was replaced")
    workers.add_commands(verbs, acting)
    vm_members.add_forget(verbs, acting)
    _link_command(commands, acting)


def _link_command(commands: Any, common: argparse.ArgumentParser) -> None:
    link = commands.add_parser("link", help="cut, spoil or mend a machine's network cable")
    verbs = link.add_subparsers(title="commands", required=True, metavar="COMMAND")
    cable = {
        "down": "cut it: the machine runs on, alone",
        "slow": "delay what passes it, in both directions, or lose some of it",
        "up": "mend it, whatever was done to it",
    }
    slow = _each_of_a_machine(verbs, cable, common, run=_link)["slow"]
    slow.add_argument("--delay-ms", type=float, default=0.0, metavar="MS", help="each packet comes so late")
    slow.add_argument("--jitter-ms", type=float, default=0.0, metavar="MS", help="give or take so much")
    slow.add_argument("--loss-percent", type=float, default=0.0, metavar="P", help="of each hundred, P are lost")


def _each_of_a_machine(
    verbs: Any, described: dict[str, str], parent: argparse.ArgumentParser, **defaults: Any
) -> dict[str, argparse.ArgumentParser]:
    """A command for each verb, which takes the name of a machine; the handler finds the verb in `args.verb`."""
    made: dict[str, argparse.ArgumentParser] = {}
    for verb, text in described.items():
        made[verb] = verbs.add_parser(verb, parents=[parent], help=text, description=text)
        made[verb].add_argument("name", metavar="NAME", help="such as m1")
        made[verb].set_defaults(verb=verb, **defaults)
    return made


# -- doing -----------------------------------------------------------------------------------------------------------
async def _list(args: argparse.Namespace, out: Output) -> int:
    await show_machines(existing(args.base), out, as_json=args.output == "json")
    return 0


async def _power(args: argparse.Namespace, out: Output) -> int:
    config = existing(args.base)
    config.spec(args.name)
    provider = LocalProvider(config.host_socket)
    said = {"kill": "lost power", "stop": "is off", "start": "is on", "renew": "renews its certificates"}
    with out.step(f"machine {args.name} {said.get(args.verb, 'begins anew')}"):
        if args.verb == "start":
            await provider.start(args.name, wipe=args.wipe)
        else:
            verbs = {"stop": provider.stop, "kill": provider.kill, "renew": provider.renew}
            await verbs.get(args.verb, provider.restart_agent)(args.name)
    return 0


async def _link(args: argparse.Namespace, out: Output) -> int:
    config = existing(args.base)
    config.spec(args.name)
    provider = LocalProvider(config.host_socket)
    if args.verb == "slow":
        if not (args.delay_ms or args.loss_percent):
            raise CommandError("a slow link needs --delay-ms or --loss-percent", "such as --delay-ms 50", code=2)
        await provider.set_netem(
            args.name, delay_ms=args.delay_ms, jitter_ms=args.jitter_ms, loss_percent=args.loss_percent
        )
    else:
        await provider.set_link(args.name, up=args.verb == "up")
    if args.verb == "up":
        await provider.set_netem(args.name)
    out.say(f"  the link of {args.name} is {args.verb}")
    return 0
