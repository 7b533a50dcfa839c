"""A pod waits for its disk until it is attached to the machine: that is no failure to be told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.volumes import EBS
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
