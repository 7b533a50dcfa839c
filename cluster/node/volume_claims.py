"""PersistentVolumeClaims of pods: what is behind a claim, put where the pod finds it, and grown when it was asked to.

IO only through the Client, the cache and `BlockVolumes`. A claim is a disk (mounted, or given as a device; attached, or
this machine's own), or a directory of this machine (local, hostPath). Growing ends here: the provider made the disk
larger, the controller wrote that on the PersistentVolume, and what the claim's status says is smaller until the file
system has grown (KEP-284).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.quantity import parse_quantity
from cluster.api.volumes import disk_source, is_block
from cluster.machinery.client import Client, is_not_found
from cluster.node.host_path import check_host_path
from cluster.node.object_cache import ObjectCache
from cluster.node.volume_block import BlockVolumes
from cluster.node.volume_device import RawDevice, VolumeFailure

Obj = dict[str, Any]
Say = Callable[[Obj, str, str, str], None]  # pod, type, reason, message
_CLAIMS = "persistentvolumeclaims"
_GROWING = ("Resizing", "FileSystemResizePending", "NodeResizeError")


def claim_of(pod: Obj, volume: Obj) -> str:
    """The name of the claim behind a pod's volume, "" for a volume of another kind."""
    if "ephemeral" in volume:
        return f"{pod['metadata']['name']}-{volume['name']}"
    return str((volume.get("persistentVolumeClaim") or {}).get("claimName") or "")


@dataclass(frozen=True, slots=True)
class ClaimMount:
    """`of_machine`: the files are the machine's own (a hostPath)."""

    path: str
    read_only: bool
    of_machine: bool = False


class ClaimVolumes:
    """`say` takes the Events of growing."""

    def __init__(self, client: Client, cache: ObjectCache, block: BlockVolumes, say: Say) -> None:
        self._client = client
        self._cache = cache
        self._block = block
        self._say = say
        self._not_mounted: set[tuple[str, str]] = set()  # (pod's uid, size): what cannot grow while that pod runs

    async def mount(self, pod: Obj, volume: Obj, target: Path) -> ClaimMount | RawDevice:
        """Where the claim's data is: at `target`, in a directory of the machine, or a device. Raises VolumeFailure."""
        read_only = bool((volume.get("persistentVolumeClaim") or {}).get("readOnly"))
        claim, pv = await self.bound(pod["metadata"]["namespace"], claim_of(pod, volume))
        if disk_source(pv) is None and ("local" in pv["spec"] or "hostPath" in pv["spec"]):
            if not await asyncio.to_thread(_is_device_to_mount, pv):
                return await _of_machine(pv, read_only)
        elif is_block(pv):
            return await self._block.expose(pv, pod["metadata"]["uid"], read_only=read_only)
        alone = "ReadWriteOncePod" in (claim["spec"].get("accessModes") or ())
        larger = outgrown(claim, pv)
        await self._block.mount(pv, str(target), read_only=read_only, alone=alone, grow=larger)
        if larger:
            await self._grow(pod, claim, pv)
        return ClaimMount(str(target), read_only)

    async def refresh(self, pod: Obj, volume: Obj) -> None:
        """Of a running pod: grow what was made larger meanwhile. Raises VolumeFailure, ApiError."""
        namespace = pod["metadata"]["namespace"]
        claim = await self._cache.get(_CLAIMS, namespace, claim_of(pod, volume))
        conditions = ((claim or {}).get("status") or {}).get("conditions") or ()
        if claim is None or not any(c["type"] in _GROWING for c in conditions):
            return
        claim, pv = await self.bound(namespace, claim["metadata"]["name"])
        if outgrown(claim, pv) and (pod["metadata"]["uid"], size_of(pv)) not in self._not_mounted:
            await self._grow(pod, claim, pv)

    def forget(self, uid: str) -> None:
        """A pod has ended."""
        self._not_mounted = {entry for entry in self._not_mounted if entry[0] != uid}

    async def bound(self, namespace: str, name: str) -> tuple[Obj, Obj]:
        """A claim and its PersistentVolume. Raises VolumeFailure while there is none."""
        claim = await self._get(_CLAIMS, name, namespace)
        if claim is None:
            raise VolumeFailure(f'persistentvolumeclaim "{name}" not found')
        pv_name = (claim.get("spec") or {}).get("volumeName")
        if not pv_name or (claim.get("status") or {}).get("phase") != "Bound":
            raise VolumeFailure(f'persistentvolumeclaim "{name}" is not bound', waiting=True)
        pv = await self._get("persistentvolumes", pv_name, "")
        if pv is None:
            raise VolumeFailure(f'persistentvolume "{pv_name}" of claim "{name}" not found')
        return claim, pv

    async def _grow(self, pod: Obj, claim: Obj, pv: Obj) -> None:
        name = pv["metadata"]["name"]
        try:
            if not await self._block.grow(pv):
                self._not_mounted.add((pod["metadata"]["uid"], size_of(pv)))
                why = "this machine cannot grow what is mounted: it grows once the volume's pods have been restarted"
                self._say(pod, "Warning", "VolumeResizeFailed", f'NodeExpandVolume failed for volume "{name}" : {why}')
                return
        except VolumeFailure as err:
            self._say(pod, "Warning", "VolumeResizeFailed", f'NodeExpandVolume failed for volume "{name}" : {err}')
            raise
        meta = claim["metadata"]
        patch = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": grown_status(claim, pv)}
        try:
            await self._client.patch(_CLAIMS, meta["name"], patch, meta["namespace"], subresource="status")
        except ApiError as err:
            if err.code != 409:  # somebody wrote meanwhile: the next look finds what is still to be said
                raise
            return
        message = f'MountVolume.NodeExpandVolume succeeded for volume "{name}"'
        self._say(pod, "Normal", "FileSystemResizeSuccessful", message)

    async def _get(self, resource: str, name: str, namespace: str) -> Obj | None:
        try:
            return await self._client.get(resource, name, namespace)
        except ApiError as err:
            if is_not_found(err):
                return None
            raise


def outgrown(claim: Obj, pv: Obj) -> bool:
    """The disk is larger than what the claim's status says there is of it."""
    if is_block(pv) or disk_source(pv) is None:
        return False
    have = ((claim.get("status") or {}).get("capacity") or {}).get("storage", 0)
    return parse_quantity(size_of(pv)) > parse_quantity(have)


def size_of(pv: Obj) -> str:
    return str((pv["spec"].get("capacity") or {}).get("storage", 0))


def grown_status(claim: Obj, pv: Obj) -> Obj:
    """A merge patch of the claim's status once the file system is as large as the volume."""
    status = claim.get("status") or {}
    left = [c for c in status.get("conditions") or () if c["type"] not in _GROWING]
    return {
        "capacity": {"storage": pv["spec"]["capacity"]["storage"]},
        "conditions": left or None,
        "allocatedResourceStatuses": None,
    }


def _is_device_to_mount(pv: Obj) -> bool:
    """A local volume whose path is a block device and which is used as a file system."""
    return "local" in pv["spec"] and not is_block(pv) and Path(pv["spec"]["local"]["path"]).is_block_device()


async def _of_machine(pv: Obj, read_only: bool) -> ClaimMount | RawDevice:
    """What is this machine's own: nothing is attached or mounted, and nothing taken away afterwards."""
    spec = pv["spec"]
    if "hostPath" in spec:
        path, kind = str(spec["hostPath"]["path"]), spec["hostPath"].get("type") or ""
    else:
        path, kind = str(spec["local"]["path"]), "Directory"
    if is_block(pv):
        await asyncio.to_thread(check_host_path, path, "BlockDevice")
        return RawDevice(path, read_only)
    await asyncio.to_thread(check_host_path, path, kind)
    return ClaimMount(path, read_only, of_machine="hostPath" in spec)
