"""The garbage collector: deletes what no owner wants any more; background, foreground and orphan deletion.

A shell around `garbage_collector_core`. Keys are `resource|namespace|name`. Caches say what might be; before anything
is deleted, an owner the cache does not show is asked for at the API, since caches of two resources are not in step
(a dependent may be seen before its owner). Events and Leases of machines own nothing and are owned by nothing that
matters here, and change all the time: Events are not cached.
"""

from __future__ import annotations

import asyncio

from cluster.api.errors import ApiError
from cluster.api.scheme import ResourceInfo
from cluster.controllers import garbage_collector_core as core
from cluster.controllers.env import Env
from cluster.controllers.garbage_collector_core import OwnerState
from cluster.machinery.client import Obj, ignore_not_found, is_not_found
from cluster.machinery.informer import Informer
from cluster.machinery.reconciler import Reconciler, Result

_IGNORED = frozenset({"events"})
_ABSENT_CACHE = 2000


class GarbageCollector:
    name = "garbage_collector"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._events = env.recorder("garbage-collector-controller")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_gc_syncs)
        self._informers: dict[str, Informer] = {}
        self._absent: dict[str, None] = {}
        self._follow()
        env.resources.on_change(self._follow)

    def _follow(self) -> None:
        """One informer for each resource there is; those of definitions come and go."""
        infos = [i for i in self._env.resources.all() if i.name not in _IGNORED]
        wanted = {i.name for i in infos if "delete" in i.verbs and "watch" in i.verbs}
        for name in [n for n in self._informers if n not in wanted]:
            del self._informers[name]
            self._env.informers.drop(name)
        for name in sorted(wanted - self._informers.keys()):
            informer = self._env.informer(name)
            informer.add_index("owners", owner_uids)
            self._informers[name] = informer
            informer.add_handler(_Listener(self, name))

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for resource, informer in self._informers.items():
            for obj in informer.items():
                self.look_at(resource, obj)

    def look_at(self, resource: str, obj: Obj) -> None:
        meta = obj["metadata"]
        if meta.get("ownerReferences") or core.is_foreground(obj) or core.is_orphaning(obj):
            self.reconciler.queue.add(f"{resource}|{meta.get('namespace', '')}|{meta['name']}")

    def gone(self, obj: Obj) -> None:
        """An object vanished: its dependents lost an owner, its owners a dependent that may have held them."""
        uid = obj["metadata"]["uid"]
        self._absent[uid] = None
        while len(self._absent) > _ABSENT_CACHE:
            del self._absent[next(iter(self._absent))]
        for resource, dependent in self._dependents(uid):
            self.look_at(resource, dependent)
        self.changed_owners(obj)

    def changed_owners(self, obj: Obj) -> None:
        for ref in obj["metadata"].get("ownerReferences") or []:
            info = self._info_of(ref)
            if info is not None and info.name in self._informers:
                namespace = obj["metadata"].get("namespace", "") if info.namespaced else ""
                owner = self._informers[info.name].get(namespace, ref["name"])
                if owner is not None and core.is_foreground(owner):
                    self.look_at(info.name, owner)

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        resource, namespace, name = key.split("|")
        informer = self._informers.get(resource)
        obj = informer.get(namespace, name) if informer is not None else None
        if obj is None:
            return None
        if core.is_orphaning(obj):
            await self._orphan(resource, obj)
            return None
        if core.is_foreground(obj):
            await self._foreground(resource, obj)
            return None
        refs = obj["metadata"].get("ownerReferences") or []
        states = await asyncio.gather(*(self._owner_state(obj, ref) for ref in refs))
        owners = {ref["uid"]: state for ref, state in zip(refs, states, strict=True)}
        match core.decide(obj, owners, lambda: [d for _, d in self._dependents(obj["metadata"]["uid"])]):
            case core.Delete(propagation, unblock):
                if unblock:
                    await self._unblock(resource, obj)
                await self._delete(resource, obj, propagation)
            case core.DropOwners(uids):
                await self._drop_refs(resource, obj, set(uids))
            case core.Keep():
                pass
        return None

    async def _owner_state(self, obj: Obj, ref: Obj) -> OwnerState:
        uid = ref["uid"]
        if uid in self._absent:
            return OwnerState.ABSENT
        info = self._info_of(ref)
        if info is None:
            return OwnerState.SOLID  # a kind we do not serve: never delete on its account
        namespace = obj["metadata"].get("namespace", "") if info.namespaced else ""
        if info.namespaced and not namespace:
            self._events.event(
                obj,
                "Warning",
                "OwnerRefInvalidNamespace",
                f"ownerRef [{ref['apiVersion']}/{ref['kind']}, name: {ref['name']}, uid: {uid}] "
                'does not exist in namespace ""',
            )
            return OwnerState.SOLID
        informer = self._informers.get(info.name)
        owner = informer.get(namespace, ref["name"]) if informer is not None else None
        if owner is None or owner["metadata"]["uid"] != uid:
            owner = await self._live(info, namespace, ref["name"])
        if owner is None or owner["metadata"]["uid"] != uid:
            self._absent[uid] = None
            return OwnerState.ABSENT
        return OwnerState.WAITING if core.is_foreground(owner) else OwnerState.SOLID

    def _info_of(self, ref: Obj) -> ResourceInfo | None:
        group, _, version = ref["apiVersion"].rpartition("/")
        return self._env.resources.for_kind(group, version, ref["kind"])

    async def _live(self, info: ResourceInfo, namespace: str, name: str) -> Obj | None:
        try:
            return await self._env.client.get(info.name, name, namespace)
        except ApiError as err:
            if is_not_found(err):
                return None
            raise

    def _dependents(self, uid: str) -> list[tuple[str, Obj]]:
        return [(r, obj) for r, informer in self._informers.items() for obj in informer.by_index("owners", uid)]

    async def _foreground(self, resource: str, owner: Obj) -> None:
        dependents = self._dependents(owner["metadata"]["uid"])
        if core.foreground_done(owner, [d for _, d in dependents]):
            await self._drop_finalizer(resource, owner, core.FOREGROUND)
            return
        for kind, dependent in dependents:
            self.look_at(kind, dependent)

    async def _orphan(self, resource: str, owner: Obj) -> None:
        uid = owner["metadata"]["uid"]
        await asyncio.gather(*(self._drop_refs(kind, d, {uid}) for kind, d in self._dependents(uid)))
        await self._drop_finalizer(resource, owner, core.ORPHAN)

    # ---- writes

    async def _delete(self, resource: str, obj: Obj, propagation: str) -> None:
        meta = obj["metadata"]
        with ignore_not_found():
            await self._env.client.delete(
                resource, meta["name"], meta.get("namespace", ""), uid=meta["uid"], propagation=propagation
            )

    async def _drop_refs(self, resource: str, obj: Obj, uids: set[str]) -> None:
        rest = [r for r in obj["metadata"].get("ownerReferences") or [] if r["uid"] not in uids]
        await self._patch_meta(resource, obj, {"ownerReferences": rest or None})

    async def _unblock(self, resource: str, obj: Obj) -> None:
        free = [{**r, "blockOwnerDeletion": False} for r in obj["metadata"]["ownerReferences"]]
        await self._patch_meta(resource, obj, {"ownerReferences": free})

    async def _drop_finalizer(self, resource: str, obj: Obj, finalizer: str) -> None:
        rest = [f for f in obj["metadata"].get("finalizers") or [] if f != finalizer]
        await self._patch_meta(resource, obj, {"finalizers": rest or None})

    async def _patch_meta(self, resource: str, obj: Obj, change: Obj) -> None:
        meta = obj["metadata"]
        guard = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        with ignore_not_found():
            await self._env.client.patch(
                resource, meta["name"], {"metadata": guard | change}, meta.get("namespace", "")
            )


class _Listener:
    """The informer handler of one resource."""

    def __init__(self, collector: GarbageCollector, resource: str) -> None:
        self._collector = collector
        self._resource = resource

    def __call__(self, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            if old is not None:
                self._collector.gone(old)
            return
        if old is not None and old["metadata"]["uid"] != new["metadata"]["uid"]:
            self._collector.gone(old)
        if old is None or _shape(old) != _shape(new):
            self._collector.look_at(self._resource, new)
            if old is not None:
                self._collector.changed_owners(old)


def _shape(obj: Obj) -> tuple[object, ...]:
    """What the collector looks at; a change of anything else does not wake it."""
    meta = obj["metadata"]
    return (meta["uid"], meta.get("ownerReferences"), meta.get("finalizers"), "deletionTimestamp" in meta)


def owner_uids(obj: Obj) -> list[str]:
    """Index: the uids of all owners."""
    return [r["uid"] for r in obj["metadata"].get("ownerReferences") or []]
