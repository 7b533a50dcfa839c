"""The PersistentVolume controller: binds claims, provisions and deletes disks.

A shell around `volume_core`. Two queues: claims (bind or provision) and volumes (phase, reclaim). Every step is a write
that the next pass finds; a crash between any two is repaired by the same code:
  provisioning: 1. the disk (named after the claim's uid, so made once)  2. the volume with claimRef  3. bind.
  reclaiming:   1. phase Released  2. the disk, once detached  3. the volume object.
"""

from __future__ import annotations

import asyncio

from cluster.api.errors import ApiError
from cluster.controllers import volume_core as core
from cluster.controllers.env import Env
from cluster.controllers.volume_provision import CannotProvision, Provisioner
from cluster.controllers.volume_reclaim import CannotReclaim, Reclaimer, recycled_volume
from cluster.machinery.client import Obj, clone, is_not_found, key_of, split_key
from cluster.machinery.provider import Disks
from cluster.machinery.reconciler import Reconciler, Result

_CLAIMS = "persistentvolumeclaims"
_VOLUMES = "persistentvolumes"
_CLASSES = "storageclasses.storage.k8s.io"
_ATTACHMENTS = "volumeattachments.storage.k8s.io"


class PersistentVolumeController:
    name = "persistentvolume_binder"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._claims = env.informer(_CLAIMS)
        self._volumes = env.informer(_VOLUMES)
        self._classes = env.informer(_CLASSES)
        self._attachments = env.informer(_ATTACHMENTS)
        self._nodes = env.informer("nodes")
        self._events = env.recorder("persistentvolume-controller")
        self._provisioner = Provisioner(env)
        self._reclaimer = Reclaimer(env)
        workers = env.config.concurrent_volume_syncs
        self.claims = Reconciler("claims", self._reconcile_claim, workers=workers)
        self.volumes = Reconciler("volumes", self._reconcile_volume, workers=workers)
        self._binding = asyncio.Lock()
        self._volumes.add_index("claim", _claim_key)
        self._claims.add_handler(self._on_claim)
        self._volumes.add_handler(self._on_volume)
        self._classes.add_handler(self._on_class)
        self._attachments.add_handler(self._on_attachment)
        env.informer("pods").add_handler(self._on_pod)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.claims.run())
            group.create_task(self.volumes.run())

    def resync(self) -> None:
        self.claims.enqueue_all(self._claims.items())
        self.volumes.enqueue_all(self._volumes.items())

    # ---- what wakes it

    def _on_claim(self, old: Obj | None, new: Obj | None) -> None:
        claim = new or old
        if claim is None:
            return
        self.claims.queue.add(key_of(claim))
        for volume in self._volumes.by_index("claim", key_of(claim)):
            self.volumes.queue.add(key_of(volume))

    def _on_volume(self, old: Obj | None, new: Obj | None) -> None:
        volume = new or old
        if volume is None:
            return
        self.volumes.queue.add(key_of(volume))
        for key in _claim_key(volume):
            self.claims.queue.add(key)
        if new is not None and not new["spec"].get("claimRef"):
            self._wake_pending()

    def _on_class(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self._wake_pending()

    def _on_attachment(self, old: Obj | None, new: Obj | None) -> None:
        if new is None and old is not None:
            self.volumes.queue.add(old["spec"]["source"].get("persistentVolumeName") or "")

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        pod = new or old
        if pod is not None and (name := recycled_volume(pod)):
            self.volumes.queue.add(name)

    def _wake_pending(self) -> None:
        for claim in self._claims.items():
            if (claim.get("status") or {}).get("phase", "Pending") == "Pending":
                self.claims.queue.add(key_of(claim))

    # ---- claims

    async def _reconcile_claim(self, key: str) -> Result | None:
        claim = self._claims.get(*split_key(key))
        if claim is None:
            return None
        name = claim["spec"].get("volumeName", "")
        if name:
            await self._bound_claim(claim, self._volumes.get("", name))
            return None
        if "deletionTimestamp" in claim["metadata"]:
            return None
        storage_class = self._class_of(claim)
        delayed = storage_class is not None and storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"
        node = (claim["metadata"].get("annotations") or {}).get(core.SELECTED_NODE, "")
        async with self._binding:  # one search at a time, so that two claims do not choose the same volume
            volume = core.find_volume(claim, self._volumes.items(), reserved_only=delayed)
            if volume is not None:
                volume = await self._reserve(volume, claim)
                await self._complete(claim, volume)
                return None
        if delayed and not node:
            message = "waiting for first consumer to be created before binding"
            self._events.event(claim, "Normal", "WaitForFirstConsumer", message)
            await self._pending(claim)
            return None
        if storage_class is None:
            return await self._no_class(claim)
        if delayed and self._nodes.get("", node) is None:
            await self._choose_again(claim, node)
            return None
        disks = self._provisioner.disks_for(storage_class)
        if disks is None:
            message = (
                f"Waiting for a volume to be created either by the external provisioner "
                f"'{storage_class.get('provisioner')}' or manually by the system administrator."
            )
            self._events.event(claim, "Normal", "ExternalProvisioning", message)
            await self._pending(claim)
            return None
        return await self._provision(claim, storage_class, disks)

    async def _choose_again(self, claim: Obj, node: str) -> None:
        """The selected node is gone: take it back, so that the scheduler chooses another for the claim's pod."""
        message = f'the selected node "{node}" is gone; another one will be selected'
        self._events.event(claim, "Normal", "ProvisioningReschedule", message)
        changed = clone(claim)
        del changed["metadata"]["annotations"][core.SELECTED_NODE]
        await self._env.client.update(_CLAIMS, changed)

    async def _no_class(self, claim: Obj) -> Result | None:
        wanted = core.class_of(claim)
        if wanted:
            message = f'storageclass.storage.k8s.io "{wanted}" not found'
            self._events.event(claim, "Warning", "ProvisioningFailed", message)
        else:
            message = "no persistent volumes available for this claim and no storage class is set"
            self._events.event(claim, "Normal", "FailedBinding", message)
        await self._pending(claim)
        return None

    def _class_of(self, claim: Obj) -> Obj | None:
        name = core.class_of(claim)
        if name:
            return self._classes.get("", name)
        if claim["spec"].get("storageClassName") is None:
            return core.default_class(self._classes.items())
        return None

    async def _bound_claim(self, claim: Obj, volume: Obj | None) -> None:
        completed = core.BIND_COMPLETED in (claim["metadata"].get("annotations") or {})
        if volume is None:
            if completed and await self._volume_missing(claim["spec"]["volumeName"]):
                await self._lost(claim, "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
            elif not completed:
                await self._pending(claim)
            return
        ref = volume["spec"].get("claimRef")
        if not ref:
            problem = core.misfit(volume, claim)
            if problem:
                message = f'Cannot bind to requested volume "{volume["metadata"]["name"]}": {problem}'
                self._events.event(claim, "Warning", "VolumeMismatch", message)
                await self._pending(claim)
                return
            volume = await self._reserve(volume, claim)
        elif not core.is_bound_to(volume, claim):
            if completed:
                message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
                await self._lost(claim, message)
            else:
                await self._pending(claim)
            return
        await self._complete(
            claim, volume if volume["spec"]["claimRef"].get("uid") else await self._reserve(volume, claim)
        )

    async def _volume_missing(self, name: str) -> bool:
        """By the API: the cache of volumes may be behind that of claims."""
        try:
            self._env.informers.observe(_VOLUMES, await self._env.client.get(_VOLUMES, name))
        except ApiError as err:
            if not is_not_found(err):
                raise
            return True
        return False

    async def _reserve(self, volume: Obj, claim: Obj) -> Obj:
        """The volume's side of the binding; a compare-and-swap that only one claim can win."""
        ref = volume["spec"].get("claimRef") or {}
        if ref.get("uid") == claim["metadata"]["uid"]:
            return volume
        changed = clone(volume)
        changed["spec"]["claimRef"] = core.claim_ref(claim)
        if not ref:
            changed["metadata"].setdefault("annotations", {})[core.BOUND_BY_CONTROLLER] = "yes"
        return await self._env.client.update(_VOLUMES, changed)

    async def _complete(self, claim: Obj, volume: Obj) -> None:
        """The claim's side, then both phases."""
        name = volume["metadata"]["name"]
        annotations = claim["metadata"].get("annotations") or {}
        if claim["spec"].get("volumeName") != name or core.BIND_COMPLETED not in annotations:
            changed = clone(claim)
            marks = changed["metadata"].setdefault("annotations", {})
            if not claim["spec"].get("volumeName"):
                marks[core.BOUND_BY_CONTROLLER] = "yes"
            marks[core.BIND_COMPLETED] = "yes"
            changed["spec"]["volumeName"] = name
            claim = await self._env.client.update(_CLAIMS, changed)
        spec = volume["spec"]
        status = claim.get("status") or {}
        wanted = {"phase": "Bound", "accessModes": spec.get("accessModes")}
        if status.get("phase") != "Bound":
            wanted["capacity"] = spec.get(
                "capacity"
            )  # one that grows is Bound: its new capacity is not this part's word
        if any(status.get(k) != v for k, v in wanted.items()):
            changed = clone(claim)
            changed["status"] = status | wanted
            await self._env.client.update(_CLAIMS, changed, subresource="status")
        await self._phase(volume, "Bound")

    async def _pending(self, claim: Obj) -> None:
        if not (claim.get("status") or {}).get("phase"):
            changed = clone(claim)
            changed["status"] = {**(claim.get("status") or {}), "phase": "Pending"}
            await self._env.client.update(_CLAIMS, changed, subresource="status")

    async def _lost(self, claim: Obj, message: str) -> None:
        if (claim.get("status") or {}).get("phase") == "Lost":
            return
        changed = clone(claim)
        changed["status"] = {**(claim.get("status") or {}), "phase": "Lost"}
        await self._env.client.update(_CLAIMS, changed, subresource="status")
        self._events.event(claim, "Warning", "ClaimLost", message)

    # ---- provisioning

    async def _provision(self, claim: Obj, storage_class: Obj, disks: Disks) -> Result | None:
        name = storage_class["metadata"]["name"]
        try:
            volume = await self._provisioner.provision(claim, storage_class, disks)
        except CannotProvision as err:
            message = f'failed to provision volume with StorageClass "{name}": {err}'
            self._events.event(claim, "Warning", "ProvisioningFailed", message)
            await self._pending(claim)
            return Result(5.0) if err.retriable else None
        message = f"Successfully provisioned volume {volume['metadata']['name']}"
        self._events.event(claim, "Normal", "ProvisioningSucceeded", message)
        await self._complete(self._claims.get(*split_key(key_of(claim))) or claim, volume)
        return None

    # ---- volumes

    async def _reconcile_volume(self, name: str) -> Result | None:
        volume = self._volumes.get("", name)
        if volume is None:
            await self._reclaimer.tidy(name)
            return None
        ref = volume["spec"].get("claimRef")
        if not ref:
            await self._phase(volume, "Available")
            await self._reclaimer.tidy(name)
            return None
        if not ref.get("uid"):
            await self._phase(volume, "Available")  # reserved by hand for a claim that is still to come
            return None
        if await self._claim_exists(ref):
            claim = self._claims.get(ref["namespace"], ref["name"])
            if claim is not None and claim["spec"].get("volumeName") == name:
                await self._phase(volume, "Bound")
            return None
        if (volume.get("status") or {}).get("phase") != "Failed":
            volume = await self._phase(volume, "Released")
        return await self._reclaim(volume)

    async def _claim_exists(self, ref: Obj) -> bool:
        claim = self._claims.get(ref["namespace"], ref["name"])
        if claim is None:
            # The caches of claims and volumes are not in step, and what follows destroys data: ask.
            try:
                claim = await self._env.client.get(_CLAIMS, ref["name"], ref["namespace"])
            except ApiError as err:
                if not is_not_found(err):
                    raise
                return False
        return bool(claim["metadata"]["uid"] == ref["uid"])

    async def _reclaim(self, volume: Obj) -> Result | None:
        name = volume["metadata"]["name"]
        if any(a["spec"]["source"].get("persistentVolumeName") == name for a in self._attachments.items()):
            return None  # its detach wakes us
        try:
            await self._reclaimer.reclaim(volume)
        except CannotReclaim as err:
            self._events.event(volume, "Warning", err.reason, str(err))
            await self._phase(volume, "Failed", str(err))
            return Result(5.0) if err.retriable else None
        return None

    async def _phase(self, volume: Obj, phase: str, message: str = "") -> Obj:
        status = volume.get("status") or {}
        if status.get("phase") == phase:
            return volume
        changed = clone(volume)
        changed["status"] = {"phase": phase} | ({"message": message} if message else {})
        return await self._env.client.update(_VOLUMES, changed, subresource="status")


def _claim_key(volume: Obj) -> list[str]:
    ref = volume["spec"].get("claimRef")
    return [f"{ref.get('namespace', '')}/{ref['name']}"] if ref else []
