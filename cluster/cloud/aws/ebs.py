"""EBS volumes as disks: the driver ebs.csi.aws.com.

IO: EC2. AWS keeps a volume to one instance at a time and says so; what is attached where is asked of it, never
remembered. A volume is made once for a PersistentVolume: its client token is that name.
With `backing`, a volume that AWS says is attached to an instance is a disk of this box, attached to the local machine
that stands for the instance; who stands in for AWS (moto) keeps books but has no disks.
Sources: EC2's API reference; the parameters, tags and device names of aws-ebs-csi-driver.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from cluster.cloud.aws.api import Aws, CloudError, tag_list
from cluster.cloud.aws.instances import AwsInstances
from cluster.machinery.client import Obj
from cluster.machinery.provider import Disks, DiskWish, MadeDisk, ProviderError

_GIB = 1 << 30
_WAIT_S = 60.0
_LOOK_S = 0.5
_DEVICES = [f"/dev/xvd{a}{b}" for a in "bc" for b in "abcdefghijklmnopqrstuvwxyz"]
ZONE = "topology.kubernetes.io/zone"


class EbsDisks:
    """Fulfils Disks. `node_of` gives the Node object of a machine, None when there is none."""

    def __init__(self, aws: Aws, node_of: Callable[[str], Obj | None], backing: Disks | None = None) -> None:
        self._aws = aws
        self._instances = AwsInstances(aws)
        self._node_of = node_of
        self._backing = backing

    async def create_disk(self, wish: DiskWish) -> MadeDisk:
        zone = wish.labels.get(ZONE) or wish.parameters.get("zone") or await self._any_zone()
        size = -(-wish.size_bytes // _GIB)
        marks = {"Name": wish.name, "kubernetes.io/created-for/pv/name": wish.name, self._aws.config.tag: "owned"}
        made = await self._aws.call(
            "ec2",
            "create_volume",
            AvailabilityZone=zone,
            Size=size,
            ClientToken=hashlib.sha256(f"{self._aws.config.cluster_name}/{wish.name}".encode()).hexdigest(),
            TagSpecifications=[{"ResourceType": "volume", "Tags": tag_list(marks)}],
            **_parameters(wish.parameters),
        )
        await self._volume_until(made["VolumeId"], lambda v: v["State"] in ("available", "in-use"), "become available")
        return MadeDisk(made["VolumeId"], size * _GIB, topology={ZONE: zone})

    async def grow_disk(self, handle: str, size_bytes: int) -> int:
        size = -(-size_bytes // _GIB)
        volume = await self._volume(handle)
        if volume["Size"] < size:
            await self._aws.call("ec2", "modify_volume", VolumeId=handle, Size=size)
            await self._volume_until(handle, lambda v: v["Size"] >= size, f"grow to {size} GiB")
        size = max(size, int(volume["Size"]))
        if self._backing is not None:
            await self._grow_backing(handle, size * _GIB, attached=bool(volume.get("Attachments")))
        return size * _GIB

    async def delete_disk(self, handle: str) -> None:
        try:
            await self._aws.call("ec2", "delete_volume", VolumeId=handle)
        except CloudError as err:
            if not err.missing:
                raise
        if self._backing is not None:
            await self._backing.delete_disk(handle)

    async def attach_disk(self, handle: str, machine: str) -> str:
        instance = await self._instance(machine)
        volume = await self._volume(handle)
        held = _holder(volume)
        if held not in ("", instance):
            raise ProviderError(f"volume {handle} is attached to instance {held}, not {instance}")
        if not held:
            device = await self._free_device(instance)
            await self._aws.call("ec2", "attach_volume", VolumeId=handle, InstanceId=instance, Device=device)
        volume = await self._volume_until(handle, lambda v: _state(v) == "attached", f"be attached to {instance}")
        if self._backing is not None:
            made = await self._backing.create_disk(DiskWish(handle, volume["Size"] * _GIB))
            return await self._backing.attach_disk(made.handle, machine)
        return str(volume["Attachments"][0]["Device"])

    async def detach_disk(self, handle: str, machine: str) -> None:
        if self._backing is not None:  # it refuses what is still mounted, as an operating system would
            await self._backing.detach_disk(handle, machine)
        try:
            volume = await self._volume(handle)
        except CloudError as err:
            if err.missing:
                return
            raise
        held = _holder(volume)
        if not held or not await self._is(held, machine):
            return
        try:
            await self._aws.call("ec2", "detach_volume", VolumeId=handle, InstanceId=held)
        except CloudError as err:
            if err.code != "IncorrectState":  # somebody detached it meanwhile
                raise
        await self._volume_until(handle, lambda v: not _holder(v), f"leave {held}")

    # ---- internals

    async def _grow_backing(self, handle: str, size_bytes: int, *, attached: bool) -> None:
        """One that was never attached has no disk here yet, and gets one of the right size when it is."""
        if self._backing is None:
            return
        try:
            await self._backing.grow_disk(handle, size_bytes)
        except ProviderError:
            if attached:
                raise

    async def _instance(self, machine: str) -> str:
        node = self._node_of(machine)
        if node is None:
            raise ProviderError(f"there is no node {machine}")
        return await self._instances.id_of(node)

    async def _is(self, instance: str, machine: str) -> bool:
        """Whether an instance is that machine; of a Node that is gone, its name decides."""
        node = self._node_of(machine)
        found = await self._instances.instance(node) if node is not None else await self._instances.by_id(instance)
        if found is None or found.state == "gone":
            return True  # an instance that is gone holds nothing
        return found.provider_id.endswith(f"/{instance}") if node is not None else found.name == machine

    async def _free_device(self, instance: str) -> str:
        """A device name that no volume of the instance has; AWS refuses one that was taken meanwhile."""
        wanted = [{"Name": "attachment.instance-id", "Values": [instance]}]
        volumes = await self._aws.all("ec2", "describe_volumes", "Volumes", Filters=wanted)
        taken = {a["Device"] for v in volumes for a in v["Attachments"]}
        free = next((d for d in _DEVICES if d not in taken), None)
        if free is None:
            raise ProviderError(f"instance {instance} has no device name left: {len(taken)} volumes are attached")
        return free

    async def _any_zone(self) -> str:
        answer = await self._aws.call("ec2", "describe_availability_zones")
        return str(min(z["ZoneName"] for z in answer["AvailabilityZones"]))

    async def _volume(self, handle: str) -> dict[str, Any]:
        return dict((await self._aws.call("ec2", "describe_volumes", VolumeIds=[handle]))["Volumes"][0])

    async def _volume_until(self, handle: str, true: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _WAIT_S
        while not true(volume := await self._volume(handle)):
            if loop.time() > deadline:
                raise ProviderError(f"volume {handle} did not {what} within {_WAIT_S:g} s")
            await asyncio.sleep(_LOOK_S)
        return volume


def _holder(volume: Mapping[str, Any]) -> str:
    """The instance that has it; one that it is leaving has it still."""
    return next((a["InstanceId"] for a in volume.get("Attachments") or () if a["State"] != "detached"), "")


def _state(volume: Mapping[str, Any]) -> str:
    return next((a["State"] for a in volume.get("Attachments") or ()), "")


def _parameters(wanted: Mapping[str, str]) -> dict[str, Any]:
    """A StorageClass's parameters as EC2's arguments. Raises ProviderError for a number that is none."""
    made: dict[str, Any] = {"VolumeType": wanted.get("type") or "gp3"}
    try:
        if wanted.get("iops"):
            made["Iops"] = int(wanted["iops"])
        if wanted.get("throughput"):
            made["Throughput"] = int(wanted["throughput"])
    except ValueError as err:
        raise ProviderError(f"parameters: {err}", retriable=False) from err
    if wanted.get("encrypted", "").lower() == "true":
        made["Encrypted"] = True
        if wanted.get("kmsKeyId"):
            made["KmsKeyId"] = wanted["kmsKeyId"]
    return made
