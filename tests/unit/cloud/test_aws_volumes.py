"""EBS volumes against moto: made once, on one instance at a time, grown, gone; and what AWS refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cloud.aws.api import CloudError
from cluster.cloud.aws.ebs import ZONE, EbsDisks
from cluster.machinery.provider import DiskStatus, DiskWish, ProviderError
from tests.support.cloud_aws import World, volume_of
from tests.support.controller_world import FakeProvider

GIB = 1 << 30


def disks(world: World, backing: FakeProvider | None = None) -> EbsDisks:
    return EbsDisks(world.aws, world.nodes.get, backing)


async def test_a_volume_is_made_once_where_its_pod_will_run(world: World) -> None:
    wish = DiskWish("pvc-1", GIB + 1, {"type": "gp3", "iops": "4000"}, "n1", {ZONE: "us-east-1b"})
    made = await disks(world).create_disk(wish)
    assert made.size_bytes == 2 * GIB and made.topology == {ZONE: "us-east-1b"}
    found = volume_of(world, made.handle)
    assert (found["AvailabilityZone"], found["VolumeType"], found["Iops"]) == ("us-east-1b", "gp3", 4000)
    assert {"Key": "kubernetes.io/created-for/pv/name", "Value": "pvc-1"} in found["Tags"]


async def test_it_is_attached_to_one_instance_moves_and_is_deleted(world: World) -> None:
    first, second = world.instance("n1"), world.instance("n2")
    ebs = disks(world)
    handle = (await ebs.create_disk(DiskWish("pvc-1", GIB))).handle
    device = await ebs.attach_disk(handle, "n1")
    assert device.startswith("/dev/xvd") and await ebs.attach_disk(handle, "n1") == device
    with pytest.raises(ProviderError, match=f"attached to instance {first}, not {second}"):
        await ebs.attach_disk(handle, "n2")
    await ebs.detach_disk(handle, "n2")
    assert volume_of(world, handle)["Attachments"], "it was not n2's to let go of"
    with pytest.raises(CloudError):
        await ebs.delete_disk(handle)
    await ebs.detach_disk(handle, "n1")
    await ebs.detach_disk(handle, "n1")
    await ebs.attach_disk(handle, "n2")
    assert volume_of(world, handle)["Attachments"][0]["InstanceId"] == second
    await ebs.detach_disk(handle, "n2")
    await ebs.delete_disk(handle)
    await ebs.delete_disk(handle)


async def test_two_volumes_of_one_instance_have_two_device_names(world: World) -> None:
    world.instance("n1")
    ebs = disks(world)
    handles = [(await ebs.create_disk(DiskWish(f"pvc-{i}", GIB))).handle for i in range(2)]
    assert len({await ebs.attach_disk(h, "n1") for h in handles}) == 2


async def test_growing_is_in_whole_gib_and_never_shrinks(world: World) -> None:
    ebs = disks(world)
    handle = (await ebs.create_disk(DiskWish("pvc-1", GIB))).handle
    assert await ebs.grow_disk(handle, 3 * GIB - 5) == 3 * GIB
    assert await ebs.grow_disk(handle, GIB) == 3 * GIB
    assert volume_of(world, handle)["Size"] == 3


async def test_what_is_not_there_is_said_and_not_tried_for_ever(world: World) -> None:
    world.instance("n1")
    ebs = disks(world)
    with pytest.raises(CloudError) as missing:
        await ebs.attach_disk("vol-abc123", "n1")
    assert missing.value.missing and not missing.value.retriable
    with pytest.raises(ProviderError, match="there is no node n9"):
        await ebs.attach_disk("vol-abc123", "n9")
    await ebs.detach_disk("vol-abc123", "n1")
    await ebs.delete_disk("vol-abc123")


async def test_a_throttled_call_may_be_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    ebs = disks(world)
    handle = (await ebs.create_disk(DiskWish("pvc-1", GIB))).handle

    def throttled(**_: object) -> None:
        raise ClientError({"Error": {"Code": "RequestLimitExceeded", "Message": "slow down"}}, "DescribeVolumes")

    monkeypatch.setattr(world.ec2, "describe_volumes", throttled)
    with pytest.raises(CloudError, match="RequestLimitExceeded: slow down") as e:
        await ebs.grow_disk(handle, 2 * GIB)
    assert e.value.retriable and not e.value.missing
    monkeypatch.undo()
    assert await ebs.grow_disk(handle, 2 * GIB) == 2 * GIB


async def test_nobody_there_may_be_tried_again(tmp_path: Path, world: World) -> None:
    import dataclasses

    from cluster.cloud.aws.api import Aws

    deaf = Aws(dataclasses.replace(world.config, endpoint="http://127.0.0.1:9"))
    with pytest.raises(ProviderError, match="AWS does not answer") as e:
        await EbsDisks(deaf, world.nodes.get).delete_disk("vol-1")
    assert e.value.retriable


async def test_an_attached_volume_is_a_disk_of_the_machine_that_stands_for_the_instance(world: World) -> None:
    world.instance("n1")
    world.instance("n2")
    box = FakeProvider()
    ebs = disks(world, box)
    handle = (await ebs.create_disk(DiskWish("pvc-1", GIB))).handle
    assert box.disks_ == {}
    device = await ebs.attach_disk(handle, "n1")
    assert box.disks_ == {handle: DiskStatus(handle, GIB, "n1", device)}
    await ebs.grow_disk(handle, 2 * GIB)
    assert box.disks_[handle].size_bytes == 2 * GIB
    await ebs.detach_disk(handle, "n1")
    await ebs.attach_disk(handle, "n2")
    assert box.disks_[handle].attached_to == "n2" and box.violations == []
    await ebs.detach_disk(handle, "n2")
    await ebs.delete_disk(handle)
    assert box.disks_ == {}
