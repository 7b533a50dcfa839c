"""An API of dictionaries for measuring controllers alone, and a kubelet of no words: pods run as soon as they are made.

What it costs is part of what is measured (it is a tenth of it); admission, validation, storage and the network are not
there. Fulfils `cluster.machinery.client.Client`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from cluster.api.errors import not_found
from cluster.api.patch import merge_patch
from cluster.api.scheme import SCHEME
from cluster.machinery.client import Binding, BindOutcomes, Created, Obj, ObjectList, PatchKind, Turn, WatchEvent

_READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}


class MemoryApi:
    """Every object is given away as it is kept; nobody changes one in place."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Obj]] = {}
        self._watchers: dict[str, list[asyncio.Queue[WatchEvent]]] = {}
        self._revisions = itertools.count(1)
        self._changed = asyncio.Event()
        self.writes = 0

    def all(self, resource: str) -> list[Obj]:
        return list(self._objects.get(resource, {}).values())

    async def until(self, reached: Callable[[], bool]) -> None:
        """Looks again after each write."""
        while not reached():
            self._changed.clear()
            await self._changed.wait()

    def size(self, resource: str) -> int:
        return len(self._objects.get(resource, ()))

    async def get(self, resource: str, name: str, namespace: str = "") -> Obj:
        found = self._objects.get(resource, {}).get((namespace, name))
        if found is None:
            raise not_found(SCHEME.named(resource).plural, name)
        return found

    async def list(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        return ObjectList(self.all(resource), str(next(self._revisions)))

    async def watch(self, resource: str, namespace: str = "", **_: Any) -> AsyncIterator[WatchEvent]:
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self._watchers.setdefault(resource, []).append(queue)
        while True:
            yield await queue.get()

    async def create(
        self, resource: str, obj: Obj, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Obj:
        meta = dict(obj["metadata"])
        number = next(self._revisions)
        meta.setdefault("name", f"{meta.pop('generateName', '')}{number:x}")
        meta |= {"uid": str(number), "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
        if namespace:
            meta["namespace"] = namespace
        info = SCHEME.named(resource)
        made = {"apiVersion": info.api_version, "kind": info.kind, **obj, "metadata": meta}
        self._put("ADDED", resource, made)
        if resource == "pods":
            address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [_READY]}
            self._put("MODIFIED", resource, {**made, "spec": {**made["spec"], "nodeName": "n1"}, "status": status})
        return made

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        return [await self.create(resource, obj, obj["metadata"].get("namespace", "")) for obj in objects]

    async def update(self, resource: str, obj: Obj, *, subresource: str = "") -> Obj:
        meta = dict(obj["metadata"])
        old = self._objects[resource][meta.get("namespace", ""), meta["name"]]
        if not subresource and old.get("spec") != obj.get("spec"):
            meta["generation"] = int(meta.get("generation", 1)) + 1
        return self._put("MODIFIED", resource, {**obj, "metadata": meta})

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
        changed = merge_patch(await self.get(resource, name, namespace), patch)
        return await self.update(resource, changed, subresource=subresource)

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
        found = await self.get(resource, name, namespace)
        del self._objects[resource][namespace, name]
        self._tell("DELETED", resource, found)

    async def take_turn(self, holder: str) -> Turn:
        return Turn(0)

    async def bind(self, bindings: Sequence[Binding], *, together: bool = False, turn: int = 0) -> BindOutcomes:
        return [None] * len(bindings)

    def _put(self, type_: str, resource: str, obj: Obj) -> Obj:
        meta = obj["metadata"]
        self._objects.setdefault(resource, {})[meta.get("namespace", ""), meta["name"]] = obj
        return self._tell(type_, resource, obj)

    def _tell(self, type_: str, resource: str, obj: Obj) -> Obj:
        self.writes += 1
        self._changed.set()
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(next(self._revisions))}}
        if type_ != "DELETED":
            self._objects[resource][obj["metadata"].get("namespace", ""), obj["metadata"]["name"]] = obj
        for queue in self._watchers.get(resource, ()):
            queue.put_nowait(WatchEvent(type_, obj))
        return obj
