"""The DNS server of one machine, at the kube-dns Service's address: keeps the zone. dns_serve.py answers from it. IO.

It listens on `sk8-dns`, a link of this namespace, so a pod's query never leaves its machine: the service proxy leaves
the address alone while the kube-dns Service has no endpoints, and the kernel finds it local. Names come from
informers on Services and EndpointSlices (and Pods when pod records are verified); nothing is polled.

Until those have listed once, names of the cluster get SERVFAIL at once (clients try again; a wrong NXDOMAIN they
would believe); later losses of the API server leave the last known names being served. Names outside the cluster go
to the upstreams, or get REFUSED at once when there are none.

On a machine, sk8-machine opens the sockets and answers while this is away (`dns_handover.py`): this takes over once it
knows the names, and leaves a copy of them behind (`dns_snapshot.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.registry import CollectorRegistry

from cluster.machinery.client import Client, key_of, split_key
from cluster.machinery.informer import Informers
from cluster.network import links
from cluster.network.config import SERVICE_LINK, DnsConfig
from cluster.network.dns_core import Resolver
from cluster.network.dns_forward import Forwarder
from cluster.network.dns_handover import borrowed
from cluster.network.dns_serve import Answers, Sockets, bind
from cluster.network.dns_snapshot import Saver
from cluster.network.dns_zone import Zone, service_records, zone_config
from cluster.network.endpoints import service_key
from cluster.network.metrics import DnsCounters

log = logging.getLogger(__name__)

Obj = dict[str, Any]
SERVICES = "services"
SLICES = "endpointslices.discovery.k8s.io"
PODS = "pods"
BY_SERVICE = "service"
_RETRY_S = 0.3


class DnsServer:
    """`run()` until cancelled. `informers` are shared with whoever else runs here."""

    def __init__(
        self,
        config: DnsConfig,
        client: Client,
        *,
        informers: Informers | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        config.validate()
        self._config = config
        self._own_informers = informers is None
        self._informers = informers or Informers(client)
        self._registry = registry
        self._zone = Zone(zone_config(config))
        self._resolver = Resolver(self._zone)
        self._ready = asyncio.Event()
        self._counters = DnsCounters(f"dns://{config.listen_ip}:{config.port}")
        forwarder = Forwarder(config.upstreams, config.upstream_timeout_s, config.max_concurrent)
        self._answers = Answers(self._resolver, forwarder, self._counters.count)
        self._saver = Saver(self._zone, config.zone_file) if config.zone_file else None
        self._dirty: set[str] = set()
        self._flush: asyncio.Handle | None = None
        self.port = 0
        """The port it listens on once it does."""

    async def run(self) -> None:
        """Returns only by cancellation; waits while somebody else holds the address."""
        self._subscribe()
        self._registry.register(self._counters)
        try:
            async with asyncio.TaskGroup() as group:
                if self._own_informers:
                    group.create_task(self._informers.run(), name="dns-informers")
                group.create_task(self._become_ready(), name="dns-ready")
                group.create_task(self._serve(), name="dns-serve")
                if self._saver is not None:
                    group.create_task(self._saver.run(), name="dns-saver")
        finally:
            self._registry.unregister(self._counters)

    def health(self) -> dict[str, object]:
        return {
            "ready": self._resolver.ready and self.port > 0,
            "listening": self.port > 0,
            "requests": self._counters.total,
            "zone_revision": self._zone.revision,
        }

    # ---- names in

    def _subscribe(self) -> None:
        slices = self._informers.of(SLICES)
        slices.add_index(BY_SERVICE, lambda obj: [key] if (key := service_key(obj)) else [])
        slices.add_handler(self._on_slice)
        self._informers.of(SERVICES).add_handler(lambda old, new: self._mark(key_of(new or old or {})))
        if self._config.pod_records == "verified":
            self._informers.of(PODS).add_handler(self._on_pod)

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        for obj in (old, new):
            if obj is not None and (key := service_key(obj)):
                self._mark(key)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        address = ((new or {}).get("status") or {}).get("podIP", "")
        self._zone.set_pod(key_of(new or old or {}), address)
        self._save()

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
            except (KeyError, TypeError, ValueError, AttributeError) as err:
                log.error("service %s is malformed and keeps the names it had: %r", key, err)
                continue
            self._zone.set_owner(key, records)
        self._save()

    def _save(self) -> None:
        """Not before all is known: half a zone would deny names that exist."""
        if self._saver is not None and self._ready.is_set():
            self._saver.changed()

    async def _become_ready(self) -> None:
        resources = [SERVICES, SLICES] + ([PODS] if self._config.pod_records == "verified" else [])
        for resource in resources:
            await self._informers.of(resource).wait_synced()
        self._update()
        self._resolver.ready = True
        self._ready.set()
        self._save()

    # ---- listening

    async def _serve(self) -> None:
        if self._config.make_link:
            await asyncio.to_thread(self._make_link)
        while self._config.handover_socket:
            await self._serve_borrowed()
        sockets = await bind(self._config.listen_ip, self._config.port)
        try:
            await self._answer_on(sockets, asyncio.Event().wait)
        finally:
            for one in sockets:
                one.close()

    async def _serve_borrowed(self) -> None:
        """On sk8-machine's sockets, until it takes them back (a new sk8-machine opens new ones)."""
        try:
            async with borrowed(self._config.handover_socket, self._ready) as (sockets, reader):
                self._save()  # a new sk8-machine has removed the copy that its predecessor was given
                await self._answer_on(sockets, lambda: reader.read(1))
            log.warning("sk8-machine took the DNS sockets back; asking for them again")
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as err:
            log.warning("the DNS sockets were not handed over: %s", err)
            await asyncio.sleep(_RETRY_S)

    async def _answer_on(self, sockets: Sockets, end: Callable[[], Awaitable[object]]) -> None:
        await self._answers.start(sockets)
        self.port = int(sockets[0].getsockname()[1])
        log.info("DNS for %s on %s:%d", self._config.cluster_domain, self._config.listen_ip, self.port)
        try:
            await end()
        finally:
            self.port = 0
            self._answers.stop()

    def _make_link(self) -> None:
        links.ensure_address(SERVICE_LINK, self._config.listen_ip)
