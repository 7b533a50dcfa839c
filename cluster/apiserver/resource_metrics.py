"""Serves metrics.k8s.io: what pods and nodes use right now, asked of their kubelets when somebody asks for it.

IO: GET /stats/summary of kubelets. What metrics-server does by scraping every node all the time is done here on demand
and kept for some seconds: `kubectl top` and autoscalers cost what they ask for, an idle cluster costs nothing. A
kubelet that does not answer leaves its pods out, as metrics-server does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp
import orjson

from cluster.api import errors
from cluster.api import resource_metrics as forms
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.api.selectors import FieldSelector, parse_field_selector, parse_label_selector
from cluster.apiserver import views
from cluster.apiserver.cache import Cache, Entry
from cluster.apiserver.call import Call, Reply
from cluster.apiserver.feed import CacheFeed
from cluster.apiserver.kubelet import KubeletClient

log = logging.getLogger(__name__)
Object = dict[str, Any]
_KEEP_S = 5.0
_ASK_S = 5.0
_AT_ONCE = 32


class ResourceMetrics:
    def __init__(self, kubelets: KubeletClient, cache: Cache, feed: CacheFeed, clock: Callable[[], float]) -> None:
        self._kubelets = kubelets
        self._cache = cache
        self._feed = feed
        self._clock = clock
        self._asked: dict[str, tuple[float, asyncio.Task[Object | None]]] = {}
        self._limit = asyncio.Semaphore(_AT_ONCE)

    # ------------------------------------------------------------ handlers

    async def get_pod(self, call: Call) -> Reply:
        await self._feed.barrier()
        entry = self._cache.get(SCHEME.named("pods"), call.namespace, call.info.name)
        found = await self._of_pods([entry]) if entry is not None else []
        return self._one(call, found)

    async def list_pods(self, call: Call) -> Reply:
        await self._feed.barrier()
        entries = self._chosen(call, self._cache.table(SCHEME.named("pods")).select(call.namespace, b""))
        return await self._many(call, await self._of_pods(entries))

    async def get_node(self, call: Call) -> Reply:
        await self._feed.barrier()
        entry = self._cache.get(SCHEME.named("nodes"), "", call.info.name)
        found = await self._of_nodes([entry]) if entry is not None else []
        return self._one(call, found)

    async def list_nodes(self, call: Call) -> Reply:
        await self._feed.barrier()
        entries = self._chosen(call, self._cache.table(SCHEME.named("nodes")).select("", b""))
        return await self._many(call, await self._of_nodes(entries))

    # ------------------------------------------------------------ from entries to objects

    async def _of_pods(self, entries: list[Entry]) -> list[Object]:
        wanted = {(e.meta.namespace, e.meta.name): e for e in entries if e.node}
        summaries = await self._summaries({e.node for e in wanted.values()})
        used = {(p.namespace, p.name): p for summary in summaries.values() for p in forms.pods_of(summary)}
        return [forms.pod_metrics(used[key], dict(wanted[key].labels)) for key in sorted(wanted.keys() & used.keys())]

    async def _of_nodes(self, entries: list[Entry]) -> list[Object]:
        labels = {e.meta.name: dict(e.labels) for e in entries}
        summaries = await self._summaries(labels)
        used = {name: forms.node_of(summary) for name, summary in sorted(summaries.items())}
        return [forms.node_metrics(name, u, labels[name]) for name, u in used.items() if u is not None]

    def _chosen(self, call: Call, entries: list[Entry]) -> list[Entry]:
        """By the pods' and nodes' own labels; fields are metadata.name and metadata.namespace."""
        label_text, field_text = (call.params.get(k, "") for k in ("labelSelector", "fieldSelector"))
        try:
            labels = parse_label_selector(label_text) if label_text.strip() else None
            fields = parse_field_selector(field_text) if field_text.strip() else None
        except ValueError as e:
            raise errors.bad_request(str(e)) from e
        _check_fields(fields)
        return [
            e
            for e in entries
            if (labels is None or labels.matches(e.labels)) and (fields is None or fields.matches(e.decode()))
        ]

    def _one(self, call: Call, found: list[Object]) -> Reply:
        if not found:
            raise errors.not_found(call.kind, call.info.name)
        return Reply(raw=views.object_view(call.accept, call.kind, orjson.dumps(found[0]), self._clock(), "Metadata"))

    async def _many(self, call: Call, found: list[Object]) -> Reply:
        items = [views.Bytes(orjson.dumps(o)) for o in found]
        raw = await views.list_view(call.accept, call.kind, items, {"resourceVersion": ""}, self._clock(), "Metadata")
        return Reply(raw=raw)

    # ------------------------------------------------------------ kubelets

    async def _summaries(self, nodes: Iterable[str]) -> dict[str, Object]:
        """By node name; nodes that do not answer are left out."""
        names = sorted(set(nodes))
        answers = await asyncio.gather(*(asyncio.shield(self._summary(name)) for name in names))
        return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}

    def _summary(self, node: str) -> asyncio.Task[Object | None]:
        """Shared by all who ask within some seconds."""
        now = asyncio.get_running_loop().time()
        for name in [n for n, (at, task) in self._asked.items() if now - at > _KEEP_S and task.done()]:
            del self._asked[name]
        kept = self._asked.get(node)
        if kept is None:
            kept = self._asked[node] = (now, asyncio.get_running_loop().create_task(self._ask(node)))
        return kept[1]

    async def _ask(self, node: str) -> Object | None:
        limit = aiohttp.ClientTimeout(total=_ASK_S)
        try:
            async with self._limit:
                url = f"{self._kubelets.node_url(node)}/stats/summary"
                async with self._kubelets.session.get(url, timeout=limit) as response:
                    if response.status != 200:
                        log.info("metrics of node %s: its kubelet answered %d", node, response.status)
                        return None
                    answer: Object = orjson.loads(await response.read())
                    return answer
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
            log.info("metrics of node %s: %s", node, err)
            return None


def _check_fields(fields: FieldSelector | None) -> None:
    for term in fields.terms if fields is not None else ():
        if term.path not in ("metadata.name", "metadata.namespace"):
            raise errors.bad_request(f'field label not supported: "{term.path}"')
