"""`sk8 status` and `sk8 machine list`: machines, nodes and leaders as they are now. IO.

The host agent knows the local machines. Of a cluster of VMs the API's Nodes are the machines: whether one is on that is
silent, nobody can tell here. It is looked at from a control plane.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from typing import Any

from cluster.api.meta import is_true
from cluster.api.nodes import internal_ips
from cluster.cli import agent
from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.live import show
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
    if config.provider == "local":
        rows = [_row(config, m) for m in await machines(config)]
    else:
        rows = [vm_row(config, node) for node in (await AdminApi(config).get("/api/v1/nodes"))["items"]]
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


def vm_row(config: ClusterConfig, node: dict[str, Any]) -> dict[str, Any]:
    """As `_row`, by its Node and the configuration of a control plane. Pure but for the head's name on this disk."""
    name = node["metadata"]["name"]
    plane = name in [m.name for m in config.control_planes]
    head = ",ray-head" if name == newest(config).machine else ""
    return {
        "name": name,
        "state": "running" if is_true(node, "Ready") else "unknown",
        "address": ",".join(internal_ips(node)),
        "role": f"{'control-plane' if plane else 'worker'}{head}",
        "pid": "",
    }


async def look(config: ClusterConfig) -> dict[str, Any]:
    """Machines, leaders, store and pods as they are now; "healthy" when every machine is on, every node Ready, and the
    store has a leader and all its members."""
    local = config.provider == "local"
    agent_answers = local and await agent.answers(config)
    found = await machines(config) if agent_answers else []
    api = AdminApi(config)
    try:
        nodes, leaders = (await api.get("/api/v1/nodes"))["items"], await api.leaders()
        pods = pods_by_node((await api.get("/api/v1/pods"))["items"])
        answers = True
    except (ApiUnavailable, FileNotFoundError):
        nodes, leaders, pods, answers = [], {}, {}, False
    ready = {node["metadata"]["name"]: is_true(node, "Ready") for node in nodes}
    rows = [_row(config, m) for m in found] if local else [vm_row(config, node) for node in nodes]
    rows = [row | {"node": _node(ready, row["name"])} for row in rows]
    rows = [row | {"pods": pods.get(row["name"], {"running": 0, "all": 0})} for row in rows]
    store = await store_status(config) if rows or not local else dict(NO_STORE)
    seen = {
        "api": answers,
        "machines": rows,
        "leaders": leaders,
        "store": store,
        "pods_waiting": pods.get("", {}).get("all", 0),
        "host_agent": agent_answers,
        "unwatched": living(config) if local and not agent_answers else [],
    }
    return {"healthy": is_healthy(seen)} | seen


def is_healthy(seen: dict[str, Any], besides: Collection[str] = ()) -> bool:
    """Whether everything is well of what `look` saw, `besides` some machines. Pure."""
    rows, store = seen["machines"], seen["store"]
    machines = bool(rows) and all(is_well(row, store) for row in rows if row["name"] not in besides)
    members = all(m["answers"] for m in store["members"] if m["name"] not in besides)
    return bool(seen["api"]) and machines and bool(store["leader"]) and members


def is_well(row: dict[str, Any], store: dict[str, Any]) -> bool:
    """A machine of `look`: on, Ready, and answering where it is a member of the store. Pure."""
    silent = any(m["name"] == row["name"] and not m["answers"] for m in store["members"])
    return row["state"] == "running" and row["node"] == "Ready" and not silent


def pods_by_node(pods: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """{"running", "all"} of the pods that are not over, by node; "" for those without one. Pure."""
    found: dict[str, dict[str, int]] = {}
    for pod in pods:
        phase = pod.get("status", {}).get("phase", "Pending")
        if phase not in ("Succeeded", "Failed"):
            count = found.setdefault(pod["spec"].get("nodeName", ""), {"running": 0, "all": 0})
            count["all"] += 1
            count["running"] += phase == "Running"
    return found


async def show_status(config: ClusterConfig, out: Output, args: argparse.Namespace) -> int:
    """0, or 3 for a cluster that is not healthy."""

    async def draw() -> tuple[str, int]:
        seen = await look(config)
        text = json.dumps(seen, indent=2) if args.output == "json" else render(config, seen)
        return text, 0 if seen["healthy"] else 3

    return await show(out, draw, args)


def render(config: ClusterConfig, seen: dict[str, Any]) -> str:
    if not seen["machines"] and config.provider == "local":
        alive = seen["unwatched"]
        how = f"{', '.join(alive)} may well be running" if alive else "no machine runs"
        return f"the host agent does not answer; {how} ({_way_out(alive)})"
    columns = ("name", "state", "node", "address", "role", "pods")
    rows = [
        [*(str(row[c]) for c in columns[:-1]), f"{row['pods']['running']}/{row['pods']['all']}"]
        for row in seen["machines"]
    ]
    lines = [table(columns, rows), ""]
    if seen["pods_waiting"]:
        lines.append(f"{seen['pods_waiting']} pods wait for a machine (sk8 explain POD says why)")
    if not seen["machines"]:
        lines = ["the API knows the machines, and it does not answer: journalctl -u sk8-machine", ""]
    lines.append(f"API at https://127.0.0.1:{config.api_port}: {'answers' if seen['api'] else 'does not answer'}")
    lines += [f"leader of {name}: {holder}" for name, holder in sorted(seen["leaders"].items())]
    store = seen["store"]
    columns = ("member", "id", "role", "revision", "behind", "size")
    lines += ["", table(columns, [_store_row(member, store["revision"]) for member in store["members"]])]
    lines += [f"ALARM: the store raised {alarm} (docs/operations.md)" for alarm in store["alarms"]]
    return "\n".join(lines)


def _store_row(member: dict[str, Any], newest: int) -> list[str]:
    behind = str(newest - member["revision"]) if member["answers"] else ""
    role = "learner" if member["learner"] else member["role"]
    size = f"{member['db_size_bytes'] / 2**20:.1f} MiB"
    return [
        member["name"],
        str(member["id"]),
        role if member["answers"] else "silent",
        str(member["revision"]),
        behind,
        size,
    ]


def _node(nodes: dict[str, bool], name: str) -> str:
    return {True: "Ready", False: "NotReady"}[nodes[name]] if name in nodes else "Unknown"
