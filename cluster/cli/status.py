"""`sk8 status` and `sk8 machine list`: machines, nodes and leaders as they are now. IO."""

from __future__ import annotations

import json
from typing import Any

from cluster.cli import agent
from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.output import CommandError, Output, table
from cluster.cli.store import NO_STORE, store_status
from cluster.cloud.local import LocalMachine, LocalProvider
from cluster.cloud.machines import living
from cluster.machine.config import ClusterConfig
from cluster.machine.head import newest
from cluster.machinery.provider import ProviderError


async def machines(config: ClusterConfig) -> list[LocalMachine]:
    try:
        return await LocalProvider(config.host_socket, timeout_s=10).local_machines()
    except ProviderError as e:
        raise CommandError(e.message, _way_out(living(config))) from e


def _way_out(alive: list[str]) -> str:
    return "sk8 up starts it again and leaves the machines alone" if alive else "sk8 up starts the cluster"


async def show_machines(config: ClusterConfig, out: Output, *, as_json: bool) -> None:
    rows = [_row(config, m) for m in await machines(config)]
    if as_json:
        out.result(json.dumps(rows, indent=2))
        return
    out.result(table(("name", "state", "address", "role", "pid"), [[str(v) for v in row.values()] for row in rows]))


def _row(config: ClusterConfig, machine: LocalMachine) -> dict[str, Any]:
    head = ",ray-head" if machine.status.name == newest(config).machine else ""
    return {
        "name": machine.status.name,
        "state": machine.status.state,
        "address": ",".join(machine.status.addresses),
        "role": f"{'control-plane' if machine.control_plane else 'worker'}{head}",
        "pid": machine.pid or "",
    }


async def show_status(config: ClusterConfig, out: Output, *, as_json: bool) -> bool:
    """True when every machine is on, every node Ready, and the store has a leader and all its members."""
    agent_answers = await agent.answers(config)
    found = await machines(config) if agent_answers else []
    alive = [] if agent_answers else living(config)
    api = AdminApi(config)
    try:
        nodes, leaders = await api.nodes(), await api.leaders()
        answers = True
    except (ApiUnavailable, FileNotFoundError):
        nodes, leaders, answers = {}, {}, False
    rows = [_row(config, m) | {"node": _node(nodes, m.status.name)} for m in found]
    store = await store_status(config) if rows else dict(NO_STORE)
    healthy = answers and bool(rows) and all(r["state"] == "running" and r["node"] == "Ready" for r in rows)
    healthy = healthy and bool(store["leader"]) and all(m["answers"] for m in store["members"])
    if as_json:
        document = {"healthy": healthy, "api": answers, "machines": rows, "leaders": leaders, "store": store}
        document |= {"host_agent": agent_answers, "unwatched": alive}
        out.result(json.dumps(document, indent=2))
        return healthy
    if not rows:
        how = f"{', '.join(alive)} may well be running" if alive else "no machine runs"
        out.result(f"the host agent does not answer; {how} ({_way_out(alive)})")
        return False
    columns = ("name", "state", "node", "address", "role")
    out.result(table(columns, [[str(row[c]) for c in columns] for row in rows]))
    out.result("")
    out.result(f"API at https://127.0.0.1:{config.api_port}: {'answers' if answers else 'does not answer'}")
    for name, holder in sorted(leaders.items()):
        out.result(f"leader of {name}: {holder}")
    out.result("")
    columns = ("member", "id", "role", "revision", "size")
    out.result(table(columns, [_store_row(member) for member in store["members"]]))
    for alarm in store["alarms"]:
        out.warn(f"the store raised the alarm {alarm}")
    return healthy


def _store_row(member: dict[str, Any]) -> list[str]:
    role = "learner" if member["learner"] else member["role"]
    size = f"{member['db_size_bytes'] / 2**20:.1f} MiB"
    return [member["name"], str(member["id"]), role if member["answers"] else "silent", str(member["revision"]), size]


def _node(nodes: dict[str, bool], name: str) -> str:
    return {True: "Ready", False: "NotReady"}[nodes[name]] if name in nodes else "Unknown"
