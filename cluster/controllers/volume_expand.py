"""The expand controller: claims that ask for more get a larger disk; their file system is the kubelet's to grow.

A shell around `volume_expand_core`. Every step is a write that the next pass finds; a crash between any two is repaired
by the same code: the provider takes the same size twice, and what it made is on the volume before the claim says so.
"""

from __future__ import annotations

from cluster.api.volumes import csi_source, driver_of
from cluster.controllers import volume_expand_core as core
from cluster.controllers.env import Env
from cluster.controllers.volume_core import class_of, quantity_of
from cluster.machinery.client import Obj, clone, key_of, split_key
from cluster.machinery.provider import Disks, ProviderError
from cluster.machinery.reconciler import Reconciler, Result

_CLAIMS = "persistentvolumeclaims"
_VOLUMES = "persistentvolumes"
_CLASSES = "storageclasses.storage.k8s.io"
_RETRY_S = 5.0


class ExpandController:
    name = "persistentvolume_expander"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._claims = env.informer(_CLAIMS)
        self._volumes = env.informer(_VOLUMES)
        self._classes = env.informer(_CLASSES)
        self._events = env.recorder("volume_expand")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_volume_syncs)
        self._claims.add_handler(self._on_claim)
        self._volumes.add_handler(self._on_volume)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for claim in self._claims.items():
            self._on_claim(None, claim)

    def _on_claim(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and new["spec"].get("volumeName"):
            self.reconciler.queue.add(key_of(new))

    def _on_volume(self, old: Obj | None, new: Obj | None) -> None:
        ref = (new or {}).get("spec", {}).get("claimRef")
        if ref:
            self.reconciler.queue.add(f"{ref.get('namespace', '')}/{ref['name']}")

    async def _reconcile(self, key: str) -> Result | None:
        claim = self._claims.get(*split_key(key))
        volume = self._volumes.get("", claim["spec"].get("volumeName", "")) if claim is not None else None
        if claim is None or volume is None:
            return None
        source = csi_source(volume)
        driver = source.driver if source is not None else self._provisioner(claim)
        disks = self._env.outside.disks.get(driver)
        step = core.next_step(claim, volume, on_node=source is not None)
        if not step:
            return None
        if disks is None:
            message = (
                f"waiting for an external controller to expand this PVC (its volume is of {driver or 'no driver'})"
            )
            self._events.event(claim, "Normal", "ExternalExpanding", message)
            return None
        if step == "grow":
            return await self._grow(claim, volume, disks, source.handle if source else volume["metadata"]["name"])
        if step == "finish":
            await self._status(claim, core.finished_status(claim, volume))
            self._events.event(claim, "Normal", "VolumeResizeSuccessful", "Resize volume succeeded")
            return None
        await self._status(claim, core.pending_status(claim, self._env.clock()))
        message = "Require file system resize of volume on node"
        self._events.event(claim, "Normal", "FileSystemResizeRequired", message)
        return None

    def _provisioner(self, claim: Obj) -> str:
        found = self._classes.get("", class_of(claim))
        return driver_of(found["provisioner"]) if found is not None else ""

    async def _grow(self, claim: Obj, volume: Obj, disks: Disks, handle: str) -> Result | None:
        name = volume["metadata"]["name"]
        before, now = claim.get("status") or {}, self._env.clock()
        wanted = core.growing_status(claim, now)
        if wanted != before and not any(c["type"] == core.RESIZING for c in before.get("conditions") or ()):
            self._events.event(claim, "Normal", "Resizing", f"External resizer is resizing volume {name}")
            claim = await self._status(claim, wanted)
        request = claim["spec"]["resources"]["requests"]["storage"]
        asked = -(-core.sizes(claim, volume).request // 1)
        try:
            made = await disks.grow_disk(handle, int(asked))
        except ProviderError as err:
            message = f"resize volume {name!r} by resizer failed: {err}".replace("'", '"')
            self._events.event(claim, "Warning", "VolumeResizeFailed", message)
            await self._status(claim, core.failed_status(claim, now, message))
            return Result(_RETRY_S)
        changed = clone(volume)
        changed["spec"]["capacity"]["storage"] = quantity_of(made, request)
        await self._env.client.update(_VOLUMES, changed)
        return None  # the volume's change wakes us for what is left

    async def _status(self, claim: Obj, status: Obj) -> Obj:
        if status == claim.get("status"):
            return claim
        return await self._env.client.update(_CLAIMS, {**clone(claim), "status": status}, subresource="status")
