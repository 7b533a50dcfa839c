"""`sk8 trace POD`: asks everybody who remembers something of a pod's way, and prints it as one timeline. IO."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from cluster.cli.api import AdminApi, ApiUnavailable
from cluster.cli.clusters import existing
from cluster.cli.explain import ask
from cluster.cli.output import CommandError, Output
from cluster.cli.store_history import History, history
from cluster.cli.trace_tell import Facts, as_json, render
from cluster.machine.config import ClusterConfig

Obj = dict[str, Any]
_SYNCED = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"


def add_command(commands: Any, common: argparse.ArgumentParser, listing: argparse.ArgumentParser) -> None:
    text = "the timeline of a pod: asked for, stored, scheduled, started, ready, reached"
    add = commands.add_parser("trace", parents=[common, listing], help=text, description=text)
    add.add_argument("pod", metavar="POD", help="its name")
    add.add_argument("-n", "--namespace", default="default", metavar="NAMESPACE", help="(default)")
    add.set_defaults(run=_trace)


async def _trace(args: argparse.Namespace, out: Output) -> int:
    with out.waiting("asking store, scheduler, kubelet and proxies"):
        facts = await gather(existing(args.base), args.namespace, args.pod)
    out.result(json.dumps(as_json(facts), indent=2) if args.output == "json" else render(facts))
    return 0


async def gather(config: ClusterConfig, namespace: str, name: str) -> Facts:
    """Raises CommandError when there is no such pod; who else is silent is named in the facts."""
    api = AdminApi(config)
    scope = f"/api/v1/namespaces/{namespace}"
    name = name.removeprefix("pod/")
    fix = f"kubectl get pods -n {namespace} shows which there are; -n names another namespace"
    if "/" in name:
        raise CommandError(f"{name} is no name of a pod", fix)
    try:
        pod = await api.get(f"{scope}/pods/{name}")
    except ApiUnavailable as e:
        if " 404 " in str(e):
            raise CommandError(f'pods "{name}" not found', fix) from e
        raise CommandError(str(e), "sk8 status shows what is wrong") from e
    silent: dict[str, str] = {}

    async def asked(who: str, what: Any, otherwise: Any) -> Any:
        try:
            return await what
        except (ApiUnavailable, CommandError) as e:
            silent[who] = str(e)
            return otherwise

    node = pod["spec"].get("nodeName")
    found = await asyncio.gather(
        asked("Events", _items(api, f"{scope}/events"), []),
        asked("owners", _owners(api, pod), []),
        asked("EndpointSlices", _items(api, f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"), []),
        asked("the store", history(config, "pods", namespace, name), History()),
        asked(f"the kubelet of {node}", _story(api, node, pod), []),
        asked("the scheduler", _decisions(config, pod), []),
    )
    events, owners, slices, kept, story, decisions = found
    about = {pod["metadata"]["uid"], *(owner["metadata"]["uid"] for owner in owners)}
    events = [e for e in events if e["involvedObject"].get("uid") in about]
    return Facts(
        pod, events, owners, slices, kept.created, kept.versions, story, decisions,
        await asked("the proxies", _synced(api), {}), silent,
    )  # fmt: skip


async def _items(api: AdminApi, path: str) -> list[Obj]:
    return list((await api.get(path))["items"])


async def _owners(api: AdminApi, obj: Obj) -> list[Obj]:
    """What made the pod, and what made that: the outermost first."""
    found: list[Obj] = []
    while True:
        owner = next((o for o in obj["metadata"].get("ownerReferences") or () if o.get("controller")), None)
        if owner is None:
            return found
        group = owner["apiVersion"]
        prefix = f"/apis/{group}" if "/" in group else f"/api/{group}"
        namespace = obj["metadata"]["namespace"]
        obj = await api.get(f"{prefix}/namespaces/{namespace}/{owner['kind'].lower()}s/{owner['name']}")
        found.insert(0, obj)


async def _story(api: AdminApi, node: str | None, pod: Obj) -> list[Obj]:
    if not node:
        return []
    meta = pod["metadata"]
    told = await api.get(f"/api/v1/nodes/{node}/proxy/podstory/{meta['namespace']}/{meta['name']}")
    return list(told["steps"]) if told["uid"] == meta["uid"] else []


async def _decisions(config: ClusterConfig, pod: Obj) -> list[Obj]:
    meta = pod["metadata"]
    found = await ask(config, meta["namespace"], meta["name"], now=False)
    return [one for one in found["decisions"] if one["uid"] == meta["uid"]]


async def _synced(api: AdminApi) -> dict[str, float]:
    found = {}
    for node in await api.nodes():
        page = await api.text(f"/api/v1/nodes/{node}/proxy/metrics/parts/proxy")
        for line in page.splitlines():
            if line.startswith(f"{_SYNCED} "):
                found[node] = float(line.split()[1])
    return found
