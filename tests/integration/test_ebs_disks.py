"""EBS volumes on this box: what moto says is attached is a loop device here, and what was written moves along."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.api.volumes import EBS, DiskSource
from cluster.cloud.aws.ebs import EbsDisks
from cluster.cloud.disks import DiskError, Disks
from cluster.machinery.provider import DiskWish, MadeDisk, ProviderError
from cluster.node import mounts
from cluster.node.volume_device import BlockVolume, mount_device
from tests.support.cloud_aws import World, moto

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class BoxDisks:
    """The host agent's disks without its socket; fulfils the driver's Disks."""

    def __init__(self, disks: Disks) -> None:
        self._disks = disks

    async def create_disk(self, wish: DiskWish) -> MadeDisk:
        await asyncio.to_thread(self._disks.create, wish.name, wish.size_bytes)
        return MadeDisk(wish.name, wish.size_bytes)

    async def grow_disk(self, handle: str, size_bytes: int) -> int:
        try:
            return await asyncio.to_thread(self._disks.grow, handle, size_bytes)
        except DiskError as err:
            raise ProviderError(str(err)) from err

    async def delete_disk(self, handle: str) -> None:
        await asyncio.to_thread(self._disks.delete, handle)

    async def attach_disk(self, handle: str, machine: str) -> str:
        return await asyncio.to_thread(self._disks.attach, handle, machine)

    async def detach_disk(self, handle: str, machine: str) -> None:
        try:
            await asyncio.to_thread(self._disks.detach, handle, machine)
        except DiskError as err:
            raise ProviderError(str(err)) from err


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with moto() as url:
        made = World(url, tmp_path)
        yield made
        made.close()


async def test_rows_move_with_the_volume_and_a_mounted_one_stays(world: World, tmp_path: Path) -> None:
    box = Disks(tmp_path / "disks")
    world.instance("node-5")
    world.instance("node-7")
    ebs = EbsDisks(world.aws, world.nodes.get, BoxDisks(box))
    made = await ebs.create_disk(DiskWish("pv-database", 1 << 30))

    def mounted(device: str, where: Path) -> Path:
        mount_device(BlockVolume("pv-database", DiskSource(EBS, made.handle), device), where)
        return where / "globalmount"

    try:
        first = mounted(await ebs.attach_disk(made.handle, "node-5"), tmp_path / "node-5")
        (first / "rows").write_text("1 2 3")
        with pytest.raises(ProviderError, match="is mounted on"):
            await ebs.detach_disk(made.handle, "node-5")
        mounts.unmount(str(first))
        await ebs.detach_disk(made.handle, "node-5")
        assert await ebs.grow_disk(made.handle, 2 << 30) == 2 << 30
        second = mounted(await ebs.attach_disk(made.handle, "node-7"), tmp_path / "node-7")
        assert (second / "rows").read_text() == "1 2 3"
        assert os.stat(box.image(made.handle)).st_size == 2 << 30
        mounts.unmount(str(second))
        await ebs.detach_disk(made.handle, "node-7")
        await ebs.delete_disk(made.handle)
        assert not box.image(made.handle).exists()
    finally:
        for entry in mounts.below(str(tmp_path)):
            mounts.unmount(entry.target)
        box.release_all()
