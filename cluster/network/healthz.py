"""kube-proxy's health port: what load balancers ask of every machine before they send it traffic. IO: one listener.

`answer_of` is pure. 200 while the proxy is up to date and its machine is to stay. A machine that is going (KEP-3836:
its Node is being deleted, or the autoscaler takes it away) says 503 on /healthz, so that connections drain, and 200
on /livez.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from cluster.network.httpz import serve

Obj = dict[str, Any]
_GOING = "ToBeDeletedByClusterAutoscaler"


@dataclass(frozen=True, slots=True)
class ProxyHealth:
    """`updated_at`: when the kernel last had everything, in seconds since the epoch; 0 for never."""

    healthy: bool
    updated_at: float
    node: Obj | None


def answer_of(health: ProxyHealth, now: float, *, live: bool) -> tuple[int, Obj]:
    """Status and body of /healthz, or with `live` of /livez."""
    stays = _stays(health.node)
    body = {"lastUpdated": _time(health.updated_at or now), "currentTime": _time(now), "nodeEligible": stays}
    return 200 if health.healthy and (live or stays) else 503, body


def _stays(node: Obj | None) -> bool:
    if node is None:
        return True  # not seen yet: the proxy's own health decides
    taints = (node.get("spec") or {}).get("taints") or ()
    return "deletionTimestamp" not in node["metadata"] and not any(t["key"] == _GOING for t in taints)


def _time(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat().replace("+00:00", "Z")


async def serve_health(address: str, health: Callable[[], ProxyHealth], clock: Callable[[], float]) -> None:
    """Until cancelled."""

    async def answer(request: web.Request) -> web.Response:
        status, body = answer_of(health(), clock(), live=request.path == "/livez")
        return web.json_response(body, status=status, headers={"X-Content-Type-Options": "nosniff"})

    app = web.Application()
    app.add_routes([web.get(path, answer) for path in ("/healthz", "/livez")])
    await serve(app, address)
