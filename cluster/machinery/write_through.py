"""A Client whose writes are seen by the informers at once, before the watch delivers them.

IO only through the wrapped Client. With it a reconcile reads its own writes, so no controller needs to count what it
expects to see (client-go's "expectations") for creates and updates; deletes return nothing and are noted by uid where
it matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.api.errors import ApiError
from cluster.machinery.client import Binding, BindOutcomes, Client, Created, Obj, PatchKind, Reads, Turn
from cluster.machinery.informer import Informers

# These subresources answer with another kind than the object's own.
_FOREIGN = frozenset({"binding", "eviction", "scale", "token"})


class WriteThrough(Reads):
    def __init__(self, client: Client, informers: Informers) -> None:
        super().__init__(client)
        self._informers = informers

    async def create(
        self, resource: str, obj: Obj, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Obj:
        result = await self._client.create(resource, obj, namespace, subresource=subresource, name=name)
        return self._seen(resource, subresource, result)

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        made = await self._client.create_all(resource, objects)
        for one in made:
            if not isinstance(one, ApiError):
                self._seen(resource, "", one)
        return made

    async def update(self, resource: str, obj: Obj, *, subresource: str = "") -> Obj:
        return self._seen(resource, subresource, await self._client.update(resource, obj, subresource=subresource))

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
        result = await self._client.patch(resource, name, patch, namespace, kind=kind, subresource=subresource)
        return self._seen(resource, subresource, result)

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
        await self._client.delete(
            resource, name, namespace, uid=uid, grace_period_s=grace_period_s, propagation=propagation
        )

    async def take_turn(self, holder: str) -> Turn:
        return await self._client.take_turn(holder)

    async def bind(self, bindings: Sequence[Binding], *, together: bool = False, turn: int = 0) -> BindOutcomes:
        return await self._client.bind(bindings, together=together, turn=turn)

    def _seen(self, resource: str, subresource: str, result: Obj) -> Obj:
        meta = result.get("metadata", {})
        finished = meta.get("deletionTimestamp") and not meta.get("finalizers") and resource != "pods"
        if subresource not in _FOREIGN and not finished:
            self._informers.observe(resource, result)
        return result
