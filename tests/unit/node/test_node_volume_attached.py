"""A pod waits for its disk until it is attached to the machine: that is no failure to be told of. And whose it is."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.volumes import EBS
from cluster.node import mounts
from cluster.node import volume_device as devices
from cluster.node.mounts import MountEntry
from cluster.node.volume_block import BlockVolumes
from cluster.node.volume_device import VolumeFailure

VOLUME = {"metadata": {"name": "pv"}, "spec": {"csi": {"driver": EBS, "volumeHandle": "vol-1"}}}


class Refusing:
    """A client that gets this answer to all it reads."""

    def __init__(self, error: ApiError) -> None:
        self._error = error

    async def get(self, *_: Any) -> Any:
        raise self._error


async def failure(error: ApiError, root: Path) -> Exception:
    async def reported(_: list[str]) -> None:
        raise AssertionError("nothing is in use")

    volumes = BlockVolumes(Refusing(error), "n1", str(root), reported)  # type: ignore[arg-type]
    with pytest.raises((VolumeFailure, ApiError)) as e:
        await volumes.mount(VOLUME, str(root / "target"), read_only=False, alone=False, grow=False)
    return e.value


@pytest.mark.parametrize(
    "error",
    [
        ApiError(404, "NotFound", "not found"),
        ApiError(403, "Forbidden", "no relationship found between node 'n1' and this object"),
    ],
)
async def test_an_attachment_that_is_not_there_is_waited_for(error: ApiError, tmp_path: Path) -> None:
    """The Node authorizer forbids what is not there: nothing relates it to the node yet."""
    found = await failure(error, tmp_path)
    assert isinstance(found, VolumeFailure) and found.waiting
    assert str(found) == 'volume "pv" is not attached to this node yet'


async def test_an_api_server_that_fails_is_a_failure(tmp_path: Path) -> None:
    error = ApiError(500, "InternalError", "boom")
    assert await failure(error, tmp_path) is error


class Attached:
    """A client for which every disk is attached."""

    async def get(self, *_: Any) -> Any:
        return {"status": {"attached": True, "attachmentMetadata": {"devicePath": "/dev/x"}}}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[MountEntry]:
    """What is mounted; mounting itself wants root."""
    entries: list[MountEntry] = []

    def mount_device(disk: Any, directory: Path, *, grow: bool) -> None:
        entries.append(MountEntry("8:1", "/", os.path.realpath(directory / "globalmount"), "ext4", "/dev/x"))

    def bind(source: str, target: str, read_only: bool) -> None:
        entries.append(MountEntry("8:1", "/", target, "ext4", "/dev/x"))

    monkeypatch.setattr(mounts, "mounted", lambda: entries)
    monkeypatch.setattr(devices, "mount_device", mount_device)
    monkeypatch.setattr(devices, "bind", bind)
    return entries


async def test_a_pods_own_subpath_is_not_another_pod(table: list[MountEntry], tmp_path: Path) -> None:
    """Regression: ReadWriteOncePod refused the pod that has the volume, once it had a subPath of it and its kubelet was
    restarted."""
    root = os.path.realpath(tmp_path)
    target = f"{root}/pods/uid-1/volumes/kubernetes.io~csi/pv"
    volumes = BlockVolumes(Attached(), "n1", root, lambda _: asyncio.sleep(0))  # type: ignore[arg-type]

    async def mount(at: str) -> None:
        await volumes.mount(VOLUME, at, read_only=False, alone=True, grow=False)

    await mount(target)
    table.append(MountEntry("8:1", "/pgdata", f"{root}/pods/uid-1/volume-subpaths/db/0", "ext4", "/dev/x"))
    await mount(target)
    for other in ("uid-2", "uid-10", "uid"):
        with pytest.raises(VolumeFailure, match="already in use by another pod"):
            await mount(f"{root}/pods/{other}/volumes/kubernetes.io~csi/pv")
