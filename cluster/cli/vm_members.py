"""Machines of a cluster of VMs that come and go: `sk8 reset`, `sk8 token create`, `sk8 machine forget`. IO."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.api import forgotten
from cluster.api.duration import parse_duration
from cluster.api.meta import rfc3339
from cluster.cli import units
from cluster.cli.api import AdminApi
from cluster.cli.clusters import existing
from cluster.cli.output import CommandError, Output
from cluster.cli.vm import need_root, write_ticket
from cluster.cloud import cleanup
from cluster.cloud.engine import Engine
from cluster.machine.config import ClusterConfig, load_cluster
from cluster.machine.config_json import ConfigError
from cluster.machine.join_ledger import JoinLedger
from cluster.machine.pki import LEAF_DAYS

LINKS = ("sk8-dns", "sk8-lb", "sk8-vxlan")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    text = "take this machine out of its cluster of VMs: stop it, and remove all that sk8 made on it (ray down does it)"
    add = commands.add_parser("reset", parents=[common], help=text, description=text)
    add.set_defaults(run=_reset)
    token = commands.add_parser("token", help="what machines join a cluster of VMs with")
    verbs = token.add_subparsers(title="commands", required=True, metavar="COMMAND")
    text = "write a new join file, for sk8 join on another machine"
    add = verbs.add_parser("create", parents=[common], help=text, description=text)
    add.add_argument("--join-file", type=Path, required=True, metavar="FILE", help="where; it is a secret")
    add.add_argument("--ttl", default="24h", metavar="TIME", help="how long it is good, 0 for ever (24h)")
    add.add_argument("--control-plane", default="", metavar="NAME", help="a control plane whose disk was replaced")
    add.set_defaults(run=_token)


def add_forget(verbs: Any, common: argparse.ArgumentParser) -> None:
    text = "delete the node of a machine that is gone for good, by name or address; its name is free again"
    add = verbs.add_parser("forget", parents=[common], help=text, description=text)
    add.add_argument("name", metavar="NAME", help="the node's name, or its address")
    add.set_defaults(run=_forget)


# -- reset -----------------------------------------------------------------------------------------------------------
async def _reset(args: argparse.Namespace, out: Output) -> int:
    need_root()
    config = _config(args.base)
    with out.step("sk8-machine and its actors stopped"):
        for unit in (units.AUTOSCALERS, units.MACHINE):
            await asyncio.to_thread(units.stop, unit)
    engine = Engine(config.engine_socket)
    if not await engine.answers():
        text = "no container engine answers: what ran in containers is ended; they stay in its list."
        out.warn(text, "sk8 reset again once it runs")
    with out.step("containers, links, mounts and tables removed"):
        stayed = await cleanup.remove(config, engine)
        await asyncio.to_thread(_remove_network, config)
    await asyncio.to_thread(cleanup.remove_files, config, keep_data=False)
    if words := stayed.words():
        raise CommandError(f"all is gone but {', '.join(words)}", "restart the container engine, then sk8 reset again")
    out.say("This machine belongs to no cluster any more.")
    return 0


def _config(base: Path) -> ClusterConfig:
    try:
        config = load_cluster(base)
    except (FileNotFoundError, ConfigError):
        return ClusterConfig.local(base_dir=str(base.resolve()))  # what is left of a damaged one must go, too
    if config.provider == "local":
        raise CommandError(f"{base} holds a cluster of local machines", "sk8 down removes it")
    return config


def _remove_network(config: ClusterConfig) -> None:
    """Links of ours, and the routes to other machines' pods; a pod's own link went with its container."""
    for link in LINKS:
        subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True, timeout=30)
    for network in (config.pod_cidr, config.service_cidr):
        subprocess.run(["ip", "route", "flush", "root", network], check=False, capture_output=True, timeout=30)


# -- tokens and names ------------------------------------------------------------------------------------------------
async def _token(args: argparse.Namespace, out: Output) -> int:
    need_root()
    config = _vms(args.base)
    ledger = JoinLedger(config)
    if args.control_plane:
        ledger.invite(args.control_plane)
    seconds = 0.0 if args.ttl == "0" else parse_duration(args.ttl)
    write_ticket(config, ledger.add_token(time.time() + seconds if seconds else 0.0), args.join_file)
    out.say(f"{args.join_file}: copy it to the machine, and say there: sk8 join --join-file FILE")
    return 0


async def _forget(args: argparse.Namespace, out: Output) -> int:
    config = _vms(args.base)
    api = AdminApi(config)
    items = (await api.get("/api/v1/nodes")).get("items", [])
    nodes = [i["metadata"]["name"] for i in items if args.name in (i["metadata"]["name"], *_addresses(i))]
    ledger = JoinLedger(config)
    kept = [name for name, address in ledger.machines().items() if args.name in (name, address)]
    names = list(dict.fromkeys((*nodes, *kept)))  # a node may have been deleted before its machine is forgotten
    planes = {m.name for m in config.control_planes} & set(names)
    if planes:
        raise CommandError(f"{', '.join(planes)} is a control plane of the configuration", "it may come back as it is")
    if names:
        await _mark(api, names)
    for name in names:
        if name in nodes:
            await api.delete(f"/api/v1/nodes/{name}")
        ledger.forget(name)
        out.say(f"node {name} is deleted" if name in nodes else f"the name {name} is free again; it had no node")
    if not names:
        out.say(f"there is no node {args.name}, and no machine joined as that")
    return 0


async def _mark(api: AdminApi, names: Sequence[str]) -> None:
    """The certificates that they have now open no API server any more, and no control plane renews them."""
    maps, now = f"/api/v1/namespaces/{forgotten.NAMESPACE}/configmaps", time.time()
    await api.create(maps, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": forgotten.NAME}})
    marks = await api.get(f"{maps}/{forgotten.NAME}")
    ended = dict.fromkeys(forgotten.outlived(marks, now, LEAF_DAYS * 86400.0))
    await api.merge(f"{maps}/{forgotten.NAME}", {"data": ended | dict.fromkeys(names, rfc3339(now))})


def _addresses(node: dict[str, Any]) -> list[str]:
    return [a["address"] for a in node.get("status", {}).get("addresses", [])]


def _vms(base: Path) -> ClusterConfig:
    config = existing(base)
    if config.provider == "local" or not (config.pki / "ca.key").exists():
        raise CommandError("this is not a control plane of a cluster of VMs", "say it on one, as root")
    return config
