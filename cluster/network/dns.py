"""The DNS server of one machine, at the kube-dns Service's address: composition and listening. IO.

It listens on `sk8-dns`, a link of this namespace, so a pod's query never leaves its machine: the service proxy leaves
the address alone, and the kernel finds it local. Names come by watch (`dns_feed.py`), answers from `dns_serve.py`.
The pods of the `coredns` Deployment are the same server (`dns_pod.py`), with neither link nor loan.

Until all names have been listed once, names of the cluster get SERVFAIL at once (clients try again; a wrong NXDOMAIN
they would believe); later losses of the API server leave the last known names being served. Names outside the cluster
go to the upstreams (the coredns pods, then the machine's resolvers), or get REFUSED at once when there are none.

On a machine, sk8-machine opens the sockets and answers while this is away (`dns_handover.py`): this takes over once it
knows the names, and leaves a copy of them behind (`dns_snapshot.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import REGISTRY
from prometheus_client.registry import CollectorRegistry

from cluster.machinery.client import Client
from cluster.machinery.informer import Informers
from cluster.network.config import SERVICE_LINK, DnsConfig
from cluster.network.dns_core import Resolver
from cluster.network.dns_elsewhere import Lookups
from cluster.network.dns_feed import DnsFeed
from cluster.network.dns_forward import forwarder_of, resolv_conf_of
from cluster.network.dns_handover import borrowed
from cluster.network.dns_metrics import DnsCounters
from cluster.network.dns_search import SearchPaths
from cluster.network.dns_serve import Answers, Sockets, bind
from cluster.network.dns_snapshot import Saver
from cluster.network.dns_upstreams import Upstreams
from cluster.network.dns_zone import Zone, zone_config

log = logging.getLogger(__name__)

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
        servers, searches = resolv_conf_of(config)
        self._zone = Zone(zone_config(config))
        self._upstreams = Upstreams(servers)
        self._paths = SearchPaths(config.cluster_domain, searches)
        self._feed = DnsFeed(config, self._informers, client, self._zone, self._paths, self._upstreams)
        self._resolver = Resolver(self._zone, self._paths)
        self._ready = asyncio.Event()
        forwarder = forwarder_of(config, self._upstreams)
        self._counters = DnsCounters(f"dns://{config.listen_ip}:{config.port}", forwarder.cache)
        self._answers = Answers(self._resolver, Lookups(self._zone, forwarder), self._counters.count)
        self._saver = Saver(self._zone, config.zone_file) if config.zone_file else None
        self.port = 0
        """The port it listens on once it does."""

    async def run(self) -> None:
        """Returns only by cancellation; waits while somebody else holds the address."""
        self._feed.subscribe(self._save)
        self._registry.register(self._counters)
        try:
            async with asyncio.TaskGroup() as group:
                if self._own_informers:
                    group.create_task(self._informers.run(), name="dns-informers")
                group.create_task(self._feed.follow_pods(), name="dns-pods")
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
            "search_paths": len(self._paths),
            "upstreams": [f"{ip}:{port}" for ip, port in self._upstreams.in_order(0.0)],
        }

    def _save(self) -> None:
        """Not before all is known: half a zone would deny names that exist."""
        if self._saver is not None and self._ready.is_set():
            self._saver.changed()

    async def _become_ready(self) -> None:
        await self._feed.wait_complete()
        self._resolver.ready = True
        self._ready.set()
        self._save()

    # ---- listening

    async def _serve(self) -> None:
        if self._config.make_link:
            await asyncio.to_thread(self._make_link)
        while self._config.handover_socket:
            await self._serve_borrowed()
        sockets = await bind(self._config.bind_ip or self._config.listen_ip, self._config.port)
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
        from cluster.network import links  # needs pyroute2, which the image of the coredns Deployment does not have

        links.ensure_address(SERVICE_LINK, self._config.listen_ip)
