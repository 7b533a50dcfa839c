"""`sk8 top`: what machines and pods use now, the hungriest first. IO: the API (metrics.k8s.io, nodes, pods).

What uses how much is measured by kubelets when somebody asks (they keep it for 5 s), so there is nothing to watch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from typing import Any

from cluster.api.meta import is_true
from cluster.api.quantity import parse_quantity
from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.clusters import existing
from cluster.cli.live import add_watch, show
from cluster.cli.output import CommandError, Output, table

Obj = dict[str, Any]
_METRICS = "/apis/metrics.k8s.io/v1beta1"
_KEPT_S = 5.0
_OVER = ("Succeeded", "Failed")


def add_command(commands: Any, common: argparse.ArgumentParser, listing: argparse.ArgumentParser) -> None:
    text = "CPU and memory of machines and of the pods that use most"
    add = commands.add_parser("top", parents=[common, listing], help=text, description=text)
    add.add_argument("--pods", type=int, default=10, metavar="N", help="how many pods to show (10); 0 shows all")
    add.add_argument("--sort-by", choices=("cpu", "memory"), default="cpu", help="which pods come first (cpu)")
    add_watch(add, _KEPT_S)
    add.set_defaults(run=_top)


async def _top(args: argparse.Namespace, out: Output) -> int:
    api = AdminApi(existing(args.base))

    async def draw() -> tuple[str, int]:
        try:
            found = await look(api)
        except ApiUnavailable as e:
            raise CommandError(str(e), "sk8 status shows what is wrong") from e
        if args.output == "json":
            return json.dumps(found, indent=2), 0
        return render(found, most=args.pods, by=args.sort_by), 0

    return await show(out, draw, args)


async def look(api: AdminApi) -> Obj:
    paths = ("/api/v1/nodes", "/api/v1/pods", f"{_METRICS}/nodes", f"{_METRICS}/pods")
    nodes, pods, node_use, pod_use = await asyncio.gather(*(api.get(path) for path in paths))
    return joined(nodes["items"], pods["items"], node_use["items"], pod_use["items"])


def joined(nodes: list[Obj], pods: list[Obj], node_use: list[Obj], pod_use: list[Obj]) -> Obj:
    """{"machines": [...], "pods": [...]} with CPU in cores and memory in bytes; None where nobody measured. Pure."""
    used = {m["metadata"]["name"]: _usage(m["usage"]) for m in node_use}
    on: dict[str, int] = defaultdict(int)
    for pod in pods:
        if pod.get("status", {}).get("phase") not in _OVER:
            on[pod["spec"].get("nodeName", "")] += 1
    machines = [_machine(node, used.get(node["metadata"]["name"]), on[node["metadata"]["name"]]) for node in nodes]
    by_pod = {(p["metadata"]["namespace"], p["metadata"]["name"]): p for p in pods}
    shown = [_pod(m, by_pod[key]) for m in pod_use if (key := _key(m)) in by_pod]
    return {"machines": machines, "pods": shown}


def _key(obj: Obj) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _usage(usage: Obj) -> tuple[float, float]:
    return float(parse_quantity(usage["cpu"])), float(parse_quantity(usage["memory"]))


def _machine(node: Obj, used: tuple[float, float] | None, pods: int) -> Obj:
    has = node.get("status", {}).get("allocatable") or {}
    ready = is_true(node, "Ready")
    return {
        "name": node["metadata"]["name"],
        "ready": ready,
        "cpu_cores": used[0] if used else None,
        "cpu_allocatable_cores": float(parse_quantity(has.get("cpu", 0))),
        "memory_bytes": int(used[1]) if used else None,
        "memory_allocatable_bytes": int(parse_quantity(has.get("memory", 0))),
        "pods": pods,
        "pods_allocatable": int(parse_quantity(has.get("pods", 0))),
    }


def _pod(measured: Obj, pod: Obj) -> Obj:
    used = [_usage(c["usage"]) for c in measured["containers"]]
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return {
        "namespace": pod["metadata"]["namespace"],
        "name": pod["metadata"]["name"],
        "machine": pod["spec"].get("nodeName", ""),
        "cpu_cores": sum(cpu for cpu, _ in used),
        "memory_bytes": int(sum(memory for _, memory in used)),
        "restarts": sum(c.get("restartCount", 0) for c in statuses),
    }


# ---- what is printed; pure


def render(found: Obj, *, most: int, by: str) -> str:
    key = {"cpu": "cpu_cores", "memory": "memory_bytes"}[by]
    pods = sorted(found["pods"], key=lambda p: -p[key])
    shown = pods[:most] if most else pods
    columns = ("machine", "state", "cpu", "cpu%", "memory", "memory%", "pods")
    parts = [table(columns, [_machine_row(m) for m in sorted(found["machines"], key=lambda m: str(m["name"]))])]
    parts.append(table(("namespace", "pod", "machine", "cpu", "memory", "restarts"), [_pod_row(p) for p in shown]))
    if len(shown) < len(pods):
        parts[-1] += f"\n({len(pods) - len(shown)} more; --pods 0 shows all)"
    return "\n\n".join(parts)


def _machine_row(m: Obj) -> tuple[str, ...]:
    pods = f"{m['pods']}/{m['pods_allocatable']}"
    state = "Ready" if m["ready"] else "NotReady"
    if m["cpu_cores"] is None:
        return m["name"], state, "unknown", "", "unknown", "", pods
    return (
        m["name"], state, _cores(m["cpu_cores"]), _share(m["cpu_cores"], m["cpu_allocatable_cores"]),
        _size(m["memory_bytes"]), _share(m["memory_bytes"], m["memory_allocatable_bytes"]), pods,
    )  # fmt: skip


def _pod_row(p: Obj) -> tuple[str, ...]:
    use = (_cores(p["cpu_cores"]), _size(p["memory_bytes"]), str(p["restarts"]))
    return (p["namespace"], p["name"], p["machine"], *use)


def _cores(cores: float) -> str:
    """As kubectl top: millicores."""
    return f"{cores * 1000:.0f}m"


def _size(count: float) -> str:
    return f"{count / 2**20:.0f}Mi"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%" if whole else ""
