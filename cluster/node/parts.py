"""Metrics of the machine's other parts through the kubelet's server, for whoever may read the kubelet's own.

The parts answer on loopback only. So one port of a machine, which knows its callers, is all that a collector outside
needs: `/api/v1/nodes/NODE/proxy/metrics/parts/state`, allowed by `nodes/proxy` or `nodes/metrics` (RBAC).
IO: HTTP to loopback.
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
from aiohttp import web

from cluster.api import errors

_ANSWER = aiohttp.ClientTimeout(total=60)


async def relay(ports: Mapping[str, int], part: str) -> web.Response:
    """The page of `part` as it is. Raises ApiError 404 for a part this machine has not, 503 when it is silent."""
    port = ports.get(part)
    if port is None:
        raise errors.ApiError(404, "NotFound", f"this machine has no part {part!r}; it has: {', '.join(sorted(ports))}")
    try:
        async with (
            aiohttp.ClientSession(timeout=_ANSWER) as session,
            session.get(f"http://127.0.0.1:{port}/metrics") as answer,
        ):
            body, kind = await answer.read(), answer.headers.get("Content-Type", "text/plain")
            return web.Response(status=answer.status, body=body, headers={"Content-Type": kind})
    except (OSError, aiohttp.ClientError, TimeoutError) as e:
        raise errors.ApiError(503, "ServiceUnavailable", f"{part} does not answer on this machine: {e}") from e
