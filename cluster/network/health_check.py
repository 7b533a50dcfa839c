"""healthCheckNodePort: tells a load balancer whether this machine has endpoints of a Service with policy Local. IO.

`checks_of` is pure. The answer is kube-proxy's: 200 while there are ready endpoints here and the proxy is healthy, else
503; the number of endpoints is in the body, and in `X-Load-Balancing-Endpoint-Weight` (KEP-3458).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from cluster.network.endpoints import is_ready

log = logging.getLogger(__name__)

Obj = dict[str, Any]
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    namespace: str
    name: str
    local_endpoints: int


def check_of(service: Obj, slices: Sequence[Obj], node_name: str) -> tuple[int, HealthCheck] | None:
    """(port, what it says) of a Service that has such a port."""
    spec = service.get("spec") or {}
    port = spec.get("healthCheckNodePort")
    if spec.get("type") != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local" or not port:
        return None
    here = {
        endpoint["addresses"][0]
        for slice_ in slices
        for endpoint in slice_.get("endpoints") or ()
        if endpoint.get("nodeName") == node_name and endpoint.get("addresses") and is_ready(endpoint)
    }
    return int(port), HealthCheck(service["metadata"]["namespace"], service["metadata"]["name"], len(here))


class HealthCheckServers:
    """One listener a port, on every address of the machine. `healthy`: of the proxy as a whole."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._checks: dict[int, HealthCheck] = {}
        self._owners: dict[str, tuple[int, HealthCheck]] = {}
        self._listeners: dict[int, asyncio.Task[None]] = {}

    @property
    def checks(self) -> Mapping[int, HealthCheck]:
        return self._checks

    def set_owner(self, owner: str, check: tuple[int, HealthCheck] | None) -> None:
        """`owner` (a Service) now has this check, or none. A port that changes hands has two owners in between."""
        before = self._owners.pop(owner, None)
        if before is not None and (check is None or check[0] != before[0]):
            self._leave(before[0])
        if check is None:
            return
        port, self._checks[check[0]] = check[0], check[1]
        self._owners[owner] = check
        if port not in self._listeners:
            self._listeners[port] = asyncio.get_running_loop().create_task(self._listen(port), name=f"health-{port}")

    def _leave(self, port: int) -> None:
        """The port is another owner's, or nobody's."""
        other = next((check for taken, check in self._owners.values() if taken == port), None)
        if other is not None:
            self._checks[port] = other
            return
        self._checks.pop(port, None)
        self._listeners.pop(port).cancel()

    async def close(self) -> None:
        tasks, self._listeners = list(self._listeners.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, port: int) -> None:
        async def answer(_request: web.Request) -> web.Response:
            return self._answer(port)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            while True:
                try:
                    await web.TCPSite(runner, "0.0.0.0", port, reuse_address=True).start()
                    break
                except OSError as err:
                    log.warning("health checks on port %d are not served yet: %s", port, err)
                    await asyncio.sleep(_RETRY_S)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _answer(self, port: int) -> web.Response:
        check, healthy = self._checks[port], self._healthy()
        body = {
            "service": {"namespace": check.namespace, "name": check.name},
            "localEndpoints": check.local_endpoints,
            "serviceProxyHealthy": healthy,
        }
        headers = {
            "X-Content-Type-Options": "nosniff",
            "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints),
        }
        return web.json_response(body, status=200 if healthy and check.local_endpoints else 503, headers=headers)
