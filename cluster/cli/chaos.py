"""`sk8 chaos`: breaks a running local cluster on purpose and says whether it kept its promises. IO.

The names of faults and scenarios are `cluster/chaos/plan.py`'s; what is checked is in `cluster/chaos/judge.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import ssl
import time
from pathlib import Path
from typing import Any

from cluster.api.errors import ApiError
from cluster.chaos import report as reports
from cluster.chaos.faults import Breaker
from cluster.chaos.plan import NETEM_KINDS, Place, UnknownScenario, scenarios
from cluster.chaos.run import Chaos, Options
from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.chaos_publish import publish
from cluster.cli.clusters import admin_http, existing
from cluster.cli.output import CommandError, Output, table
from cluster.cli.store import store_status
from cluster.cloud.engine import Engine
from cluster.cloud.local import LocalProvider
from cluster.machine.config import ClusterConfig
from cluster.machine.head import newest
from cluster.machinery.provider import ProviderError
from cluster.node.container_labels import LABEL_CONTAINER, LABEL_NAMESPACE, LABEL_POD

_LEASED = ("kube-scheduler", "kube-controller-manager")


def add_commands(commands: Any, common: argparse.ArgumentParser, listing: argparse.ArgumentParser) -> None:
    chaos = commands.add_parser("chaos", help="break the cluster on purpose and check what it promises")
    verbs = chaos.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add = verbs.add_parser("list", parents=[common, listing], help="the scenarios")
    add.set_defaults(run=_list)
    text = "run one scenario under load and judge it"
    add = verbs.add_parser("run", parents=[common, listing], help=text, description=text)
    defaults = Options("", 0)
    add.add_argument("scenario", metavar="SCENARIO", help="one of `sk8 chaos list`")
    add.add_argument("--seed", type=int, metavar="N", help="the same seed draws the same faults (random)")
    add.add_argument("--faults", type=int, default=defaults.faults, metavar="N", help="end after so many (%(default)s)")
    text = "and once each kind came so often; a soup draws every kind in turn (%(default)s)"
    add.add_argument("--each", type=int, default=defaults.each, metavar="N", help=text)
    add.add_argument(
        "--minutes",
        type=float,
        default=defaults.minutes,
        metavar="M",
        help="but after so long in any case (%(default)s)",
    )
    add.add_argument("--without", default="", metavar="KINDS", help="kinds of faults to leave out, by commas")
    for name in ("writes", "requests", "transfers"):
        rate = getattr(defaults, f"{name}_per_s")
        add.add_argument(f"--{name}-per-s", type=float, default=rate, metavar="R", help=f"{name} offered ({rate:g}/s)")
    add.add_argument("--report", type=Path, metavar="DIR", help="where to put report.json and report.html")
    add.set_defaults(run=_run)


async def _list(args: argparse.Namespace, out: Output) -> int:
    if args.output == "json":
        out.result(json.dumps(scenarios(), indent=2))
        return 0
    out.result(table(("scenario", "what it does"), list(scenarios().items())))
    return 0


async def _run(args: argparse.Namespace, out: Output) -> int:
    config = existing(args.base)
    seed = args.seed if args.seed is not None else random.randrange(1 << 31)
    without = tuple(filter(None, args.without.split(",")))
    options = Options(
        args.scenario, seed, args.faults, args.each, args.minutes, without, args.writes_per_s, args.requests_per_s,
        args.transfers_per_s,
    )  # fmt: skip
    watcher = ClusterWatcher(config)
    breaker = Breaker(config, watcher.leader, lambda: newest(config).machine, config.run / "engine.log")
    machines, planes = [m.name for m in config.machines], [m.name for m in config.control_planes]
    netem = await breaker.netem_refusal()
    place = Place(tuple(machines), tuple(planes), dict.fromkeys(NETEM_KINDS, netem) if netem else {})
    out.say(f"  scenario {options.scenario}, seed {seed}: sk8 chaos run {options.scenario} --seed {seed} repeats it")
    addresses = {m.name: m.ip for m in config.machines}
    try:
        chaos = Chaos(options, place, addresses, breaker, watcher, lambda text: out.say(f"  {text}"))
        found = await chaos.run(f"https://127.0.0.1:{config.api_port}", await asyncio.to_thread(_tls, config))
    except (UnknownScenario, ValueError) as e:
        raise CommandError(str(e), "sk8 chaos list", code=2) from e
    except RuntimeError as e:
        raise CommandError(str(e), "sk8 status; the demo is needed: python3 infra/demo.py") from e
    except TimeoutError as e:
        raise CommandError(str(e) or "a client did not end", "sk8 status shows how the cluster is") from e
    if args.report:
        await asyncio.to_thread(_write, args.report, found, out)
    await _publish(config, found, out)
    out.result(reports.as_json(found) if args.output == "json" else _text(found))
    return 0 if found.held else 1


async def _publish(config: ClusterConfig, found: reports.Report, out: Output) -> None:
    """A cluster that is broken by now takes no report; what the run found is said all the same."""
    try:
        await publish(admin_http(config), found, time.time())
        out.say("  sk8 dashboard shows its timeline under Chaos")
    except ApiError as e:
        out.warn(f"the report is not in the cluster: {e.message}")


def _write(directory: Path, found: reports.Report, out: Output) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(reports.as_json(found))
    (directory / "report.html").write_text(reports.as_html(found))
    out.say(f"  {directory}/report.html")


def _text(found: reports.Report) -> str:
    return f"{table(reports.COLUMNS, reports.rows(found))}\n\n{reports.verdict(found)}"


def _tls(config: ClusterConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(config.pki / "ca.crt"))
    context.load_cert_chain(str(config.pki / "admin.crt"), str(config.pki / "admin.key"))
    return context


class ClusterWatcher:
    """How the cluster looks from this box; fulfils `cluster.chaos.run.Watcher`."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._api = AdminApi(config)
        self._provider = LocalProvider(config.host_socket, timeout_s=20)

    async def missing(self) -> str:
        try:
            off = [m.status.name for m in await self._provider.local_machines() if m.status.state != "running"]
            nodes = await self._api.nodes()
            store = await store_status(self._config)
            deployments = (await self._api.get("/apis/apps/v1/deployments"))["items"]
            held = await self._api.leaders()
        except (ProviderError, ApiUnavailable, FileNotFoundError) as e:
            return str(e)
        lacks = [f"machine {name} is off" for name in off]
        names = [m.name for m in self._config.machines]
        lacks += [f"node {name} is not Ready" for name in names if not nodes.get(name)]
        voters = [m for m in store["members"] if m["answers"] and not m["learner"]]
        if not store["leader"] or len(voters) < len(self._config.control_planes):
            lacks.append(f"{len(voters)} members of the store answer, led by {store['leader'] or 'nobody'}")
        lacks += [f"nobody leads as {lease}" for lease in _LEASED if lease in held and not held[lease]]
        lacks += [f"deployment {d['metadata']['name']} is not available" for d in deployments if not _available(d)]
        return ", ".join(lacks)

    async def leader(self) -> str:
        return str((await store_status(self._config))["leader"])

    async def leaders(self) -> list[tuple[str, int]]:
        members = (await store_status(self._config))["members"]
        return [(m["name"], m["term"]) for m in members if m["role"] == "leader"]

    async def objects(self, path: str) -> list[dict[str, Any]]:
        for _ in range(60):
            try:
                return list((await self._api.get(path))["items"])
            except ApiUnavailable:
                await asyncio.sleep(0.5)
        raise TimeoutError(f"{path} is not answered")

    async def containers(self) -> list[tuple[str, str]]:
        engine, found = Engine(self._config.engine_socket), []
        for spec in self._config.machines:
            for labels in await engine.labels_of_running(self._config.machine(spec.name).container_label):
                pod = f"{labels.get(LABEL_NAMESPACE)}/{labels.get(LABEL_POD)}/{labels.get(LABEL_CONTAINER)}"
                found.append((pod, spec.name))
        return found


def _available(deployment: dict[str, Any]) -> bool:
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    current = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return bool(current and status.get("availableReplicas", 0) == status.get("replicas", 0) == wanted)
