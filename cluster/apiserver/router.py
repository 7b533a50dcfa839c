"""Which handler answers a resource request. Pure table and checks; the handlers await.

    resource known? > namespace fits? > subresource known? > verb allowed? > handler

404 for what does not exist, 405 for what exists but not with this method.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aiohttp import web

from cluster.api import errors
from cluster.api.scheme import REVIEWS, subresource_verbs
from cluster.apiserver.call import Call, Reply
from cluster.apiserver.connecting import admitted
from cluster.apiserver.proxying import ProxyServer
from cluster.apiserver.reads import CacheReader
from cluster.apiserver.reviews import ReviewServer, TokenServer
from cluster.apiserver.streams import StreamServer
from cluster.apiserver.watch import WatchServer
from cluster.apiserver.writes import WriteServer
from cluster.registry.registry import Registry

Answer = Reply | web.StreamResponse
Handler = Callable[[Call], Awaitable[Answer]]

_REVIEWS = frozenset(r.name for r in REVIEWS)
_WITHOUT_NAMESPACE = frozenset({"list", "watch"})


class Router:
    def __init__(
        self,
        reader: CacheReader,
        watcher: WatchServer,
        writer: WriteServer,
        reviews: ReviewServer,
        tokens: TokenServer,
        streams: StreamServer,
        proxy: ProxyServer,
        edge: Mapping[tuple[str, str], Handler],
        registry: Registry,
    ) -> None:
        """`edge`: handlers of kinds that are stored nowhere, by resource name and verb."""
        connection = partial(admitted, registry)
        self._reviews = reviews
        self._edge = edge
        self._verbs: dict[str, Handler] = {
            "get": reader.get,
            "list": reader.get_list,
            "watch": watcher.serve,
            "create": writer.create,
            "update": writer.update,
            "patch": writer.patch,
            "delete": writer.delete,
            "deletecollection": writer.delete_collection,
        }
        self._subresources: dict[tuple[str, str], Handler] = {
            ("pods", "log"): streams.log,
            ("pods", "exec"): connection(streams.interactive),
            ("pods", "attach"): connection(streams.interactive),
            ("pods", "portforward"): connection(streams.port_forward),
            ("pods", "proxy"): connection(proxy.pod),
            ("services", "proxy"): connection(proxy.service),
            ("nodes", "proxy"): connection(proxy.node),
            ("serviceaccounts", "token"): tokens.create,
        }

    def handler(self, call: Call) -> Handler:
        """Raises ApiError 404, 405 or 501."""
        info, asked = call.kind, call.info
        if asked.namespace and not info.namespaced and info.plural != "namespaces":
            raise errors.path_not_found()
        if info.namespaced and not asked.namespace and asked.verb not in _WITHOUT_NAMESPACE:
            raise errors.path_not_found() if asked.name or info.custom is not None else errors.method_not_allowed()
        if asked.subresource:
            return self._subresource(call)
        if asked.verb not in info.verbs or (asked.verb == "create" and asked.name):
            raise errors.method_not_allowed()
        if asked.verb in ("update", "patch") and not asked.name:
            raise errors.method_not_allowed()
        if info.name in _REVIEWS:
            return self._reviews.create
        return self._edge.get((info.name, asked.verb)) or self._verbs[asked.verb]

    def _subresource(self, call: Call) -> Handler:
        info, asked = call.kind, call.info
        if asked.subresource not in info.subresources:
            raise errors.path_not_found()
        if asked.verb not in subresource_verbs(asked.subresource):
            raise errors.method_not_allowed()
        special = self._subresources.get((info.name, asked.subresource))
        if special is not None:
            return special
        return self._verbs[asked.verb]
