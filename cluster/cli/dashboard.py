"""`sk8 dashboard`: prints an address that shows the cluster in a browser, and serves it until it is ended. IO."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from cluster.cli.api import AdminApi
from cluster.cli.clusters import existing
from cluster.cli.output import CommandError, Output

HOURS = 12


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    text = "show the cluster in a browser: machines, pods, logs, events, health"
    about = f"{text}. Prints an address with a token that is good until Ctrl-C, {HOURS} hours at most."
    add = commands.add_parser("dashboard", parents=[common], help=text, description=about)
    add.add_argument("--port", type=int, default=0, metavar="PORT", help="of 127.0.0.1 to listen on (a free one)")
    add.add_argument("--as", dest="user", default="", metavar="USER", help="see what this user may see")
    add.add_argument(
        "--as-group", dest="groups", action="append", default=[], metavar="GROUP", help="and of this group"
    )
    add.set_defaults(run=_dashboard)


async def _dashboard(args: argparse.Namespace, out: Output) -> int:
    from cluster.cli.dashboard_proxy import DashboardProxy  # brings much of the API server's code

    config = existing(args.base)
    api = AdminApi(config)
    if not await api.ready():
        raise CommandError("the API server does not answer", "sk8 status shows what is wrong")
    if args.groups and not args.user:
        raise CommandError("--as-group needs --as", "--as USER names the user", code=2)
    impersonate = [("Impersonate-User", args.user)] if args.user else []
    impersonate += [("Impersonate-Group", group) for group in args.groups]
    tls = await asyncio.to_thread(api.context)
    proxy = DashboardProxy(f"https://127.0.0.1:{config.api_port}", tls, impersonate, valid_s=HOURS * 3600.0)
    try:
        async with proxy.serve(args.port) as port:
            out.say(f"  open this address; Ctrl-C ends it (from elsewhere: ssh -L {port}:127.0.0.1:{port} HOST)")
            out.result(proxy.address(port))
            await asyncio.sleep(HOURS * 3600)
    except OSError as e:
        raise CommandError(
            f"cannot listen on 127.0.0.1:{args.port}: {e.strerror or e}", "--port 0 takes a free one"
        ) from e
    except asyncio.CancelledError:
        return 0
    return 0
