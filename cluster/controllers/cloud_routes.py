"""The route controller: the provider's network learns which machine has which pods.

Level-based: all routes are compared with all Nodes, when a Node comes, goes or gets its pod network, and every ten
minutes. Source: k8s.io/cloud-provider controllers/route. A Node whose route is missing says NetworkUnavailable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.api.meta import condition, rfc3339
from cluster.api.nodes import pod_cidrs
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found
from cluster.machinery.provider import ProviderError, Route, Routes
from cluster.machinery.reconciler import Reconciler, Result

_ALL = "routes"
_REFRESH_S = 600.0


@dataclass(frozen=True, slots=True)
class RoutePlan:
    create: tuple[tuple[Route, Obj], ...]
    delete: tuple[Route, ...]


def plan(nodes: Sequence[Obj], routes: Sequence[Route]) -> RoutePlan:
    """`routes` name instances; a Node is behind one whose id its providerID ends with."""
    wanted = {c: n for n in nodes for c in pod_cidrs(n) if n["spec"].get("providerID")}
    right = {r.cidr for r in routes if r.cidr in wanted and not r.blackhole and _is_of(r, wanted[r.cidr])}
    create = [(Route(n["metadata"]["name"], c), n) for c, n in sorted(wanted.items()) if c not in right]
    return RoutePlan(tuple(create), tuple(r for r in routes if r.cidr not in wanted))


def _is_of(route: Route, node: Obj) -> bool:
    return bool(route.node) and str(node["spec"]["providerID"]).rpartition("/")[2] == route.node


class CloudRouteController:
    name = "cloud_route"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._nodes = env.informer("nodes")
        self._events = env.recorder("route_controller")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._nodes.add_handler(self._on_node)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        if self._env.outside.routes is not None:
            self.reconciler.queue.add(_ALL)

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None or _concerns(old) != _concerns(new):
            self.resync()

    async def _reconcile(self, key: str) -> Result | None:
        routes = self._env.outside.routes
        if routes is None:
            return None
        nodes = self._nodes.items()
        try:
            todo = plan(nodes, await routes.list())
            for route in todo.delete:
                await routes.delete(route)
        except ProviderError as err:
            for node in nodes:
                self._events.event(node, "Warning", "FailedToListRoutes", f"asking the cloud provider: {err}")
            return Result(10.0)
        failed = {
            node["metadata"]["name"]: text
            for route, node in todo.create
            if (text := await self._create(routes, route, node))
        }
        for node in nodes:
            if pod_cidrs(node):
                await self._say(node, failed.get(node["metadata"]["name"], ""))
        return Result(10.0 if failed else _REFRESH_S)

    async def _create(self, routes: Routes, route: Route, node: Obj) -> str:
        """Why it could not be made, "" when it is there."""
        try:
            await routes.create(route, node)
        except ProviderError as err:
            message = f"Could not create route {route.cidr} for node {route.node}: {err}"
            self._events.event(node, "Warning", "FailedToCreateRoute", message)
            return message
        return ""

    async def _say(self, node: Obj, failure: str) -> None:
        old = condition(node, "NetworkUnavailable")
        status = "True" if failure else "False"
        if old is not None and old.get("status") == status:
            return
        now = rfc3339(self._env.clock())
        fresh = {
            "type": "NetworkUnavailable",
            "status": status,
            "reason": "NoRouteCreated" if failure else "RouteCreated",
            "message": failure or "RouteController created a route",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        changed = clone(node)
        others = [c for c in (changed.get("status") or {}).get("conditions") or () if c["type"] != "NetworkUnavailable"]
        changed.setdefault("status", {})["conditions"] = [*others, fresh]
        with ignore_not_found():
            await self._env.client.update("nodes", changed, subresource="status")


def _concerns(node: Obj) -> object:
    return node["spec"].get("providerID"), pod_cidrs(node)
