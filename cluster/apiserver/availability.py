"""Which aggregated API servers answer; and the APIServices of the groups this server answers for itself.

Awaits the registry and the servers asked. Every API server asks for itself, once in a while and whenever an APIService
changes, and writes the condition Available where it differs. What the others serve is remembered, for discovery, and
what they say of it in OpenAPI (`remote_openapi.py`). The
groups served here have APIServices too, made and removed as they come and go, as in Kubernetes; those say Local.
Source: k8s.io/kube-aggregator `pkg/controllers/status`, `.../autoregister`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict

from cluster.api import meta
from cluster.api.errors import ApiError
from cluster.api.scheme import EDGE, SCHEME, ResourceInfo
from cluster.apiserver.aggregation import KUBE_AGGREGATOR, Aggregator, GroupVersion, remote_headers
from cluster.apiserver.cache import Cache
from cluster.apiserver.remote_openapi import RemoteOpenApi
from cluster.registry.context import internal_context
from cluster.registry.registry import Registry

log = logging.getLogger(__name__)

Object = dict[str, Any]

_EVERY_S = 10.0
_LOOK_S = 0.25
_PROBE_S = 5.0
_MANAGED = "kube-aggregator.kubernetes.io/automanaged"
_INFO = "apiservices.apiregistration.k8s.io"


def local_api_service(group: str, version: str) -> Object:
    """The APIService of a group version that is served here."""
    priority = 17_800 if group in ("", "apps", "batch", "autoscaling", "policy") else 1_000 if "." in group else 16_000
    spec: Object = {"version": version, "groupPriorityMinimum": priority, "versionPriority": 15 if group else 1}
    if group:
        spec["group"] = group
    return {"metadata": {"name": f"{version}.{group}", "labels": {_MANAGED: "true"}}, "spec": spec}


def resources_of(group: str, version: str, listing: Object) -> list[ResourceInfo]:
    """An APIResourceList as ResourceInfos, for discovery."""
    entries = [r for r in listing.get("resources") or () if isinstance(r, dict) and r.get("name")]
    subs: dict[str, list[str]] = {}
    for r in entries:
        plural, slash, sub = r["name"].partition("/")
        if slash:
            subs.setdefault(plural, []).append(sub)
    return [
        ResourceInfo(
            group,
            version,
            r.get("kind") or "",
            r["name"],
            r.get("singularName") or "",
            bool(r.get("namespaced")),
            tuple(r.get("shortNames") or ()),
            tuple(r.get("categories") or ()),
            tuple(r.get("verbs") or ()),
            tuple(subs.get(r["name"], ())),
        )
        for r in entries
        if "/" not in r["name"]
    ]


class Availability:
    def __init__(self, aggregator: Aggregator, registry: Registry, cache: Cache, clock: Callable[[], float]) -> None:
        self.openapi = RemoteOpenApi(aggregator)
        self._aggregator = aggregator
        self._registry = registry
        self._cache = cache
        self._clock = clock
        self._served: dict[GroupVersion, list[ResourceInfo]] = {}
        self.generation = 0

    @property
    def resources(self) -> list[ResourceInfo]:
        """What the available servers serve."""
        return [i for infos in self._served.values() for i in infos]

    async def run(self) -> None:
        """Until cancelled: ask when something changed, and every ten seconds."""
        try:
            await self._keep()
        finally:
            await self.openapi.stop()

    async def _keep(self) -> None:
        seen: object = None
        asked_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            table = self._cache.table(SCHEME.named(_INFO))
            now = loop.time()
            state = (table.changed, self._registry.catalog.generation)
            if state != seen or now - asked_at >= _EVERY_S:
                try:
                    await self._register()
                    self._forget_removed()
                    await asyncio.gather(*(self._check(s) for s in list(self._aggregator.remote().values())))
                    seen, asked_at = state, now
                except ApiError as e:  # the store's; tried again
                    log.warning("the APIServices cannot be kept: %s", e.message)
            await asyncio.sleep(_LOOK_S)

    # --- local ones

    async def _register(self) -> None:
        """Make what is missing, remove what is no longer served."""
        table = self._cache.table(SCHEME.named(_INFO))
        present = {e.meta.name: e for e in table.select()}
        infos = [*SCHEME.served(), *EDGE, *self._registry.catalog.custom()]
        wanted = dict.fromkeys((i.group, i.version) for i in infos)
        names = {f"{version}.{group}" for group, version in wanted}
        ctx = internal_context("kube-aggregator")
        info = SCHEME.named(_INFO)
        for group, version in wanted:
            if f"{version}.{group}" not in present:
                try:
                    await self._registry.create(ctx, info, "", local_api_service(group, version))
                except ApiError as e:
                    if e.reason != "AlreadyExists":
                        raise
        for name, entry in present.items():
            obj = entry.decode()
            if obj["spec"].get("service"):
                continue
            if name not in names and entry.labels.get(_MANAGED):
                await self._delete(name)
            elif name in names:
                await self._report(obj, True, "Local", "Local APIServices are always available")

    async def _delete(self, name: str) -> None:
        from cluster.registry.types import DeleteOptions

        ctx = internal_context("kube-aggregator")
        try:
            await self._registry.delete(ctx, SCHEME.named(_INFO), "", name, DeleteOptions())
        except ApiError as e:
            if e.reason != "NotFound":
                raise

    # --- remote ones

    def _forget_removed(self) -> None:
        for gv in [gv for gv in self._served if gv not in self._aggregator.remote()]:
            del self._served[gv]
            self.openapi.forget(gv)
            self.generation += 1

    async def _check(self, service: Object) -> None:
        spec = service["spec"]
        gv = (spec.get("group", ""), spec.get("version", ""))
        try:
            infos = await self._probe(service, *gv)
        except ApiError as e:
            self.openapi.forget(gv)
            missing = "not found" in e.message
            await self._report(service, False, "ServiceNotFound" if missing else "ServiceAccessError", e.message)
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError, ValueError) as e:
            self.openapi.forget(gv)
            why = f"failing or missing response from {_url(service)}: {getattr(e, 'os_error', e) or type(e).__name__}"
            await self._report(service, False, "FailedDiscoveryCheck", why)
        else:
            if self._served.get(gv) != infos:
                self._served[gv] = infos
                self.generation += 1
            await self._report(service, True, "Passed", "all checks passed")
            self.openapi.look(service, gv)

    async def _probe(self, service: Object, group: str, version: str) -> list[ResourceInfo]:
        headers: CIMultiDict[str] = CIMultiDict([("Accept", "application/json"), *remote_headers(KUBE_AGGREGATOR)])
        timeout = aiohttp.ClientTimeout(total=_PROBE_S)
        path = f"/apis/{group}/{version}"
        async with await self._aggregator.ask(service, "GET", path, headers, None, timeout) as answer:
            raw = await answer.read()
            if not 200 <= answer.status < 300:
                raise ValueError(f"bad status from {_url(service)}: {answer.status}")
        return resources_of(group, version, orjson.loads(raw))

    async def _report(self, service: Object, fine: bool, reason: str, message: str) -> None:
        new = {"type": "Available", "status": "True" if fine else "False", "reason": reason, "message": message}
        have = meta.condition(service, "Available")
        if have is not None and all(have.get(k) == v for k, v in new.items()):
            return

        def change(obj: Object) -> Object | None:
            conditions = obj.setdefault("status", {}).setdefault("conditions", [])
            return obj if meta.set_condition(conditions, new, self._clock()) else None

        ctx, name = internal_context("kube-aggregator"), service["metadata"]["name"]
        try:
            await self._registry.modify(ctx, SCHEME.named(_INFO), "", name, change, subresource="status")
        except ApiError as e:
            if e.reason not in ("NotFound", "Conflict"):
                raise


def _url(service: Object) -> str:
    spec = service["spec"]
    where = spec["service"]
    base = f"https://{where['name']}.{where['namespace']}.svc:{where.get('port') or 443}"
    return f"{base}/apis/{spec.get('group', '')}/{spec.get('version', '')}"
