"""Every resource there is: the built-in ones and those that definitions in the store add.

IO only through Core. `run` follows the definitions, so that a new one is known some milliseconds after it is
established, in every process that has a registry. The lookups are of memory; who must not miss a resource that was
just made calls `fresh` first. Built-in resources win over definitions of the same name.

Invariant: a `ResourceInfo` of a custom resource carries its compiled version (`info.custom`), which never changes; a
changed definition makes new ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cluster.api import errors
from cluster.api.crd import definition, versions
from cluster.api.crd.versions import CustomVersion
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry import keys
from cluster.registry.core import Core, Guard
from cluster.registry.feed import Feed
from cluster.registry.store import KeyValue, prefix_end
from cluster.registry.types import Stored

log = logging.getLogger(__name__)

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
_PREFIX = b"/registry/apiextensions.k8s.io/customresourcedefinitions/"
_WAIT_S = 5.0


class _Definition:
    """One definition: its served versions, the preferred first, and the one objects are stored in."""

    __slots__ = ("served", "stored")

    def __init__(self, crd: dict[str, Any]) -> None:
        self.served = versions.served(crd)
        kept = [v for v in self.served if v.version == v.storage]
        self.stored: CustomVersion | None = None
        if definition.is_established(crd):
            self.stored = kept[0] if kept else versions.stored(crd)


class Catalog:
    """`Scheme`, and the definitions. `generation` grows with every change; `on_change` is called after each."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._feed = Feed(core.store, (_PREFIX,), core.codec, self)
        self._running = False
        self._definitions: dict[bytes, _Definition] = {}
        self._by_resource: dict[tuple[str, str, str], ResourceInfo] = {}
        self._by_kind: dict[tuple[str, str, str], ResourceInfo] = {}
        self._by_name: dict[str, ResourceInfo] = {}
        self._listeners: list[Callable[[], None]] = []
        self.generation = 0

    # --- following

    async def run(self) -> None:
        self._running = True
        await self._feed.run()

    async def loaded(self) -> None:
        """Wait for the first load; raises ApiError 503 when it does not come."""
        if not self._running:
            await self._read()
            return
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._feed.loaded.wait()
        except TimeoutError as e:
            raise errors.service_unavailable("the custom resource definitions are not loaded yet") from e

    async def fresh(self) -> None:
        """Everything that was defined before this call is known after it."""
        if not self._running:
            await self._read()
            return
        revision = (await self._core.range(b"/sk8/none")).revision
        if not await self._feed.until(lambda: self._feed.synced and self._feed.revision >= revision, _WAIT_S):
            raise errors.service_unavailable("the custom resource definitions are not up to date")

    async def _read(self) -> None:
        found = await self._core.range(_PREFIX, prefix_end(_PREFIX))
        known = dict(self._definitions)
        self._definitions.clear()
        for kv in found.kvs:
            self._add(kv.key, self._core.codec.decode(kv.key, kv.value, kv.mod_revision))
        if known or self._definitions:
            self._rebuild()

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    # --- what the feed calls

    def reset(self, prefix: bytes) -> None:
        self._definitions.clear()
        self._rebuild()

    def put(self, key: bytes, stored: Stored) -> None:
        self._add(key, stored)
        self._rebuild()

    def delete(self, key: bytes) -> None:
        self._definitions.pop(key, None)
        self._rebuild()

    def _add(self, key: bytes, stored: Stored) -> None:
        try:
            self._definitions[key] = _Definition(stored.obj)
        except Exception:  # one definition that cannot be read must not hide the others
            log.exception("the definition %s cannot be served", key.decode(errors="replace"))
            self._definitions.pop(key, None)

    def _rebuild(self) -> None:
        self._by_resource, self._by_kind, self._by_name = {}, {}, {}
        for found in self._definitions.values():
            for version in found.served:
                info = version.info
                if SCHEME.resource(info.group, info.version, info.plural) is None:
                    self._by_resource[info.group, info.version, info.plural] = info
                    self._by_kind[info.group, info.version, info.kind] = info
            if found.stored is not None:
                self._by_name.setdefault(found.stored.info.name, found.stored.info)
        self.generation += 1
        for listener in self._listeners:
            listener()

    # --- looking up

    def named(self, name: str) -> ResourceInfo:
        """`crontabs.example.com` (in its storage version) or `pods`; raises KeyError."""
        return self._by_name[name] if name in self._by_name else SCHEME.named(name)

    def resource(self, group: str, version: str, plural: str) -> ResourceInfo | None:
        return SCHEME.resource(group, version, plural) or self._by_resource.get((group, version, plural))

    def for_kind(self, group: str, version: str, kind: str) -> ResourceInfo | None:
        return SCHEME.for_kind(group, version, kind) or self._by_kind.get((group, version, kind))

    def all(self) -> list[ResourceInfo]:
        """Every resource once: custom ones in their storage version."""
        return [*SCHEME.all(), *(i for n, i in self._by_name.items() if not _builtin(n))]

    def custom(self) -> list[ResourceInfo]:
        """Custom resources in every served version, those of one definition together, the preferred first."""
        return list(self._by_resource.values())

    async def find(self, group: str, version: str, plural: str) -> ResourceInfo | None:
        """Like `resource`, but asks the store before it says that there is none."""
        found = self.resource(group, version, plural)
        if found is None and "." in group:
            await self.fresh()
            found = self.resource(group, version, plural)
        return found

    # --- guarding

    def exists(self, info: ResourceInfo, name: str) -> Guard:
        """A create holds only while the definition is there and is not being deleted."""
        custom: CustomVersion = info.custom
        key = _PREFIX + custom.definition.encode()

        def fail(kv: KeyValue | None) -> ApiError | None:
            if kv is None:
                return errors.path_not_found()
            crd = self._core.codec.decode(kv.key, kv.value, kv.mod_revision).obj
            if "deletionTimestamp" in crd["metadata"]:
                return terminating(info, name)
            custom.crd_revision = kv.mod_revision  # it changed in another way: the next attempt compares with this
            return None

        return Guard((key, "mod", "=", custom.crd_revision), fail)


def terminating(info: ResourceInfo, name: str) -> ApiError:
    return errors.forbidden(info, name, "create not allowed while custom resource definition is terminating")


def _builtin(name: str) -> bool:
    try:
        SCHEME.named(name)
    except KeyError:
        return False
    return True


__all__ = ["DEFINITIONS", "Catalog", "keys", "terminating"]
