"""The `sk8` command: arguments in, one function of this package called, an exit code out.

Exit codes: 0 done; 1 it failed, with what to do; 2 wrong usage; 3 `sk8 status` of a cluster that is not healthy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from cluster.cli import (
    chaos,
    configure,
    dashboard,
    doctor,
    events,
    hollow,
    image,
    kubeconfig,
    machine,
    node,
    store_commands,
    top,
    trace,
    upgrade,
    vm,
    vm_members,
)
from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.clusters import existing
from cluster.cli.completion import SHELLS, script
from cluster.cli.down import down
from cluster.cli.help import GroupedParser
from cluster.cli.live import add_watch
from cluster.cli.output import CommandError, Output
from cluster.cli.status import show_status
from cluster.cli.up import READY_TIMEOUT_S, UpOptions, up
from cluster.machine.config_json import ConfigError
from cluster.machine.files import Locked
from cluster.machinery.provider import ProviderError

BASE = Path("/var/lib/sk8")
Command = Callable[[argparse.Namespace, Output], Coroutine[Any, Any, int]]


@dataclass(frozen=True, slots=True)
class _Shared:
    """Options that many commands have: where the cluster is; how a listing is printed; how what was done is told."""

    common: argparse.ArgumentParser
    listing: argparse.ArgumentParser
    acting: argparse.ArgumentParser


def parser() -> argparse.ArgumentParser:
    root = GroupedParser(
        prog="sk8", description="sk8 runs containers across machines, the Kubernetes way, on Ray.", allow_abbrev=False
    )
    root.add_argument("--version", action="version", version=_version_text())
    commands = root.add_subparsers(required=False, metavar="COMMAND", parser_class=argparse.ArgumentParser)
    shared = _shared()
    _up_and_down(commands, shared)
    _rooms(commands, shared)
    _others(commands, shared)
    return root


def _shared() -> _Shared:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--base", type=Path, default=BASE, metavar="DIR", help=f"the cluster's directory ({BASE})")
    common.add_argument("-q", "--quiet", action="store_true", help="no progress, results and errors only")
    listing = argparse.ArgumentParser(add_help=False)
    listing.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print (table)")
    acting = argparse.ArgumentParser(add_help=False, parents=[common])
    acting.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how to say what was done (text)"
    )
    return _Shared(common, listing, acting)


def _up_and_down(commands: Any, shared: _Shared) -> None:
    text = "start a cluster on this machine, or start it again"
    add = commands.add_parser("up", parents=[shared.acting], help=text)
    add.add_argument("--machines", type=int, metavar="N", help="how many machines to make (3)")
    add.add_argument("--control-planes", type=int, metavar="N", help="how many of them vote: 1, 3 or 5 (3)")
    add.add_argument(
        "--cni", metavar="NAME", help="the pod network: routes (default), vxlan, bgp, or conflist for plugins"
    )
    text = "fast (default): a silent machine is noticed in 4 s; kubernetes: a stock cluster's times (40 s)"
    add.add_argument("--profile", choices=("fast", "kubernetes"), help=text)
    text = "pods, machines and Services have IPv6 addresses beside those of IPv4"
    add.add_argument("--dual-stack", action="store_true", help=text)
    add.add_argument("--config", type=Path, metavar="FILE", help="YAML of settings (docs/configuration.md)")
    add.add_argument("--timeout", type=float, default=READY_TIMEOUT_S, metavar="S", help="how long to wait (180)")
    text = "sk8 up goes on where it was; sk8 down removes what there is"
    add.set_defaults(run=_up, interrupted=text)
    text = "stop it and remove everything that was made"
    add = commands.add_parser("down", parents=[shared.acting], help=text)
    add.add_argument("--keep-data", action="store_true", help="keep objects, volumes and keys for the next `sk8 up`")
    add.set_defaults(run=_down, interrupted="sk8 down goes on where it was")


def _rooms(commands: Any, shared: _Shared) -> None:
    """Commands that have a module of their own."""
    common, listing, acting = shared.common, shared.listing, shared.acting
    machine.add_commands(commands, acting, common, listing)
    node.add_commands(commands, acting)
    store_commands.add_commands(commands, [common, listing])
    chaos.add_commands(commands, common, listing)
    hollow.add_command(commands, acting)
    vm.add_commands(commands, acting)
    vm_members.add_commands(commands, acting)
    image.add_commands(commands, acting)
    doctor.add_commands(commands, common, listing)
    dashboard.add_command(commands, common)
    upgrade.add_command(commands, acting)
    configure.add_command(commands, acting)
    trace.add_command(commands, common, listing)
    top.add_command(commands, common, listing)
    events.add_command(commands, common, listing)


def _others(commands: Any, shared: _Shared) -> None:
    common, listing = shared.common, shared.listing
    text = "machines, leaders, the store's members, pods, alarms"
    add = commands.add_parser("status", parents=[common, listing], help=text)
    add_watch(add)
    add.set_defaults(run=_status)
    _explain_command(commands, common, listing)
    _bench_command(commands)
    add = commands.add_parser("kubeconfig", parents=[common, listing], help="print a kubeconfig for the administrator")
    add.add_argument("--server", default="", metavar="URL", help="where the API is for its user (this machine)")
    add.set_defaults(run=_kubeconfig)
    add = commands.add_parser("completion", help="print a script that completes sk8's commands: bash, zsh or fish")
    add.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash (source <(sk8 completion bash)), zsh, fish")
    add.set_defaults(run=_completion, quiet=False)
    add = commands.add_parser("version", parents=[listing], help="print the version")
    add.set_defaults(run=_version, quiet=False)
    add = commands.add_parser("host-agent", help="serve the local machines in the foreground (started by `sk8 up`)")
    add.add_argument("--base", type=Path, default=BASE, metavar="DIR", help="the cluster's directory")
    add.set_defaults(serve=True)


def _explain_command(commands: Any, common: argparse.ArgumentParser, listing: argparse.ArgumentParser) -> None:
    text = "why a pod is where it is, or nowhere: per node the filter that refused it, or what each score gave"
    add = commands.add_parser("explain", parents=[common, listing], help=text, description=text)
    add.add_argument("pod", metavar="POD", help="its name")
    add.add_argument("-n", "--namespace", default="default", metavar="NAMESPACE", help="(default)")
    add.add_argument("--now", action="store_true", help="not as it was decided, but as it would be now")
    add.add_argument("--nodes", type=int, default=20, metavar="N", help="show so many nodes; 0 shows all (20)")
    add.set_defaults(run=_explain)


def _bench_command(commands: Any) -> None:
    text = "run one of the checkout's benchmarks, such as schedule, scheduler, schedule_workloads or store"
    add = commands.add_parser("bench", help=text, description=text)
    add.add_argument("name", metavar="NAME", help="which")
    add.add_argument("arguments", nargs=argparse.REMAINDER, help="its own: --smoke, --peer, --json FILE, ...")
    add.set_defaults(run=_bench, quiet=False)


# -- commands --------------------------------------------------------------------------------------------------------
async def _up(args: argparse.Namespace, out: Output) -> int:
    options = UpOptions(
        args.machines,
        args.control_planes,
        args.config,
        args.base,
        args.timeout,
        args.cni,
        args.profile,
        dual_stack=args.dual_stack,
    )
    await up(options, out)
    return 0


async def _down(args: argparse.Namespace, out: Output) -> int:
    await down(args.base, out, keep_data=args.keep_data)
    return 0


async def _status(args: argparse.Namespace, out: Output) -> int:
    return await show_status(existing(args.base), out, args)


async def _bench(args: argparse.Namespace, _: Output) -> int:
    from cluster.cli.bench import bench

    return await asyncio.to_thread(bench, args.name, args.arguments)


async def _explain(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli.explain import explain

    as_json = args.output == "json"
    await explain(existing(args.base), out, args.pod, args.namespace, now=args.now, rows=args.nodes, as_json=as_json)
    return 0


async def _kubeconfig(args: argparse.Namespace, out: Output) -> int:
    access = AdminApi(existing(args.base)).access()
    text = kubeconfig.render(replace(access, server=args.server or access.server))
    out.result(json.dumps(yaml.safe_load(text), indent=2) if args.output == "json" else text.rstrip())
    return 0


async def _completion(args: argparse.Namespace, out: Output) -> int:
    out.result(script(parser(), args.shell).rstrip())
    return 0


async def _version(args: argparse.Namespace, out: Output) -> int:
    text = _version_text()
    out.result(json.dumps({"version": text.removeprefix("sk8 ")}) if args.output == "json" else text)
    return 0


def _version_text() -> str:
    try:
        return f"sk8 {version('sk8-cluster')}"
    except PackageNotFoundError:
        return "sk8 unknown (not installed)"


# -- running ---------------------------------------------------------------------------------------------------------
def main(arguments: Sequence[str] | None = None) -> int:
    root = parser()
    args = root.parse_args(arguments)
    if not hasattr(args, "base") and not hasattr(args, "run"):
        root.print_help()
        return 0
    if getattr(args, "serve", False):
        return _serve(args.base)
    out = Output(quiet=args.quiet)
    code, error = _ended(args, out)
    if error is not None:
        out.error(error)
    if getattr(args, "output", "") == "json" and not out.has_result:
        out.result(out.summary(error))
    return code


def _ended(args: argparse.Namespace, out: Output) -> tuple[int, CommandError | None]:
    """The command's exit code, and why it failed."""
    try:
        command: Command = args.run
        return asyncio.run(command(args, out)), None
    except CommandError as e:
        return e.code, e
    except ConfigError as e:
        return 1, CommandError(str(e))
    except ApiUnavailable as e:
        return 1, CommandError(f"the API does not answer as it should: {e}", "sk8 status")
    except ProviderError as e:
        return 1, CommandError(e.message, "sk8 status shows how the machines are" if e.retriable else "")
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, None
    except PermissionError as e:
        return 1, CommandError(str(e), "run it as root (sudo)")
    except KeyboardInterrupt:
        return 1, CommandError("interrupted", getattr(args, "interrupted", "sk8 status shows how the machines are"))


def _serve(base: Path) -> int:
    from cluster.cloud.host_agent import serve  # its imports cost every other command a third of a second
    from cluster.network.dns_relay import DnsRelay

    try:
        serve(base, lambda config: [DnsRelay(config.host_ip)])
    except (FileNotFoundError, ConfigError, Locked) as e:
        print(f"sk8 host-agent: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
