"""What admission knows by heart: namespaces, limit ranges, classes, webhooks and policies, kept in step with the store.

IO only through Core. While `run` is followed, questions are answered from memory, a few milliseconds behind the store
(as Kubernetes' informers are); a process that does not run it reads the store each time. What must not be stale is
guarded in the transaction instead (request.py, quota.py).
"""

from __future__ import annotations

import asyncio

from cluster.api import errors
from cluster.registry.core import Core
from cluster.registry.feed import Feed
from cluster.registry.store import prefix_end
from cluster.registry.types import Stored

FOLLOWED = (
    "namespaces",
    "limitranges",
    "runtimeclasses.node.k8s.io",
    "ingressclasses.networking.k8s.io",
    "storageclasses.storage.k8s.io",
    "priorityclasses.scheduling.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
)
_WAIT_S = 10.0


def prefix_of(resource: str) -> bytes:
    plural, _, group = resource.partition(".")
    return f"/registry/{group or 'core'}/{plural}/".encode()


class PolicyView:
    """`all` and `one` give objects that are shared: never change them. `version` grows with every change of a
    resource, so that what is compiled from it can be kept."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._prefixes = {prefix_of(r): r for r in FOLLOWED}
        self._objects: dict[str, dict[bytes, Stored]] = {r: {} for r in FOLLOWED}
        self._versions = dict.fromkeys(FOLLOWED, 0)
        self._feed = Feed(core.store, tuple(self._prefixes), core.codec, self)
        self._running = False

    async def run(self) -> None:
        self._running = True
        await self._feed.run()

    async def all(self, resource: str, namespace: str = "") -> list[Stored]:
        """In key order; of one namespace if given."""
        if not await self._loaded():
            prefix = prefix_of(resource) + (namespace.encode() + b"/" if namespace else b"")
            found = await self._core.range(prefix, prefix_end(prefix))
            return [self._core.codec.decode(kv.key, kv.value, kv.mod_revision) for kv in found.kvs]
        objects = self._objects[resource]
        if not objects:
            return []
        start = prefix_of(resource) + namespace.encode() + b"/" if namespace else b""
        return [objects[k] for k in sorted(objects) if k.startswith(start)]

    async def one(self, resource: str, namespace: str, name: str) -> Stored | None:
        key = prefix_of(resource) + (f"{namespace}/{name}" if namespace else name).encode()
        if not await self._loaded():
            return await self._core.read(key)
        return self._objects[resource].get(key)

    async def version(self, resource: str) -> int:
        """0 while there never was such an object; -1 when nothing is followed, so nothing may be kept."""
        return self._versions[resource] if await self._loaded() else -1

    async def empty(self, resource: str) -> bool:
        """Without a copy of anything: the question of the hot path."""
        return not self._objects[resource] if await self._loaded() else not await self.all(resource)

    async def labels(self, namespace: str) -> dict[str, str]:
        """Of a namespace; {} when there is none."""
        found = await self.one("namespaces", "", namespace) if namespace else None
        return (found.obj["metadata"].get("labels") or {}) if found is not None else {}

    async def _loaded(self) -> bool:
        if not self._running:
            return False
        if not self._feed.synced:
            try:
                async with asyncio.timeout(_WAIT_S):
                    await self._feed.loaded.wait()
            except TimeoutError as e:
                raise errors.service_unavailable("admission has not loaded its policies yet") from e
        return True

    # --- what the feed calls

    def reset(self, prefix: bytes) -> None:
        resource = self._prefixes[prefix]
        self._objects[resource].clear()
        self._versions[resource] += 1

    def put(self, key: bytes, stored: Stored) -> None:
        resource = self._resource(key)
        self._objects[resource][key] = stored
        self._versions[resource] += 1

    def delete(self, key: bytes) -> None:
        resource = self._resource(key)
        self._objects[resource].pop(key, None)
        self._versions[resource] += 1

    def _resource(self, key: bytes) -> str:
        end = key.index(b"/", key.index(b"/", len(b"/registry/")) + 1) + 1
        return self._prefixes[key[:end]]
