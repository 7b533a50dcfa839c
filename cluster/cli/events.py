"""`sk8 events`: what the parts of the cluster say about objects, the newest last; with --watch as they come. IO."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.meta import parse_time
from cluster.cli.clusters import admin_http, existing
from cluster.cli.output import CommandError, Output, paint, table
from cluster.machinery.http_client import HttpClient

Obj = dict[str, Any]
_COLUMNS = ("last seen", "type", "reason", "object", "message")
_AGAIN_S = 1.0


def add_command(commands: Any, common: argparse.ArgumentParser, listing: argparse.ArgumentParser) -> None:
    text = "events of all namespaces, the newest last"
    add = commands.add_parser("events", parents=[common, listing], help=text, description=text)
    add.add_argument("-n", "--namespace", default="", metavar="NAMESPACE", help="of this one only")
    add.add_argument("--for", dest="about", default="", metavar="KIND/NAME", help="about this object, as pod/web-1")
    add.add_argument("--warnings", action="store_true", help="warnings only")
    add.add_argument("-w", "--watch", action="store_true", help="go on with what comes, until Ctrl-C")
    add.set_defaults(run=_events)


async def _events(args: argparse.Namespace, out: Output) -> int:
    selector = selector_of(args.about, warnings=args.warnings)
    as_json = args.output == "json"
    try:
        async with HttpClient(admin_http(existing(args.base))) as client:
            found = await client.list("events", args.namespace, field_selector=selector)
            items = sorted(found.items, key=last_seen)
            if not args.watch:
                out.result(json.dumps(items, indent=2) if as_json else render(items, time.time()))
                return 0
            for event in items:
                _tell(event, out, as_json=as_json)
            await _follow(client, args.namespace, selector, found.resource_version, out, as_json=as_json)
    except ApiError as e:
        raise CommandError(e.message, "sk8 status shows what is wrong") from e
    except asyncio.CancelledError:  # Ctrl-C is how a watch ends
        if not args.watch:
            raise
    return 0


async def _follow(
    client: HttpClient, namespace: str, selector: str, version: str, out: Output, *, as_json: bool
) -> None:
    """Also over breaks; what was missed because it is compacted is not told."""
    while True:
        try:
            async for change in client.watch("events", namespace, resource_version=version, field_selector=selector):
                version = change.object["metadata"]["resourceVersion"]
                if change.type in ("ADDED", "MODIFIED"):
                    _tell(change.object, out, as_json=as_json)
        except ApiError as e:
            if e.code == 410:
                version = (await client.list("events", namespace, field_selector=selector)).resource_version
            elif e.code < 500:
                raise
        await asyncio.sleep(_AGAIN_S)


def _tell(event: Obj, out: Output, *, as_json: bool) -> None:
    if as_json:
        out.result(json.dumps(event))
        return
    when = time.strftime("%H:%M:%S", time.localtime(last_seen(event)))
    kind = event.get("type", "")
    shown = paint(kind, "yellow", sys.stdout) if kind == "Warning" else kind
    out.result("  ".join((when, shown, event.get("reason", ""), about(event), event.get("message", ""))))


# ---- pure


def selector_of(about: str, *, warnings: bool) -> str:
    """A field selector. Raises CommandError."""
    terms = ["type=Warning"] if warnings else []
    if about:
        kind, slash, name = about.partition("/")
        if not slash or not kind or not name:
            raise CommandError(f"--for {about}: is not KIND/NAME", "for instance --for pod/web-1", code=2)
        terms += [f"involvedObject.kind={_KINDS.get(kind.lower(), kind[:1].upper() + kind[1:])}"]
        terms += [f"involvedObject.name={name}"]
    return ",".join(terms)


_KINDS = {
    "replicaset": "ReplicaSet", "rs": "ReplicaSet", "statefulset": "StatefulSet", "sts": "StatefulSet",
    "daemonset": "DaemonSet", "ds": "DaemonSet", "cronjob": "CronJob", "po": "Pod", "deploy": "Deployment",
    "no": "Node", "svc": "Service", "persistentvolumeclaim": "PersistentVolumeClaim", "pvc": "PersistentVolumeClaim",
    "horizontalpodautoscaler": "HorizontalPodAutoscaler", "hpa": "HorizontalPodAutoscaler",
}  # fmt: skip


def last_seen(event: Obj) -> float:
    series = event.get("series") or {}
    when = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return parse_time(when or event["metadata"]["creationTimestamp"])


def about(event: Obj) -> str:
    who = event.get("involvedObject") or {}
    return f"{who.get('kind', '').lower()}/{who.get('name', '')}"


def render(events: list[Obj], now: float) -> str:
    if not events:
        return "there are no events"
    rows = []
    for event in events:
        count = (event.get("series") or {}).get("count") or event.get("count") or 1
        times = f" (x{count})" if count > 1 else ""
        rows.append((age(now - last_seen(event)) + times, event.get("type", ""), event.get("reason", ""),
                     about(event), event.get("message", "")))  # fmt: skip
    return table(_COLUMNS, rows)


def age(seconds: float) -> str:
    """As kubectl: two units at most."""
    whole = max(int(seconds), 0)
    if whole < 120:
        return f"{whole}s"
    if whole < 3600 * 3:
        return f"{whole // 60}m"
    if whole < 86400 * 2:
        return f"{whole // 3600}h"
    return f"{whole // 86400}d"
