"""Who is a live API server: a leased key each, and the `kubernetes` Endpoints that follow from them.

IO: store, registry.

Each server keeps `/sk8/apiserver/<ip>` alive with a store lease and brings Endpoints and EndpointSlice `kubernetes` in
`default` to the set of live keys. All servers do the same from the same keys, so they agree without a leader; a server
that dies is dropped when its lease ends. A graceful stop revokes the lease at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry.context import internal_context
from cluster.registry.registry import Registry
from cluster.registry.store import Store, prefix_end, put

log = logging.getLogger(__name__)

PREFIX = b"/sk8/apiserver/"
NAME, NAMESPACE = "kubernetes", "default"
_CONTEXT = internal_context("kube-apiserver")
Object = dict[str, Any]


def endpoints_for(ips: list[str], port: int) -> Object:
    """The Endpoints object; `ips` sorted."""
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    return {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": ip} for ip in ips], "ports": ports}] if ips else [],
    }


def slice_for(ips: list[str], port: int) -> Object:
    """The EndpointSlice object; `ips` sorted."""
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv6" if ips and ":" in ips[0] else "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}} for ip in ips],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }


class EndpointReconciler:
    """Runs beside one API server."""

    def __init__(self, store: Store, registry: Registry, ip: str, port: int, ttl_s: int) -> None:
        self._store = store
        self._registry = registry
        self._key = PREFIX + ip.encode()
        self._port = port
        self._ttl_s = ttl_s
        self._lease = 0
        self._done: tuple[str, ...] | None = None

    async def run(self) -> None:
        """Renew and reconcile until cancelled; then give the lease up."""
        period = self._ttl_s / 3
        try:
            while True:
                try:
                    async with asyncio.timeout(self._ttl_s):
                        await self._renew()
                        await self._reconcile()
                except Exception as e:  # noqa: BLE001 - outermost loop: logged and tried again at the next period
                    self._done = None
                    if getattr(e, "code", None) == "lease_not_found":
                        self._lease = 0
                        continue
                    log.warning("endpoints of this server not reconciled: %s: %s", type(e).__name__, e)
                await asyncio.sleep(period)
        finally:
            await self._give_up()

    async def _renew(self) -> None:
        if self._lease:
            await self._store.lease_keep_alive(self._lease)
            return
        lease = await self._store.lease_grant(self._ttl_s)
        value = orjson.dumps({"port": self._port})
        await self._store.txn([], [put(self._key, value, lease)])
        self._lease = lease

    async def _give_up(self) -> None:
        if not self._lease:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._store.lease_revoke(self._lease)
        except Exception as e:  # noqa: BLE001 - the lease ends by itself; stopping must not fail for it
            log.info("lease of this server not revoked, it ends by itself: %s", e)

    async def _reconcile(self) -> None:
        found = await self._store.range(PREFIX, prefix_end(PREFIX))
        ips = tuple(sorted(kv.key[len(PREFIX) :].decode() for kv in found.kvs))
        if ips == self._done:
            return
        await self._write(SCHEME.named("endpoints"), endpoints_for(list(ips), self._port), ("subsets",))
        await self._write(
            SCHEME.named("endpointslices.discovery.k8s.io"), slice_for(list(ips), self._port), ("endpoints", "ports")
        )
        self._done = ips

    async def _write(self, info: ResourceInfo, wanted: Object, fields: tuple[str, ...]) -> None:
        def change(obj: Object) -> Object | None:
            if all(_same(obj.get(f), wanted[f]) for f in fields):
                return None
            return obj | {f: wanted[f] for f in fields}

        try:
            await self._registry.modify(_CONTEXT, info, NAMESPACE, NAME, change)
        except ApiError as e:
            if e.code != 404:
                raise
            try:
                await self._registry.create(_CONTEXT, info, NAMESPACE, wanted)
            except ApiError as again:
                if again.reason != "AlreadyExists":
                    raise


def _same(have: Any, want: Any) -> bool:
    """Equal in what we set; defaults that the registry filled in do not count."""
    if isinstance(want, dict) and isinstance(have, dict):
        return all(_same(have.get(k), v) for k, v in want.items())
    if isinstance(want, list) and isinstance(have, list):
        return len(have) == len(want) and all(_same(h, w) for h, w in zip(have, want, strict=True))
    return bool(have == want or (not have and not want))
