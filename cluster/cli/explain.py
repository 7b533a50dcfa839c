"""`sk8 explain POD`: which filter refused each node, and what each score gave the others. IO: asks the scheduler."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import aiohttp

from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.output import CommandError, Output, table
from cluster.machine.config import ClusterConfig
from cluster.machine.config_json import ConfigError

Obj = dict[str, Any]
_TIMEOUT_S = 30.0
_LEASE = "kube-scheduler"
_NOTHING = """It has decided nothing about this pod: another scheduler is to place it, or it has its machine already.
  try: kubectl get pod shows spec.schedulerName and spec.nodeName"""


async def explain(
    config: ClusterConfig, out: Output, pod: str, namespace: str, *, now: bool, rows: int, as_json: bool
) -> None:
    """Print it. Raises CommandError when nobody can say."""
    with out.waiting("asking the scheduler"):
        found = await ask(config, namespace, pod, now=now)
    out.result(json.dumps(found, indent=2) if as_json else render(found, now=now, rows=rows))


async def ask(config: ClusterConfig, namespace: str, pod: str, *, now: bool) -> Obj:
    """The leading scheduler's answer."""
    api = AdminApi(config)
    try:
        leader = (await api.leaders()).get(_LEASE, "")
    except ApiUnavailable as e:
        raise CommandError(str(e), "sk8 status shows what is wrong") from e
    try:
        host = config.spec(leader).ip
    except ConfigError as e:
        raise CommandError("no scheduler leads", "sk8 status shows the leaders; try again in some seconds") from e
    url = f"https://{host}:{config.scheduler_port}/explain/{namespace}/{pod}"
    tls = await asyncio.to_thread(api.context)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, params={"now": "1" if now else "0"}, ssl=tls) as response,
        ):
            body: Obj = await response.json()
    except (OSError, aiohttp.ClientError, TimeoutError, ssl.SSLError) as e:
        raise CommandError(f"the scheduler on {leader} does not answer: {e}", "sk8 status shows what is wrong") from e
    if response.status != 200:
        fix = f"kubectl get pods -n {namespace} shows which there are; -n names another namespace"
        raise CommandError(str(body.get("message", body)), fix if response.status == 404 else "")
    return body


# ---- what is printed; pure


def render(found: Obj, *, now: bool, rows: int) -> str:
    """`rows`: nodes shown in full, the best first (0: all); those that were refused alike are counted in one line."""
    parts = [f"Pod {found['pod']}, as scheduler {found['scheduler']} tells it"]
    parts += [_decision(one, rows) for one in ([] if now else found["decisions"])]
    if found["now"] is not None:
        title = "Decided now, it would be:"
        if not now:
            title = "Nothing in detail is remembered (too long ago, a burst, or another scheduler). " + title
        parts.append("\n".join((title, _nodes(found["now"], "", rows))))
    if len(parts) == 1:
        parts.append(_NOTHING)
    return "\n\n".join(parts)


def _decision(one: Obj, rows: int) -> str:
    when = datetime.fromtimestamp(one["at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    what = f"placed on {one['node']}" if one["node"] else f"refused: {one['message']}"
    lines = [f"{when}: {what} (profile {one['schedulerName']})"]
    if one["nodes"] is None:
        lines.append("  its nodes are not remembered: it was one of a burst, or too long ago")
    else:
        if one["alike"] > 1:
            lines.append(f"  decided together with {one['alike'] - 1} pods like it; scores are from before the first")
        lines.append(_nodes(one, one["node"], rows))
    return "\n".join(lines)


def _nodes(seen: Obj, chosen: str, rows: int) -> str:
    weights = seen["weights"]
    fit = sorted((n for n in seen["nodes"] if not n["refused"]), key=lambda n: (-n["total"], n["name"]))
    shown = fit if not rows else fit[:rows] + [n for n in fit[rows:] if n["name"] == chosen]
    header = ("node", *(f"{name}*{weight}" for name, weight in weights.items()), "total")
    lines = [
        (
            n["name"] + (" <-" if n["name"] == chosen else ""),
            *(f"{n['scores'][w]:g}" for w in weights),
            f"{n['total']:g}",
        )
        for n in shown
    ]
    parts = [table(header, lines)] if lines else []
    if len(shown) < len(fit):
        parts.append(f"({len(fit) - len(shown)} more nodes fit; --nodes 0 shows all)")
    refused = [n for n in seen["nodes"] if n["refused"]]
    if refused:
        parts.append(table(("refused", "by", "because"), _refused(refused, rows)))
    return "\n".join(parts) or "there are no nodes"


def _refused(nodes: list[Obj], rows: int) -> list[tuple[str, str, str]]:
    """By node while they are few, else how many of each kind."""

    def words(node: Obj) -> tuple[str, str]:
        by = ", ".join(dict.fromkeys(r["plugin"] for r in node["refused"]))
        return by, ", ".join(r["reason"] for r in node["refused"])

    if not rows or len(nodes) <= rows:
        return [(n["name"], *words(n)) for n in nodes]
    return [(f"{count} nodes", *kind) for kind, count in Counter(map(words, nodes)).most_common()]
