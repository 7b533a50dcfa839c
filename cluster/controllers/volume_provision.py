"""Making volumes for claims: which driver is asked, for what, and the PersistentVolume that comes of it.

IO only through the injected Client and `Disks`. The disk first (named after the claim's uid, so made once), then the
PersistentVolume with its claimRef: a crash between the two is repaired by doing both again.
"""

from __future__ import annotations

import dataclasses

from cluster.api.errors import ApiError
from cluster.api.volumes import driver_of
from cluster.controllers import volume_core as core
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, is_already_exists
from cluster.machinery.provider import Disks, DiskWish, ProviderError

_CLAIMS = "persistentvolumeclaims"
_VOLUMES = "persistentvolumes"


class CannotProvision(Exception):
    """Why there is no volume; `retriable` when the same may succeed later."""

    def __init__(self, message: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.retriable = retriable


class Provisioner:
    """Makes one claim's volume at a time; idempotent."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._nodes = env.informer("nodes")

    def disks_for(self, storage_class: Obj) -> Disks | None:
        """None: the class is somebody else's to provision."""
        return self._env.outside.disks.get(driver_of(storage_class.get("provisioner", "")))

    async def provision(self, claim: Obj, storage_class: Obj, disks: Disks) -> Obj:
        """The PersistentVolume, reserved for the claim. Raises CannotProvision, ApiError."""
        driver, name = driver_of(storage_class["provisioner"]), core.volume_name(claim)
        if problem := core.unprovisionable(claim, driver):
            raise CannotProvision(problem)
        claim = await self._marked(claim, storage_class)
        try:
            made = await disks.create_disk(self._wish(claim, storage_class))
        except ProviderError as err:
            raise CannotProvision(str(err), retriable=True) from err
        wanted = core.provisioned_volume(claim, storage_class, made)
        try:
            return await self._env.client.create(_VOLUMES, wanted)
        except ApiError as err:
            if not is_already_exists(err):
                raise
            return await self._env.client.get(_VOLUMES, name)

    def _wish(self, claim: Obj, storage_class: Obj) -> DiskWish:
        wish = DiskWish(
            core.volume_name(claim), core.bytes_of(core.capacity(claim)), storage_class.get("parameters") or {}
        )
        node = (claim["metadata"].get("annotations") or {}).get(core.SELECTED_NODE, "")
        found = self._nodes.get("", node) if node else None
        return dataclasses.replace(wish, node=node, labels=found["metadata"].get("labels") or {}) if found else wish

    async def _marked(self, claim: Obj, storage_class: Obj) -> Obj:
        """The claim, saying who provisions it, and of which class it is if it left that to the default."""
        unset = claim["spec"].get("storageClassName") is None
        provisioner = storage_class["provisioner"]
        mark = (claim["metadata"].get("annotations") or {}).get(core.STORAGE_PROVISIONER)
        if mark == provisioner and not unset:
            return claim
        changed = clone(claim)
        changed["metadata"].setdefault("annotations", {})[core.STORAGE_PROVISIONER] = provisioner
        if unset:
            changed["spec"]["storageClassName"] = storage_class["metadata"]["name"]
        return await self._env.client.update(_CLAIMS, changed)
