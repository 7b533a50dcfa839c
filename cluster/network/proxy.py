"""The service proxy of one machine: Services and EndpointSlices in, nftables maps out. IO shell; rules.py decides.

    informers --dirty keys--> RuleTable --delta--> one small transaction --> UDP flows, affinity cleaned
                                  ^ start, refused transaction, foreign change: the whole table, atomically

Nothing is polled: it wakes for watch events, for what others do to its table (netlink), and after a failure. Changes
that arrive while a transaction runs are one transaction together. Before the first list of all three resources it
leaves the kernel alone: rules of an earlier run go on serving.

Stopping it leaves the table; connections and Services go on working as they were. A dual-stack machine runs two, one
for each family; they share nothing but what they watch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cluster.api.faults import Hit, no_fault
from cluster.api.meta import parse_time
from cluster.machinery.client import Client, key_of, split_key
from cluster.machinery.informer import Informers
from cluster.network import links, metrics
from cluster.network.config import SERVICE_LINK, ProxyConfig
from cluster.network.conntrack import Conntrack, orphaned_flows, stale_flows
from cluster.network.endpoints import service_key
from cluster.network.families import V6
from cluster.network.health_check import HealthCheckServers, check_of
from cluster.network.healthz import ProxyHealth, serve_health
from cluster.network.httpz import serve_status
from cluster.network.netlink import LinkWatch
from cluster.network.nft import NftError, NftRunner
from cluster.network.rules import Delta, RuleConfig, RuleTable, node_elements, service_elements
from cluster.network.ruleset import render_delta, render_full
from cluster.network.ruleset_base import TABLE, TableConfig
from cluster.network.tables import KeptTable

log = logging.getLogger(__name__)

Obj = dict[str, Any]
SERVICES = "services"
SLICES = "endpointslices.discovery.k8s.io"
NODES = "nodes"
BY_SERVICE = "service"
_NOT_OURS = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")
ZONE_LABEL = "topology.kubernetes.io/zone"
_TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


def is_ours(service: Obj) -> bool:
    """Not with a label that names another proxy, or says that it is headless whatever its address."""
    labels = service["metadata"].get("labels") or {}
    return not any(label in labels for label in _NOT_OURS)


class ServiceProxy:
    """`run()` until cancelled. `informers` are shared with whoever else runs here; without, it runs its own."""

    def __init__(
        self,
        config: ProxyConfig,
        client: Client,
        *,
        clock: Callable[[], float] = time.time,
        informers: Informers | None = None,
        nft: NftRunner | None = None,
        hit: Hit = no_fault,
    ) -> None:
        """`hit`: fault points before_rules and after_rules of every transaction, about its reason ("": a change)."""
        config.validate()
        self._config = config
        self._clock = clock
        self._hit = hit
        self._own_informers = informers is None
        self._informers = informers or Informers(client)
        self._table_config = TableConfig(config.cluster_cidr, config.service_cluster_ip_range, config.masquerade_bit)
        self._family = self._table_config.family
        self._rules = RuleConfig(config.node_name, config.node_ip, config.local_dns_ip, family=self._family)
        self._table = RuleTable()
        self._kept = KeptTable(self._family.nft, TABLE, self._foreign, nft)
        self._conntrack = Conntrack(self._family)
        self._health_checks = HealthCheckServers(lambda: self._healthy()[0])
        self._chains: set[str] = set()
        self._dirty: set[str] = set()
        self._triggers: list[float] = []
        self._full_reason = "start"
        self._link_dirty = True
        self._wake = asyncio.Event()
        self._syncing = False
        """Tests wait for the end of a sync by it."""
        self._synced_at = 0.0
        self._error = ""
        self._syncs = 0

    async def run(self) -> None:
        """Returns only by cancellation."""
        self._subscribe()
        try:
            async with asyncio.TaskGroup() as group:
                if self._own_informers:
                    group.create_task(self._informers.run(), name="proxy-informers")
                group.create_task(self._sync_forever(), name="proxy-sync")
                if self._config.metrics_bind_address:
                    group.create_task(
                        serve_status(self._config.metrics_bind_address, self._healthy, {"/proxyMode": "nftables"}),
                        name="proxy-http",
                    )
                if self._config.health_bind_address:
                    group.create_task(
                        serve_health(self._config.health_bind_address, self._proxy_health, self._clock),
                        name="proxy-health",
                    )
        finally:
            await self._health_checks.close()
            self._kept.close()

    def health(self) -> dict[str, object]:
        return {
            "ready": self._healthy()[0],
            "services": len(self._informers.of(SERVICES).items()),
            "elements": len(self._table.elements),
            "transactions": self._syncs,
            "last_sync": self._synced_at,
            "error": self._error,
        }

    def _healthy(self) -> tuple[bool, str]:
        if self._error:
            return False, self._error
        if not self._synced_at:
            return False, "waiting for the API server: " + ", ".join(self._informers.unsynced or ["first sync"])
        return True, "ok"

    def _proxy_health(self) -> ProxyHealth:
        node = self._informers.of(NODES).get("", self._config.node_name)
        return ProxyHealth(self._healthy()[0], self._synced_at, node)

    # ---- events in

    def _subscribe(self) -> None:
        slices = self._informers.of(SLICES)
        slices.add_index(BY_SERVICE, lambda obj: [key] if (key := service_key(obj)) else [])
        slices.add_handler(self._on_slice)
        self._informers.of(SERVICES).add_handler(self._on_service)
        self._informers.of(NODES).add_handler(self._on_node)

    def _on_service(self, old: Obj | None, new: Obj | None) -> None:
        metrics.SERVICE_CHANGES.inc()
        self._mark(key_of(new or old or {}))

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        metrics.ENDPOINT_CHANGES.inc()
        for obj in (old, new):
            if obj is not None and (key := service_key(obj)):
                self._mark(key)
        if new is not None:
            triggered = (new["metadata"].get("annotations") or {}).get(_TRIGGER_TIME)
            if triggered and self._synced_at:
                self._triggers.append(parse_time(triggered))

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        node = new or old or {}
        if key_of(node) == self._config.node_name:
            self._in_zone((node["metadata"].get("labels") or {}).get(ZONE_LABEL, ""))
        before, after = (node_elements(item or {}, self._family) for item in (old, new))
        if before == after and old is not None and new is not None:
            return
        self._mark("node//" + key_of(new or old or {}))

    def _in_zone(self, zone: str) -> None:
        """This machine's zone decides which hints of endpoints are followed."""
        if zone != self._rules.zone:
            self._rules = replace(self._rules, zone=zone)
            for service in self._informers.of(SERVICES).items():
                self._mark(key_of(service))

    def _mark(self, key: str) -> None:
        self._dirty.add(key)
        self._wake.set()

    def _foreign(self) -> None:
        self._full_reason = self._full_reason or "foreign change"
        self._wake.set()

    def _links_changed(self) -> None:
        self._link_dirty = True
        self._wake.set()

    # ---- rules out

    async def _sync_forever(self) -> None:
        await asyncio.to_thread(links.prepare_forwarding, self._family)
        for resource in (SERVICES, SLICES, NODES):
            await self._informers.of(resource).wait_synced()
        watch = LinkWatch(self._links_changed, ipv6=self._family is V6)
        self._wake.set()
        try:
            while True:
                self._syncing = False
                await self._wake.wait()
                self._syncing = True
                self._wake.clear()
                try:
                    await self._sync()
                    self._error = ""
                except (NftError, links.LinkError, OSError) as err:
                    self._error = str(err)
                    self._full_reason = "refused transaction"
                    metrics.SYNC_ERRORS.inc()
                    log.error("service rules not applied, trying again: %s", err)
                    await asyncio.sleep(self._config.retry_delay_s)
                    self._wake.set()
        finally:
            watch.close()

    async def _sync(self) -> None:
        if self._link_dirty:
            self._link_dirty = False
            await asyncio.to_thread(self._ensure_route)
        if self._full_reason and self._synced_at:
            await asyncio.sleep(self._config.heal_delay_s)  # somebody's series of changes is healed once
        dirty, self._dirty = self._dirty, set()
        triggers, self._triggers = self._triggers, []
        for key in sorted(dirty):
            self._update(key)
        delta = self._table.take()
        reason, self._full_reason = self._full_reason, ""
        if not (reason or delta):
            return
        started = time.perf_counter()
        self._hit("before_rules", reason)
        try:
            if reason:
                await self._replace(reason)
            else:
                text, chains = render_delta(self._table_config, delta, self._chains)
                await self._kept.apply(text)
                self._chains = chains
        except BaseException:
            self._full_reason = reason or "refused transaction"
            raise
        self._hit("after_rules", reason)
        metrics.SYNC_SECONDS.observe(time.perf_counter() - started)
        self._syncs += 1
        self._synced_at = self._clock()
        metrics.SYNC_LAST.set(self._synced_at)
        for triggered in triggers:
            metrics.PROGRAMMING_SECONDS.observe(max(0.0, self._synced_at - triggered))
        await self._clean_up(delta, bool(reason))

    def _ensure_route(self) -> None:
        cidr = self._config.service_cluster_ip_range
        if not links.service_route_present(SERVICE_LINK, cidr):
            links.ensure_service_route(SERVICE_LINK, cidr, self._config.node_ip)

    def _update(self, key: str) -> None:
        """Bring one owner's elements up to date; its key sorts before or after no other's, so no order matters."""
        if key.startswith("node//"):
            node = self._informers.of(NODES).get("", key.removeprefix("node//"))
            self._table.set_owner(key, node_elements(node, self._family) if node else {})
            return
        service = self._informers.of(SERVICES).get(*split_key(key))
        if service is None or not is_ours(service):
            self._table.set_owner(key, {})
            self._health_checks.set_owner(key, None)
            return
        slices = self._informers.of(SLICES).by_index(BY_SERVICE, key)
        try:
            elements = service_elements(service, slices, self._rules)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            log.error("service %s is malformed and keeps the rules it had: %r", key, err)
            return
        self._table.set_owner(key, elements)
        if self._config.serve_health_checks:
            self._health_checks.set_owner(key, check_of(service, slices, self._config.node_name))

    async def _replace(self, reason: str) -> None:
        kept = await self._affinity_to_keep()
        # The loop answers DNS meanwhile; the table is only changed by `_sync`, which waits here.
        text, self._chains = await asyncio.to_thread(render_full, self._table_config, self._table.elements, kept)
        await self._kept.replace(text)
        metrics.HEALED.labels(reason).inc()
        log.info("service rules in place (%s): %d elements", reason, len(self._table.elements))

    # ---- what rules alone cannot undo

    async def _clean_up(self, delta: Delta, full: bool) -> None:
        if full or any(name in ("eps_udp", "porteps_udp") for name, _ in (*delta.removed, *delta.added)):
            gone = [] if full else _fronts_gone(delta)
            await asyncio.to_thread(self._clean_flows, gone)
        if any(name.startswith(("eps_", "porteps_")) for name, _ in delta.removed) and any(
            name == "afflearn" for name, _ in self._table.elements
        ):
            await self._clean_affinity()

    def _clean_flows(self, gone: list[tuple[str, int]]) -> None:
        flows = self._conntrack.udp_flows()
        if flows:
            stale = stale_flows(flows, self._table, links.local_addresses(self._family))
            self._conntrack.delete([*stale, *orphaned_flows(flows, gone)])

    async def _clean_affinity(self) -> None:
        valid = self._table.affinity_endpoints()
        for client, mark, endpoint, _ in await self._affinity():
            if endpoint not in valid.get(mark, ()):
                try:
                    await self._kept.apply(
                        f"delete element {self._table_config.table} affinity {{ {client} . {mark} }}\n"
                    )
                except NftError:
                    log.debug("affinity of %s expired by itself", client)

    async def _affinity_to_keep(self) -> list[str]:
        valid = self._table.affinity_endpoints()
        if not valid:
            return []
        return [
            f"{client} . {mark} timeout {seconds}s : {endpoint}"
            for client, mark, endpoint, seconds in await self._affinity()
            if endpoint in valid.get(mark, ()) and seconds > 0
        ]

    async def _affinity(self) -> list[tuple[str, str, str, int]]:
        """The (client, mark, "ip . port", seconds left) the kernel has learnt."""
        out: list[tuple[str, str, str, int]] = []
        for item in await self._kept.listing(f"map {self._table_config.table} affinity"):
            for key, value in (item.get("map") or {}).get("elem") or ():
                element = key.get("elem", key)
                client, mark = (element.get("val") or element)["concat"]
                ip, port = value["concat"]
                out.append((client, f"0x{int(mark):08x}", f"{ip} . {port}", int(element.get("expires", 0))))
        return out


def _fronts_gone(delta: Delta) -> list[tuple[str, int]]:
    """UDP fronts that lost their last endpoint, as (address or "" for a NodePort, port)."""
    out: list[tuple[str, int]] = []
    for name, key in delta.removed:
        parts = key.split(" . ")
        if (name, key) in delta.added:
            continue
        if name == "svcs" and parts[1] == "udp":
            out.append((parts[0], int(parts[2])))
        elif name == "ports" and parts[0] == "udp":
            out.append(("", int(parts[1])))
    return out
