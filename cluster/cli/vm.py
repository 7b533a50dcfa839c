"""`sk8 init` and `sk8 join`: the machine they run on becomes the first, or another, of a cluster of VMs.

IO; both are idempotent, as `ray up` says them again at each of its runs. What keeps the machine is the systemd unit
sk8-machine, here and after each boot. Named after kubeadm's commands, and close to what they do.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import pwd
import secrets
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from cluster.cli import settings, units
from cluster.cli.addons import ensure_pause_image
from cluster.cli.api import AdminApi
from cluster.cli.output import CommandError, Output
from cluster.machine import joining
from cluster.machine.config import ClusterConfig, MachineSpec, load_cluster, save_cluster
from cluster.machine.config_json import ConfigError
from cluster.machine.files import make_private_dir, write_atomic
from cluster.machine.identity import Authority
from cluster.machine.join_ledger import JoinLedger, Ticket, ca_pin
from cluster.machine.machine_config import DEFAULT_ZONE, only_machine

JOIN_PATIENCE_S = 300.0


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    text = "make this machine the first of a cluster of VMs (ray up does it)"
    add = commands.add_parser("init", parents=[common, _own()], help=text, description=text)
    add.add_argument(
        "--control-planes",
        default="",
        metavar="NAME=IP,...",
        help="1, 3 or 5 machines, this one first; the others join by themselves (only this one)",
    )
    add.add_argument("--config", type=Path, metavar="FILE", help="YAML of settings, such as `profile: kubernetes`")
    add.add_argument("--node-cidr", default="", metavar="CIDR", help="the network of all machines (this one's link)")
    add.add_argument(
        "--cni", default="vxlan", metavar="NAME", help="the pod network: vxlan (default), routes, bgp, conflist"
    )
    add.add_argument("--join-file", type=Path, metavar="FILE", help="write there what others join with; a secret")
    add.add_argument("--owner", default="", metavar="USER", help="whose the file is")
    add.add_argument("--timeout", type=float, default=300.0, metavar="S", help="how long to wait for the API (300)")
    add.set_defaults(run=_init)
    text = "make this machine another one of a cluster of VMs (ray up does it)"
    add = commands.add_parser("join", parents=[common, _own()], help=text, description=text)
    add.add_argument("--join-file", type=Path, required=True, metavar="FILE", help="what sk8 init or sk8 token wrote")
    add.add_argument("--timeout", type=float, default=JOIN_PATIENCE_S, metavar="S", help="how long to try (300)")
    add.set_defaults(run=_join)


def _own() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--name", default="", metavar="NAME", help="the node's name (the host name)")
    parser.add_argument("--address", default="", metavar="IP", help="(that of the default route)")
    parser.add_argument("--zone", default="", metavar="ZONE", help="the failure zone it is in")
    return parser


# -- init ------------------------------------------------------------------------------------------------------------
async def _init(args: argparse.Namespace, out: Output) -> int:
    need_root()
    config = _existing(args.base)
    if config is None:
        config = await asyncio.to_thread(_new, args)
        await ensure_pause_image(config)
        with out.step("made the certificate authority and this machine's configuration"):
            await asyncio.to_thread(_create, config)
    if args.join_file is not None:
        await asyncio.to_thread(_write_ticket, config, args.join_file, args.owner)
    with out.step("sk8-machine runs"):
        await asyncio.to_thread(units.start, units.MACHINE)
    await _wait_for_api(config, out, args.timeout)
    return 0


def _new(args: argparse.Namespace) -> ClusterConfig:
    ip, network = own_address(args.address)
    name = args.name or host_name()
    planes = _planes(args.control_planes) or [MachineSpec(name, ip, True)]
    with settings.can_work():
        if planes[0].ip != ip:
            raise ConfigError(f"control planes: the first is {planes[0].ip}, but this machine is {ip}")
        planes[0] = replace(planes[0], zone=args.zone or DEFAULT_ZONE)
        chosen = settings.capacity(1) | {"node_cidr": args.node_cidr or network, "cni": args.cni}
        chosen |= {"ray_head": planes[0].name}
        chosen |= settings.read(args.config) | {"base_dir": str(args.base.resolve())}
        cluster_id = secrets.token_hex(8)
        return settings.checked(ClusterConfig(machines=tuple(planes), provider="vm", cluster_id=cluster_id, **chosen))


def _planes(text: str) -> list[MachineSpec]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    wrong = [name for name, _, ip in pairs if not ip]
    if wrong:
        raise CommandError(f"--control-planes: {wrong[0]!r}: must be NAME=IP", "such as cp1=10.0.0.11,cp2=10.0.1.11")
    return [MachineSpec(name, ip, True) for name, _, ip in pairs]


def _create(config: ClusterConfig) -> None:
    """cluster.json comes last: without it nothing of this is a cluster, and the next `sk8 init` begins again."""
    make_private_dir(config.base)
    authority = Authority(config)
    authority.create()
    head = config.first_machine(config.ray_head)
    authority.provision(head)
    authority.admit_itself(head)
    JoinLedger(config).invite_founders(head.name)
    save_cluster(config)


def _write_ticket(config: ClusterConfig, path: Path, owner: str) -> None:
    """The ticket stays the same while there is one: `ray up` compares the files that it carries to the others."""
    if path.exists():
        return
    write_ticket(config, JoinLedger(config).add_token(), path, owner)


def write_ticket(config: ClusterConfig, token: str, path: Path, owner: str = "") -> None:
    own = config.spec(only_machine(config.base_dir))
    ticket = Ticket(f"{own.ip}:{config.join_port}", token, ca_pin((config.pki / "ca.crt").read_bytes()))
    write_atomic(path, ticket.to_json())
    if owner:
        user = pwd.getpwnam(owner)
        os.chown(path, user.pw_uid, user.pw_gid)


async def _wait_for_api(config: ClusterConfig, out: Output, timeout_s: float) -> None:
    """With several control planes the API needs a majority of them, and those join after this has ended."""
    if len(config.control_planes) > 1:
        out.say(f"The API answers once a majority of {len(config.control_planes)} control planes have joined.")
        return
    api, deadline = AdminApi(config), time.monotonic() + timeout_s
    with out.step("Ray, the store and the API server"):
        while not await api.ready():
            if time.monotonic() > deadline:
                raise CommandError("the API is not ready, and the time is up", f"journalctl -u {units.MACHINE}")
            await asyncio.sleep(0.2)


# -- join ------------------------------------------------------------------------------------------------------------
async def _join(args: argparse.Namespace, out: Output) -> int:
    need_root()
    config = _existing(args.base)
    if config is None:
        config = await _become_member(args, out)
    args.join_file.unlink(missing_ok=True)  # a worker has no use for it any more, and it is a secret
    await ensure_pause_image(config)
    with out.step("sk8-machine runs"):
        await asyncio.to_thread(units.start, units.MACHINE)
    return 0


async def _become_member(args: argparse.Namespace, out: Output) -> ClusterConfig:
    try:
        ticket = Ticket.from_json(args.join_file.read_bytes())
    except (OSError, ValueError) as e:
        raise CommandError(
            f"{args.join_file} is no join file: {e}", "sk8 token create on a control plane writes one"
        ) from e
    ip, _ = own_address(args.address)
    joiner = joining.Joiner(args.name or host_name(), ip, args.zone, args.base.resolve(), settings.capacity(1))
    deadline = time.monotonic() + args.timeout
    with out.step(f"joined the cluster of {ticket.endpoint}") as step:
        while True:
            try:
                machine = await joining.join(ticket, joiner)
                break
            except joining.JoinRefused as e:
                raise CommandError(f"{ticket.endpoint} refuses: {e}") from e
            except (OSError, TimeoutError) as e:
                step.update(f"{e}")
                if time.monotonic() > deadline:
                    why = f"{ticket.endpoint} does not answer: {e}"
                    raise CommandError(why, "is the port open to this machine, and the control plane up?") from e
            await asyncio.sleep(1)
        step.update(f"as {machine.name}, a {'control plane' if machine.control_plane else 'worker'}")
    return load_cluster(args.base)


# -- both ------------------------------------------------------------------------------------------------------------
def need_root() -> None:
    if os.geteuid() != 0:
        raise CommandError("this needs root", "run it as root (sudo)")


def _existing(base: Path) -> ClusterConfig | None:
    try:
        config = load_cluster(base)
    except FileNotFoundError:
        return None
    if config.provider == "local":
        raise CommandError(f"{base} holds a cluster of local machines", "sk8 down removes it")
    return config


def host_name() -> str:
    return socket.gethostname().partition(".")[0].lower()


def own_address(wanted: str) -> tuple[str, str]:
    """(address, its network) of this machine: `wanted`, or what it speaks to others from. Raises CommandError."""
    ip = wanted or _speaks_from()
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and address.address == ip:
                return ip, str(ipaddress.ip_network(f"{ip}/{address.netmask}", strict=False))
    raise CommandError(f"{ip or 'no address'} is not an address of this machine", "choose one with --address IP")


def _speaks_from() -> str:
    """The source address of the default route; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])
