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


class RegistryClient:
    def __init__(self, registry: Registry, ctx_factory: Callable[[], RequestContext]) -> None:
        self._registry = registry
        self._ctx = ctx_factory
        self._unbound: dict[PodKey, types.Stored] = {}

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
                if resource == "pods":
                    self._keep_unbound(event)
                yield WatchEvent(event.type, event.stored.obj, event.stored.cause)

    def _keep_unbound(self, event: types.WatchEvent) -> None:
        """What `bind` can start from without reading. Of no use, and forgotten, once bound or gone."""
        pod = event.stored.obj
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
        return stored.obj

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        made = await self._registry.create_all(self._ctx(), self._info(resource), objects)
        return [one if isinstance(one, ApiError) else one.obj for one in made]

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
        return stored.obj

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
        return stored.obj

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
        return await self._registry.bind(self._ctx(), batch, self._unbound, together=together, turn=turn)


def _labels(text: str) -> LabelSelector | None:
    return parse_label_selector(text) if text else None


def _fields(text: str) -> FieldSelector | None:
    return parse_field_selector(text) if text else None
