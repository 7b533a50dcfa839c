"""From the API's watches to what the DNS server knows: the zone, search paths, upstreams. Nothing is polled.

Services and EndpointSlices make the zone (Pods too when pod records are verified). The pods of this machine alone are
watched for their search paths. The endpoints of `upstream_service` are asked for names of others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cluster.machinery.client import Client, key_of, split_key
from cluster.machinery.informer import Informer, Informers
from cluster.network.config import DnsConfig
from cluster.network.dns_search import SearchPaths
from cluster.network.dns_upstreams import Upstreams
from cluster.network.dns_zone import Zone, service_records
from cluster.network.endpoints import Port, service_key, usable

log = logging.getLogger(__name__)

Obj = dict[str, Any]
SERVICES = "services"
SLICES = "endpointslices.discovery.k8s.io"
PODS = "pods"
BY_SERVICE = "service"
_UPSTREAM_PORT = "dns"
"""Name of the port of `upstream_service`, as kubeadm's manifests have it."""


class DnsFeed:
    def __init__(
        self,
        config: DnsConfig,
        informers: Informers,
        client: Client,
        zone: Zone,
        paths: SearchPaths,
        upstreams: Upstreams,
    ) -> None:
        self._config = config
        self._informers = informers
        self._client = client
        self._zone = zone
        self._paths = paths
        self._upstreams = upstreams
        self._changed: Callable[[], None] = lambda: None
        self._dirty: set[str] = set()
        self._flush: asyncio.Handle | None = None

    def subscribe(self, changed: Callable[[], None]) -> None:
        """`changed` is called after the zone did."""
        self._changed = changed
        slices = self._informers.of(SLICES)
        slices.add_index(BY_SERVICE, lambda obj: [key] if (key := service_key(obj)) else [])
        slices.add_handler(self._on_slice)
        self._informers.of(SERVICES).add_handler(lambda old, new: self._mark(key_of(new or old or {})))
        if self._config.pod_records == "verified":
            self._informers.of(PODS).add_handler(self._on_pod)

    async def wait_complete(self) -> None:
        """Until the zone holds every name there is."""
        for resource in [SERVICES, SLICES] + ([PODS] if self._config.pod_records == "verified" else []):
            await self._informers.of(resource).wait_synced()
        self._update()

    async def follow_pods(self) -> None:
        """The search paths of this machine's pods. Returns only by cancellation."""
        if not self._config.node_name:
            await asyncio.Event().wait()
        pods = Informer(self._client, PODS, field_selector=f"spec.nodeName={self._config.node_name}")
        pods.add_handler(lambda old, new: self._paths.set_pod(key_of(new or old or {}), new))
        await pods.run()

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        for obj in (old, new):
            if obj is not None and (key := service_key(obj)):
                self._mark(key)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        status = (new or {}).get("status") or {}
        listed = [item.get("ip", "") for item in status.get("podIPs") or ()] or [status.get("podIP") or ""]
        self._zone.set_pod(key_of(new or old or {}), " ".join(listed))
        self._changed()

    def _mark(self, key: str) -> None:
        """One update for all the events of this turn of the loop."""
        self._dirty.add(key)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self._update)

    def _update(self) -> None:
        self._flush = None
        dirty, self._dirty = self._dirty, set()
        for key in sorted(dirty):
            service = self._informers.of(SERVICES).get(*split_key(key))
            slices = self._informers.of(SLICES).by_index(BY_SERVICE, key)
            try:
                records = service_records(service, slices, self._config.cluster_domain) if service else {}
                if key == self._config.upstream_service:
                    found, _ = usable(slices, Port(_UPSTREAM_PORT, "UDP", self._config.node_name))
                    self._upstreams.set_cluster((e.ip, e.port) for e in found)
            except (KeyError, TypeError, ValueError, AttributeError) as err:
                log.error("service %s is malformed and keeps the names it had: %r", key, err)
                continue
            self._zone.set_owner(key, records)
        self._changed()
