"""Custom resource definitions: gives them their names, establishes them, and clears their objects when they go.

IO through the Client. Names are given to one definition at a time, so that of two that want the same name one gets it.
A deleted definition waits on its finalizer until no object of it is
left; objects with finalizers of their own hold it, as in Kubernetes.
"""

from __future__ import annotations

import asyncio

from cluster.api.crd import definition
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found
from cluster.machinery.reconciler import Reconciler, Result

RESOURCE = "customresourcedefinitions.apiextensions.k8s.io"
_RECHECK_S = 1.0
_AT_ONCE = 50


class DefinitionController:
    name = "customresourcedefinition"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._informer = env.informer(RESOURCE)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=2)
        self._naming = asyncio.Lock()
        self._informer.add_handler(self._on_definition)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._informer.items())

    def _on_definition(self, old: Obj | None, new: Obj | None) -> None:
        """A definition that came, changed or went may also free or take a name that others of its group want."""
        crd = new or old
        if crd is None:
            return
        if new is not None:
            self.reconciler.queue.add(new["metadata"]["name"])
        if new is None or (old is not None and _names(old) != _names(new)):
            for other in self._informer.items():
                if other["spec"]["group"] == crd["spec"]["group"]:
                    self.reconciler.queue.add(other["metadata"]["name"])

    async def _reconcile(self, name: str) -> Result | None:
        crd = self._informer.get("", name)
        if crd is None:
            return None
        if definition.is_terminating(crd):
            return await self._finalize(crd)
        async with self._naming:
            crd = self._informer.get("", name) or crd
            changed = clone(crd)
            others = [o for o in self._informer.items() if o["metadata"]["name"] != name]
            now = self._env.clock()
            if definition.accept_names(changed, others, now) | definition.approve(changed, now):
                await self._write_status(changed)
        return None

    async def _finalize(self, crd: Obj) -> Result | None:
        if definition.FINALIZER not in (crd["metadata"].get("finalizers") or []):
            return None
        now = self._env.clock()
        changed = clone(crd)
        message = "CustomResource deletion is in progress"
        if definition.set_condition(changed, "Terminating", True, "InstanceDeletionInProgress", message, now):
            await self._write_status(changed)
        if definition.is_established(crd) and await self._clear(crd["metadata"]["name"]):
            return Result(_RECHECK_S)
        changed = clone(self._informer.get("", crd["metadata"]["name"]) or crd)
        left = [f for f in changed["metadata"].get("finalizers") or [] if f != definition.FINALIZER]
        changed["metadata"]["finalizers"] = left
        with ignore_not_found():
            await self._env.client.update(RESOURCE, changed)
        return None

    async def _clear(self, resource: str) -> int:
        """Delete every object that is not being deleted yet; how many are left."""
        found = (await self._env.client.list(resource)).items
        fresh = [o for o in found if "deletionTimestamp" not in o["metadata"]]
        for start in range(0, len(fresh), _AT_ONCE):
            await asyncio.gather(*(self._delete(resource, o) for o in fresh[start : start + _AT_ONCE]))
        return len((await self._env.client.list(resource)).items) if found else 0

    async def _delete(self, resource: str, obj: Obj) -> None:
        meta = obj["metadata"]
        with ignore_not_found():
            await self._env.client.delete(resource, meta["name"], meta.get("namespace", ""), uid=meta["uid"])

    async def _write_status(self, crd: Obj) -> None:
        with ignore_not_found():
            await self._env.client.update(RESOURCE, crd, subresource="status")


def _names(crd: Obj) -> object:
    return ((crd.get("status") or {}).get("acceptedNames"), crd["spec"]["names"])
