"""The Client in process: the same calls straight into the registry, for the control plane (scheduler, controllers).

IO only through the injected Registry. Nothing is skipped on this way (identity, admission, validation, audit); what is
saved is HTTP. `ctx_factory` makes the context of each call; a leased component's factory puts the elector's fence into
it, so every write is compared with the leadership it was made under.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.api.scheme import ResourceInfo
from cluster.api.selectors import FieldSelector, LabelSelector, parse_field_selector, parse_label_selector
from cluster.machinery.client import (
    PATCH_MEDIA_TYPES,
    Binding,
    BindOutcomes,
    Created,
    Obj,
    ObjectList,
    PatchKind,
    Turn,
    WatchEvent,
)
from cluster.registry import types
from cluster.registry.binding import PodKey
from cluster.registry.context import RequestContext

if TYPE_CHECKING:
    from cluster.registry.registry import Registry

_ECHOES = 2000


class RegistryClient:
    def __init__(self, registry: Registry, ctx_factory: Callable[[], RequestContext]) -> None:
        self._registry = registry
        self._ctx = ctx_factory
        self._unbound: dict[PodKey, types.Stored] = {}
        self._echoes = Echoes()

    def _info(self, resource: str) -> ResourceInfo:
        """A custom resource in its storage version. Raises ApiError 404 for what is not defined (any more)."""
        try:
            return self._registry.catalog.named(resource)
        except KeyError:
            raise errors.path_not_found() from None

    async def get(self, resource: str, name: str, namespace: str = "") -> Obj:
        stored = await self._registry.get(self._ctx(), self._info(resource), namespace, name)
        return stored.obj

    async def list(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        if resource == "pods":
            self._unbound.clear()  # a watch broke off: what went meanwhile will not be told
        result = await self._registry.list(
            self._ctx(),
            self._info(resource),
            namespace,
            label_selector=_labels(label_selector),
            field_selector=_fields(field_selector),
        )
        return ObjectList([stored.obj for stored in result.items], str(result.revision))

    async def watch(
        self,
        resource: str,
        namespace: str = "",
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        self._echoes.expect(resource)
        stream = self._registry.watch(
            self._ctx(),
            self._info(resource),
            namespace,
            revision=int(resource_version or 0),
            label_selector=_labels(label_selector),
            field_selector=_fields(field_selector),
        )
        async for event in stream:
            if event.type == "BOOKMARK":
                yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(event.stored.revision)}})
            else:
                obj = self._echoes.of(resource, event)
                if resource == "pods":
                    self._keep_unbound(event, obj)
                yield WatchEvent(event.type, obj, event.stored.cause)

    def _keep_unbound(self, event: types.WatchEvent, pod: Obj) -> None:
        """What `bind` can start from without reading. Of no use, and forgotten, once bound or gone."""
        key = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if event.type == "DELETED" or pod["spec"].get("nodeName"):
            self._unbound.pop(key, None)
        else:
            self._unbound[key] = event.stored

    async def create(
        self, resource: str, obj: Obj, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Obj:
        namespace = namespace or obj.get("metadata", {}).get("namespace", "")
        stored = await self._registry.create(
            self._ctx(), self._info(resource), namespace, obj, subresource=subresource, name=name
        )
        return self._echoes.written(resource, stored, subresource)

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        made = await self._registry.create_all(self._ctx(), self._info(resource), objects)
        return [one if isinstance(one, ApiError) else self._echoes.written(resource, one) for one in made]

    async def update(self, resource: str, obj: Obj, *, subresource: str = "") -> Obj:
        meta = obj["metadata"]
        stored = await self._registry.update(
            self._ctx(),
            self._info(resource),
            meta.get("namespace", ""),
            meta["name"],
            obj,
            subresource=subresource,
        )
        return self._echoes.written(resource, stored, subresource)

    async def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
    ) -> Obj:
        stored = await self._registry.patch(
            self._ctx(),
            self._info(resource),
            namespace,
            name,
            PATCH_MEDIA_TYPES[kind],
            orjson.dumps(patch),
            subresource=subresource,
            force=kind == "apply",
        )
        return self._echoes.written(resource, stored, subresource)

    async def delete(
        self,
        resource: str,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_period_s: int | None = None,
        propagation: str = "",
    ) -> None:
        options = types.DeleteOptions(uid=uid, grace_period_s=grace_period_s, propagation=propagation)
        await self._registry.delete(self._ctx(), self._info(resource), namespace, name, options, grouped=True)

    async def recount(self, namespace: str, name: str) -> None:
        """QuotaCounter of the controllers: a ResourceQuota's status, from what is stored."""
        await self._registry.recount_quota(self._ctx(), namespace, name)

    async def take_turn(self, holder: str) -> Turn:
        return Turn(*await self._registry.take_turn(self._ctx(), holder))

    async def bind(self, bindings: Sequence[Binding], *, together: bool = False, turn: int = 0) -> BindOutcomes:
        batch = [types.Binding(b.namespace, b.name, b.uid, b.node) for b in bindings]
        bound = self._echoes.bound
        return await self._registry.bind(self._ctx(), batch, self._unbound, together=together, turn=turn, bound=bound)


class Echoes:
    """What this process wrote and its own watch will tell of: decoded already, it need not be decoded again.

    Bounded: kept is what is watched, and what the watch has not passed yet, as far as there is room.
    """

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        """The last revision told of each resource that somebody here watches."""
        self._written: dict[tuple[str, bytes], tuple[int, Obj]] = {}

    def expect(self, resource: str) -> None:
        """Somebody here watches it."""
        self._told.setdefault(resource, 0)

    def written(self, resource: str, stored: types.Stored, subresource: str = "") -> Obj:
        """The object of an answer. Some subresources answer with another kind of object."""
        if subresource in ("", "status") and not stored.removed:
            self._note(resource, stored.key, stored.revision, stored.obj)
        return stored.obj

    def bound(self, key: bytes, revision: int, pod: Obj) -> None:
        self._note("pods", key, revision, pod)

    def _note(self, resource: str, key: bytes, revision: int, obj: Obj) -> None:
        told = self._told.get(resource)
        if told is None or revision <= told:
            return
        self._written[resource, key] = revision, obj
        if len(self._written) > _ECHOES:
            del self._written[next(iter(self._written))]

    def of(self, resource: str, event: types.WatchEvent) -> Obj:
        """The object that the watch tells of. One that left a selector is told of as it was: no echo."""
        told = event.stored
        self._told[resource] = max(told.revision, self._told.get(resource, 0))
        revision, obj = self._written.get((resource, told.key), (0, None))
        if obj is None or revision > told.revision:
            return told.obj
        del self._written[resource, told.key]
        return obj if revision == told.revision and event.type != "DELETED" else told.obj


def _labels(text: str) -> LabelSelector | None:
    return parse_label_selector(text) if text else None


def _fields(text: str) -> FieldSelector | None:
    return parse_field_selector(text) if text else None
