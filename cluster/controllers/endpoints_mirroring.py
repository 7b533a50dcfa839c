"""The endpointslicemirroring controller: Endpoints made by hand, for a Service without a selector, as EndpointSlices.

A thin shell around `endpoints_mirroring_core`. Keys are Services, whose name their Endpoints share.
"""

from __future__ import annotations

from cluster.controllers import endpoints_core, endpoints_mirroring_core
from cluster.controllers.endpoints import SLICES, slices_by_service, write_slices
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, key_of, split_key
from cluster.machinery.informer import Informer
from cluster.machinery.reconciler import Reconciler, Result

_INDEX = "mirrored-service"


class EndpointSliceMirroringController:
    name = "endpointslicemirroring"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._services = env.informer("services")
        self._endpoints = env.informer("endpoints")
        self._slices = env.informer(SLICES)
        self._events = env.recorder("endpoint-slice-mirroring-controller")
        self._service_of = slices_by_service(endpoints_mirroring_core.CONTROLLER)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_service_endpoint_syncs)
        self._slices.add_index(_INDEX, self._service_of)
        for informer in (self._services, self._endpoints):
            informer.add_handler(self._on_named)
        self._slices.add_handler(self._on_slice)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        sources: tuple[Informer, ...] = (self._endpoints, self._slices)
        for informer in sources:
            for obj in informer.items():
                (self._on_slice if informer is self._slices else self._on_named)(None, obj)

    def _on_named(self, old: Obj | None, new: Obj | None) -> None:
        obj = new or old
        if obj is not None and not _has_selector(obj):
            self.reconciler.queue.add(key_of(obj))
        elif old is not None and not _has_selector(old):
            self.reconciler.queue.add(key_of(old))  # it has got one: ours go

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        for slice_ in (old, new):
            for key in self._service_of(slice_) if slice_ is not None else ():
                self.reconciler.queue.add(key)

    async def _reconcile(self, key: str) -> Result | None:
        namespace, name = split_key(key)
        service, endpoints = self._services.get(namespace, name), self._endpoints.get(namespace, name)
        mine = [s for s in self._slices.by_index(_INDEX, key) if "deletionTimestamp" not in s["metadata"]]
        if endpoints is None or not endpoints_mirroring_core.is_mirrored(service, endpoints):
            await write_slices(self._env.client, namespace, endpoints_core.SlicePlan((), (), tuple(mine)))
            return None
        if "deletionTimestamp" in endpoints["metadata"]:
            return None
        limit = self._env.config.max_endpoints_per_slice
        plan, invalid, beyond = endpoints_mirroring_core.plan(endpoints, mine, limit)
        if invalid:
            text = f"Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices"
            self._events.event(endpoints, "Warning", "InvalidAddress", text)
        if beyond:
            text = "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. "
            text += f"{beyond} addresses were skipped"
            self._events.event(endpoints, "Warning", "TooManyAddressesToMirror", text)
        await write_slices(self._env.client, namespace, plan)
        return None


def _has_selector(obj: Obj) -> bool:
    """Of a Service; Endpoints have none."""
    return bool((obj.get("spec") or {}).get("selector"))
