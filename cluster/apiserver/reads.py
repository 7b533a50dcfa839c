"""GET and LIST from the byte cache, linearizable unless the client asks for less.

Awaits the feed; IO only through it.

    resourceVersion  ""       everything acknowledged before the request (one coalesced ReadIndex)
                     "0"      whatever the cache has
                     N        at least N (with Exact, and for pages of an older list: that very revision, by the store)

A page is continued at its list's revision: from the cache while the resource did not change since, else from the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cluster.api import errors
from cluster.api.scheme import ResourceInfo
from cluster.api.selectors import parse_field_selector, parse_label_selector
from cluster.apiserver import metrics, options, selection, views
from cluster.apiserver.cache import Cache, Entry
from cluster.apiserver.call import Call, Reply
from cluster.apiserver.feed import CacheFeed
from cluster.apiserver.selection import Selection
from cluster.apiserver.versions import Versions
from cluster.registry.reading import decode_continue, encode_continue, parse_resource_version
from cluster.registry.registry import Registry


class CacheReader:
    """Serves GET and LIST."""

    def __init__(
        self, cache: Cache, feed: CacheFeed, registry: Registry, versions: Versions, clock: Callable[[], float]
    ) -> None:
        self._cache = cache
        self._versions = versions
        self._feed = feed
        self._registry = registry
        self._clock = clock

    async def freshen(self, resource_version: str) -> None:
        """Wait until the cache may answer for `resource_version`."""
        if resource_version == "0":
            await self._feed.loaded()
        elif resource_version:
            await self._feed.wait_for(parse_resource_version(resource_version))
        else:
            start = time.perf_counter()
            await self._feed.barrier()
            metrics.CACHE_WAIT.observe(time.perf_counter() - start)

    async def get(self, call: Call) -> Reply:
        info = call.kind
        if call.info.subresource not in ("", "status"):
            stored = await self._registry.get(
                call.context(), info, call.namespace, call.info.name, subresource=call.info.subresource
            )
            return Reply(raw=self._viewed(call, stored.raw) if call.accept.transform else stored.raw)
        await self.freshen(call.params.get("resourceVersion", ""))
        entry = self._cache.get(info, call.namespace, call.info.name)
        if entry is None:
            raise errors.not_found(info, call.info.name)
        if info.custom is not None:
            entry = await self._versions.one(info, entry)
        if not call.accept.transform:
            return Reply(raw=views.shown(info, entry.raw))
        return Reply(raw=self._viewed(call, entry.raw))

    def _viewed(self, call: Call, raw: bytes) -> bytes:
        include = views.include_of(call.params.get("includeObject", ""))
        return views.object_view(call.accept, call.kind, raw, self._clock(), include)

    async def get_list(self, call: Call) -> Reply:
        info, params = call.kind, call.params
        chosen = selection.parse(info, call.namespace, params.get("labelSelector", ""), params.get("fieldSelector", ""))
        limit = max(options.whole_number(params, "limit"), 0)
        version, match = params.get("resourceVersion", ""), params.get("resourceVersionMatch", "")
        token = params.get("continue", "")
        options.check_list(params)
        exact = match == "Exact" or (limit > 0 and not match and version not in ("", "0"))
        items: Sequence[Entry]
        if token:
            revision, start = decode_continue(token)
            if revision < 0:
                await self.freshen("")
                revision = self._cache.revision
            await self._feed.loaded()
            if self._cache.revision < revision or self._cache.table(info).changed > revision:
                return await self._from_store(call, chosen, limit)
            items, more, remaining = self._page(info, chosen, limit, start)
        elif exact:
            return await self._from_store(call, chosen, limit)
        else:
            await self.freshen(version)
            revision = self._cache.revision
            items, more, remaining = self._page(info, chosen, limit, b"")
        meta = views.list_meta(revision, encode_continue(revision, more) if more else "", remaining)
        if info.custom is not None:
            items = await self._versions.entries(info, items)
        return await self._reply(call, items, meta)

    async def _reply(self, call: Call, items: Sequence[views.Source], meta: dict[str, object]) -> Reply:
        include = views.include_of(call.params.get("includeObject", ""))
        return Reply(raw=await views.list_view(call.accept, call.kind, items, meta, self._clock(), include))

    def _page(self, info: ResourceInfo, chosen: Selection, limit: int, start: bytes) -> tuple[list[Entry], bytes, int]:
        """Items, the key where the next page starts (b"" when this is the last), and how many follow if known."""
        if not chosen.filters and not limit:
            return self._cache.table(info).select(chosen.namespace, start), b"", 0
        table = self._cache.table(info)
        if chosen.name and (chosen.namespace or not info.namespaced) and not start:
            entry = self._cache.get(info, chosen.namespace, chosen.name)
            return ([entry] if entry is not None and chosen.matches(entry) else []), b"", 0
        low, high = table.span(chosen.namespace, start)
        if not chosen.filters:
            cut = min(low + limit, high)
            found = [table.entries[k] for k in table.keys[low:cut]]
            return found, (table.keys[cut - 1] + b"\0" if cut < high else b""), high - cut
        found = []
        for i in range(low, high):
            entry = table.entries[table.keys[i]]
            if chosen.matches(entry):
                if limit and len(found) == limit:
                    return found, entry.key, 0
                found.append(entry)
        return found, b"", 0

    async def _from_store(self, call: Call, chosen: Selection, limit: int) -> Reply:
        params = call.params
        labels, fields = params.get("labelSelector", ""), params.get("fieldSelector", "")
        found = await self._registry.list(
            call.context(),
            call.kind,
            chosen.namespace,
            label_selector=parse_label_selector(labels) if labels else None,
            field_selector=parse_field_selector(fields) if fields else None,
            limit=limit,
            continue_token=params.get("continue", ""),
            resource_version="" if params.get("continue") else params.get("resourceVersion", ""),
            resource_version_match="" if params.get("continue") else "Exact",
        )
        items = (
            [views.Bytes(views.stored_form(call.kind, s.raw)) for s in found.items]
            if call.kind.view_of
            else found.items
        )
        return await self._reply(call, items, views.list_meta(found.revision, found.continue_token, found.remaining))
