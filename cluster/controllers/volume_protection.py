"""PVC and PV protection: what is in use is not deleted under its user.

A claim keeps the finalizer `kubernetes.io/pvc-protection` while a pod that is not finished uses it; a volume keeps
`kubernetes.io/pv-protection` while it is bound to a claim. Both are added to whatever lacks them.
"""

from __future__ import annotations

import asyncio

from cluster.api.pods import is_terminal
from cluster.controllers.env import Env
from cluster.controllers.volume_core import PV_FINALIZER, PVC_FINALIZER, pod_claims
from cluster.machinery.client import Obj, ignore_not_found, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_CLAIMS = "persistentvolumeclaims"
_VOLUMES = "persistentvolumes"


class VolumeProtectionController:
    name = "volume_protection"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._claims = env.informer(_CLAIMS)
        self._volumes = env.informer(_VOLUMES)
        self._pods = env.informer("pods")
        self.claims = Reconciler("pvc_protection", self._reconcile_claim, workers=4)
        self.volumes = Reconciler("pv_protection", self._reconcile_volume, workers=4)
        self._pods.add_index("claim", claim_keys)
        self._claims.add_handler(self._on_claim)
        self._volumes.add_handler(self._on_volume)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.claims.run())
            group.create_task(self.volumes.run())

    def resync(self) -> None:
        self.claims.enqueue_all(self._claims.items())
        self.volumes.enqueue_all(self._volumes.items())

    def _on_claim(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and _concerns(new, PVC_FINALIZER):
            self.claims.queue.add(key_of(new))

    def _on_volume(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and _concerns(new, PV_FINALIZER):
            self.volumes.queue.add(key_of(new))

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or (is_terminal(new) and not is_terminal(old))):
            for key in claim_keys(old):
                claim = self._claims.get(*split_key(key))
                if claim is not None and "deletionTimestamp" in claim["metadata"]:
                    self.claims.queue.add(key)

    async def _reconcile_claim(self, key: str) -> Result | None:
        claim = self._claims.get(*split_key(key))
        if claim is None:
            return None
        if "deletionTimestamp" not in claim["metadata"]:
            await self._add(_CLAIMS, claim, PVC_FINALIZER)
        elif not await self._in_use(claim):
            await self._remove(_CLAIMS, claim, PVC_FINALIZER)
        return None

    async def _in_use(self, claim: Obj) -> bool:
        """By the cache, and when that says no by the API: a pod may have been made a moment ago."""
        key = key_of(claim)
        if any(not is_terminal(p) for p in self._pods.by_index("claim", key)):
            return True
        pods = (await self._env.client.list("pods", claim["metadata"]["namespace"])).items
        return any(not is_terminal(p) and key in claim_keys(p) for p in pods)

    async def _reconcile_volume(self, name: str) -> Result | None:
        volume = self._volumes.get("", name)
        if volume is None:
            return None
        if "deletionTimestamp" not in volume["metadata"]:
            await self._add(_VOLUMES, volume, PV_FINALIZER)
        elif (volume.get("status") or {}).get("phase") != "Bound":
            await self._remove(_VOLUMES, volume, PV_FINALIZER)
        return None

    async def _add(self, resource: str, obj: Obj, finalizer: str) -> None:
        finalizers = obj["metadata"].get("finalizers") or []
        if finalizer not in finalizers:
            await self._set(resource, obj, [*finalizers, finalizer])

    async def _remove(self, resource: str, obj: Obj, finalizer: str) -> None:
        finalizers = obj["metadata"].get("finalizers") or []
        if finalizer in finalizers:
            await self._set(resource, obj, [f for f in finalizers if f != finalizer])

    async def _set(self, resource: str, obj: Obj, finalizers: list[str]) -> None:
        meta = obj["metadata"]
        patch = {
            "metadata": {
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
                "finalizers": finalizers or None,
            }
        }
        with ignore_not_found():
            await self._env.client.patch(resource, meta["name"], patch, meta.get("namespace", ""))


def _concerns(obj: Obj, finalizer: str) -> bool:
    """Added where it lacks, and looked at while it is being deleted with it."""
    present = finalizer in (obj["metadata"].get("finalizers") or [])
    return present if "deletionTimestamp" in obj["metadata"] else not present


def claim_keys(pod: Obj) -> list[str]:
    """Index: keys of the claims a pod uses."""
    return [f"{pod['metadata']['namespace']}/{name}" for name in pod_claims(pod)]
