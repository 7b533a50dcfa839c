"""`sk8 machine add` and `sk8 machine remove`: a running cluster of local machines gets another worker, or gives one up.

IO. The host agent has the last word on both (`cluster/cloud/host_agent.py`); it writes the configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

from cluster.cli.api import AdminApi
from cluster.cli.clusters import existing
from cluster.cli.output import CommandError, Output
from cluster.cli.up import READY_TIMEOUT_S, wait_ready
from cluster.cloud.local import LocalProvider
from cluster.machine.config import ClusterConfig, load_cluster
from cluster.machine.workers import without_worker

_ADD = """Makes another worker on this box, boots it, and waits until its node is Ready. It offers what the settings say
of every machine: together they may offer more memory than the box has."""
_REMOVE = """Shuts a worker down in good order, deletes its node and empties its disk, local volumes included. Refused
while pods run there that no DaemonSet put there: `sk8 node drain` moves them. Control planes cannot be removed."""


def add_commands(verbs: Any, common: argparse.ArgumentParser) -> None:
    add = verbs.add_parser("add", parents=[common], help="make another worker", description=_ADD)
    add.add_argument("name", nargs="?", default="", metavar="NAME", help="what to call it (the next of m1, m2, ...)")
    add.add_argument("--zone", default="", metavar="ZONE", help="its topology.kubernetes.io/zone (local)")
    add.add_argument("--timeout", type=float, default=READY_TIMEOUT_S, metavar="S", help="how long to wait (180)")
    add.set_defaults(run=_add, interrupted="sk8 machine list shows whether it was made")
    add = verbs.add_parser("remove", parents=[common], help="end a worker for good", description=_REMOVE)
    add.add_argument("name", metavar="NAME", help="such as m4")
    add.add_argument("--force", action="store_true", help="also while pods run there: they end")
    add.set_defaults(run=_remove, interrupted="the same command goes on where it was")


async def _add(args: argparse.Namespace, out: Output) -> int:
    config = _local(args)
    provider, since = LocalProvider(config.host_socket), time.time()
    name = await provider.add_machine(args.name, zone=args.zone)
    config = load_cluster(args.base)
    try:
        with out.step(f"machine {name} booted"):
            await provider.start(name)
        fix = f"sk8 machine remove {name} --force takes it away again"
        await wait_ready(config, out, args.timeout, [name], since, fix=fix)
    except asyncio.CancelledError as e:
        fix = f"sk8 machine start {name} boots it if it is off; sk8 machine remove {name} takes it away again"
        raise CommandError(f"interrupted; machine {name} is made", fix) from e
    spec = config.spec(name)
    out.say(f"The cluster has {len(config.machines)} machines; node {name} is Ready.")
    if args.output == "json":
        out.result(json.dumps({"name": name, "address": spec.ip, "zone": spec.zone}))
    return 0


async def _remove(args: argparse.Namespace, out: Output) -> int:
    config = _local(args)
    without_worker(config, args.name)  # refused before anything is done
    api, provider = AdminApi(config), LocalProvider(config.host_socket)
    await provider.need("workers")
    if not args.force:
        _need_drained(args.name, (await api.get(f"/api/v1/pods?fieldSelector=spec.nodeName={args.name}"))["items"])
    with out.step(f"machine {args.name} is off"):
        await provider.stop(args.name)
    with out.step(f"machine {args.name} is no more"):  # in this order: said again, it goes on where it was
        await api.delete(f"/api/v1/nodes/{args.name}")
        await provider.remove_machine(args.name)
    return 0


def _need_drained(machine: str, pods: list[dict[str, Any]]) -> None:
    """Raises CommandError when pods run there that `sk8 node drain` would move."""
    left = [f"{p['metadata']['namespace']}/{p['metadata']['name']}" for p in pods if _would_move(p)]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise CommandError(
            f"pods run on {machine}: {', '.join(left[:3])}{more}",
            f"sk8 node drain {machine} --ignore-daemonsets --delete-emptydir-data moves them; --force ends them",
        )


def _would_move(pod: dict[str, Any]) -> bool:
    meta = pod["metadata"]
    stays = any(o.get("controller") and o.get("kind") in ("DaemonSet", "Node") for o in meta.get("ownerReferences", []))
    return not stays and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _local(args: argparse.Namespace) -> ClusterConfig:
    config = existing(args.base)
    if config.provider != "local":
        fix = "sk8 join on a new machine; sk8 reset on the one that goes, and sk8 machine forget"
        raise CommandError("the machines of this cluster are not made by sk8", fix)
    return config
