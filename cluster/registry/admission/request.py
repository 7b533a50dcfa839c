"""What an admission plugin sees, and how it reads other objects.

IO only through Core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cluster.api import errors
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry import keys
from cluster.registry.context import RequestContext
from cluster.registry.core import Core, Guard, Plan
from cluster.registry.store import KeyValue, prefix_end, unchanged
from cluster.registry.types import Stored

Object = dict[str, Any]

_LIST_TTL_S = 2.0
_MAX_REMEMBERED = 4096


@dataclass(slots=True)
class Request:
    """`obj` is the new object (None on delete), `old` the present one (None on create). `renewed`: a webhook or a
    policy has made another object of it, which has yet to pass the kind's strategy."""

    ctx: RequestContext
    info: ResourceInfo
    operation: Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
    namespace: str
    name: str
    obj: Object | None
    old: Object | None
    plan: Plan
    subresource: str = ""
    renewed: bool = False

    def warn(self, text: str) -> None:
        """A Warning header of the answer; a write that is tried again says it once."""
        if text not in self.ctx.warnings:
            self.ctx.warnings.append(text)

    def annotate(self, key: str, value: str) -> None:
        """An annotation of the request's audit event."""
        self.ctx.annotations[key] = value

    def forbid(self, why: str) -> errors.ApiError:
        return errors.forbidden(self.info, self.name, why)

    def forbid_unnamed(self, why: str) -> errors.ApiError:
        """As plugins say it that come before a name is generated: the same words at each try of a controller, so that
        its Events become one."""
        metadata = (self.obj or {}).get("metadata") or {}
        return errors.forbidden(self.info, metadata.get("generateName") or self.name, why)


class Reads:
    """Reads for admission. `guarded` remembers objects and lets the transaction prove that they have not changed since;
    a memory found stale is dropped, and the write is tried again."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._remembered: dict[bytes, Stored] = {}
        self._lists: dict[str, tuple[float, list[Stored]]] = {}

    async def guarded(self, plan: Plan, resource: str, namespace: str, name: str) -> Stored | None:
        key = keys.object_key(SCHEME.named(resource), namespace, name)
        stored = self._remembered.get(key)
        if stored is None:
            stored = await self._core.read(key)
            if stored is None:
                return None
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = stored

        def forget(kv: KeyValue | None) -> None:
            self._remembered.pop(key, None)

        plan.guards.append(Guard(unchanged(key, stored.revision), forget))
        return stored

    async def recent(self, resource: str) -> list[Stored]:
        """All objects of a small cluster-scoped resource, at most two seconds old (as an informer may be)."""
        at, items = self._lists.get(resource, (float("-inf"), []))
        now = self._core.clock()
        if now - at >= _LIST_TTL_S:
            items = await self.fresh(resource)
            self._lists[resource] = (now, items)
        return items

    async def fresh(self, resource: str) -> list[Stored]:
        prefix = keys.resource_prefix(SCHEME.named(resource))
        found = await self._core.range(prefix, prefix_end(prefix))
        return [self._core.codec.decode(kv.key, kv.value, kv.mod_revision) for kv in found.kvs]

    async def get(self, resource: str, namespace: str, name: str) -> Stored | None:
        return await self._core.read(keys.object_key(SCHEME.named(resource), namespace, name))
