"""The EndpointSlice and Endpoints controllers: which addresses stand behind a Service, told at once.

Thin shells around `endpoints_core`. Event-driven only: a pod's change queues the Services that select it in the same
turn of the loop; there is no polling and no batching delay, since the way of a dead pod out of a Service is an outage.
Pods are found through an index on one of their labels (namespace, key, value), so that the cost of a Service is that of
the pods that carry one of its selector's labels, not of all pods of the namespace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of
from cluster.api.pods import is_ready, is_terminal
from cluster.controllers import endpoints_core as core
from cluster.controllers.env import Env
from cluster.machinery.client import (
    Client,
    Obj,
    clone,
    ignore_not_found,
    is_already_exists,
    key_of,
    split_key,
)
from cluster.machinery.informer import Informer
from cluster.machinery.reconciler import Reconciler, Result

SLICES = "endpointslices.discovery.k8s.io"


class ServicePods:
    """Finds the pods of a Service and the Services of a pod, for both controllers."""

    def __init__(self, services: Informer, pods: Informer) -> None:
        self._services = services
        self._pods = pods
        services.add_index("selector-label", _selector_label)
        pods.add_index("namespace-label", _pod_labels)

    def pods_of(self, service: Obj) -> list[Obj]:
        selector = service["spec"]["selector"]
        first = _selector_label(service)
        if not first:
            return []
        return [
            pod
            for pod in self._pods.by_index("namespace-label", first[0])
            if all((pod["metadata"].get("labels") or {}).get(k) == v for k, v in selector.items())
        ]

    def services_of(self, pod: Obj) -> list[str]:
        labels = pod["metadata"].get("labels") or {}
        found = []
        for value in _pod_labels(pod):
            for service in self._services.by_index("selector-label", value):
                if all(labels.get(k) == v for k, v in service["spec"]["selector"].items()):
                    found.append(key_of(service))
        return found

    def touched(self, old: Obj | None, new: Obj | None) -> list[str]:
        """Keys of the Services whose endpoints a pod's change concerns."""
        if old is not None and new is not None and _seen_by_services(old) == _seen_by_services(new):
            return []
        keys = [key for pod in (old, new) if pod is not None for key in self.services_of(pod)]
        return list(dict.fromkeys(keys))


class EndpointSliceController:
    name = "endpointslice"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._services = env.informer("services")
        self._pods = env.informer("pods")
        self._slices = env.informer(SLICES)
        self._nodes = env.informer("nodes")
        self._events = env.recorder("endpoint-slice-controller")
        self._match = ServicePods(self._services, self._pods)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_service_endpoint_syncs)
        self._service_of = slices_by_service(core.CONTROLLER)
        self._slices.add_index("managed-service", self._service_of)
        self._services.add_handler(self.reconciler.enqueue)
        self._pods.add_handler(self._on_pod)
        self._slices.add_handler(self._on_slice)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._services.items())
        for slice_ in self._slices.items():
            for key in self._service_of(slice_):
                self.reconciler.queue.add(key)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        for key in self._match.touched(old, new):
            self.reconciler.queue.add(key)

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        for slice_ in (old, new):
            if slice_ is not None:
                for key in self._service_of(slice_):
                    self.reconciler.queue.add(key)

    async def _reconcile(self, key: str) -> Result | None:
        namespace, name = split_key(key)
        service = self._services.get(namespace, name)
        slices = self._slices.by_index("managed-service", key)
        alive = [s for s in slices if "deletionTimestamp" not in s["metadata"]]
        if service is None:
            # The collector removes slices by their owner; a Service that only left our hands keeps nothing of ours.
            return None
        if not core.has_selector(service):
            await write_slices(self._env.client, namespace, core.SlicePlan((), (), tuple(alive)))
            return None
        if "deletionTimestamp" in service["metadata"]:
            return None
        pods = self._match.pods_of(service)
        zones = self._zones(pods)
        plan = core.plan_slices(service, pods, alive, zones, self._env.config.max_endpoints_per_slice)
        await write_slices(self._env.client, namespace, plan)
        return None

    def _zones(self, pods: list[Obj]) -> dict[str, str]:
        zones: dict[str, str] = {}
        for name in {p["spec"].get("nodeName", "") for p in pods}:
            node = self._nodes.get("", name)
            if node is not None:
                zones[name] = (node["metadata"].get("labels") or {}).get(core.ZONE, "")
        return zones


class EndpointsController:
    """The legacy core/v1 Endpoints of Services with a selector, for clients that still read them."""

    name = "endpoint"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._services = env.informer("services")
        self._pods = env.informer("pods")
        self._endpoints = env.informer("endpoints")
        self._match = ServicePods(self._services, self._pods)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_endpoint_syncs)
        self._services.add_handler(self.reconciler.enqueue)
        self._pods.add_handler(self._on_pod)
        self._endpoints.add_handler(self.reconciler.enqueue)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all([*self._services.items(), *self._endpoints.items()])

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        for key in self._match.touched(old, new):
            self.reconciler.queue.add(key)

    async def _reconcile(self, key: str) -> Result | None:
        namespace, name = split_key(key)
        service = self._services.get(namespace, name)
        current = self._endpoints.get(namespace, name)
        if service is None:
            await self._service_gone(current)
            return None
        if not core.has_selector(service) or "deletionTimestamp" in service["metadata"]:
            return None
        wanted = core.legacy(service, self._match.pods_of(service), current)
        if wanted is None:
            return None
        if current is not None:
            await self._env.client.update("endpoints", clone(wanted))
            return None
        try:
            await self._env.client.create("endpoints", wanted, namespace)
        except ApiError as err:
            if not is_already_exists(err):
                raise
        return None

    async def _service_gone(self, current: Obj | None) -> None:
        """Endpoints have no owner reference; those we made go with their Service."""
        if current is None or controller_of(current) is not None:
            return
        labels = current["metadata"].get("labels") or {}
        if labels.get("endpoints.kubernetes.io/managed-by") != "endpoint-controller":
            return
        meta = current["metadata"]
        with ignore_not_found():
            await self._env.client.delete("endpoints", meta["name"], meta["namespace"], uid=meta["uid"])


def _selector_label(service: Obj) -> list[str]:
    """Index: one label of the selector (its least, so that it is always the same one)."""
    if not core.has_selector(service):
        return []
    key, value = min(service["spec"]["selector"].items())
    return [f"{service['metadata']['namespace']}/{key}={value}"]


def _pod_labels(pod: Obj) -> list[str]:
    namespace = pod["metadata"]["namespace"]
    return [f"{namespace}/{k}={v}" for k, v in (pod["metadata"].get("labels") or {}).items()]


def slices_by_service(manager: str) -> Callable[[Obj], list[str]]:
    """Index: the key of the Service of a slice that `manager` manages."""

    def service_of(slice_: Obj) -> list[str]:
        meta = slice_["metadata"]
        labels = meta.get("labels") or {}
        if labels.get(core.MANAGED_BY) != manager or not labels.get(core.SERVICE_NAME):
            return []
        return [f"{meta['namespace']}/{labels[core.SERVICE_NAME]}"]

    return service_of


async def write_slices(client: Client, namespace: str, plan: core.SlicePlan) -> None:
    """Additions before removals: an endpoint that moves between slices is never in none."""
    await asyncio.gather(
        *(client.create(SLICES, s, namespace) for s in plan.create),
        *(client.update(SLICES, clone(s)) for s in plan.update),
    )
    await asyncio.gather(*(_delete(client, s) for s in plan.delete))


async def _delete(client: Client, slice_: Obj) -> None:
    meta = slice_["metadata"]
    with ignore_not_found():
        await client.delete(SLICES, meta["name"], meta["namespace"], uid=meta["uid"])


def _seen_by_services(pod: Obj) -> tuple[object, ...]:
    status, spec, meta = pod.get("status") or {}, pod["spec"], pod["metadata"]
    return (
        meta["uid"],
        meta.get("labels"),
        "deletionTimestamp" in meta,
        status.get("podIP"),
        status.get("podIPs"),
        is_ready(pod),
        is_terminal(pod),
        spec.get("nodeName"),
    )
