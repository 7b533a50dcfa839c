"""A disk's path leads to its own device or to nothing, whatever happened to loop devices meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.cloud import disks as module
from cluster.cloud.disks import DiskError, Disks

MIB = 1 << 20


class Loops:
    """Loop devices as files in a directory; numbers are reused like the kernel's."""

    def __init__(self) -> None:
        self.devices: dict[Path, str] = {}
        self.busy = False

    def found(self) -> dict[Path, str]:
        return dict(self.devices)

    def losetup(self, *arguments: str) -> str:
        if arguments[0] == "--detach" and self.busy:
            return ""  # the kernel waits for the last user
        if arguments[0] == "--detach":
            self.devices = {image: d for image, d in self.devices.items() if d != arguments[1]}
            return ""
        free = next(f"/dev/loop{n}" for n in range(9) if f"/dev/loop{n}" not in self.devices.values())
        self.devices[Path(arguments[-1])] = free
        return free


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> Loops:
    made = Loops()
    monkeypatch.setattr(module, "loop_devices", made.found)
    monkeypatch.setattr(module, "_losetup", made.losetup)
    monkeypatch.setattr(module, "users_of", lambda _device: [])
    return made


def test_a_rebooted_machine_never_finds_another_disk_under_its_path(tmp_path: Path, loops: Loops) -> None:
    """Regression: the path used to be the loop device's own, which after a power failure was another disk's."""
    disks = Disks(tmp_path)
    for name in ("pg", "web"):
        disks.create(name, MIB)
    path = disks.attach("pg", "m1")
    assert os.readlink(path) == "/dev/loop0"
    disks.release_machine("m1")
    assert not os.path.lexists(path)
    other = disks.attach("web", "m2")
    assert os.readlink(other) == "/dev/loop0"
    disks.attach_again("m1")
    assert os.readlink(path) == "/dev/loop1"


def test_links_are_mended_after_a_crash_of_the_agent(tmp_path: Path, loops: Loops) -> None:
    disks = Disks(tmp_path)
    disks.create("pg", MIB)
    path = disks.attach("pg", "m1")
    loops.devices.clear()
    assert Disks(tmp_path).list()[0][1] == "" and not os.path.lexists(path)


def test_a_disk_is_let_go_only_when_its_device_is_gone(
    tmp_path: Path, loops: Loops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a device that a dying container still held counted as detached, and the disk went elsewhere."""
    monkeypatch.setattr(module, "_GONE_S", 0.05)
    disks = Disks(tmp_path)
    disks.create("pg", MIB)
    disks.attach("pg", "m1")
    loops.busy = True
    with pytest.raises(DiskError, match="still uses") as refused:
        disks.detach("pg", "m1")
    assert refused.value.retriable
    with pytest.raises(DiskError, match="still uses"):
        disks.release_machine("m1")
    with pytest.raises(DiskError, match="attached to machine m1"):
        disks.attach("pg", "m2")
    loops.busy = False
    disks.detach("pg", "m1")
    assert os.readlink(disks.attach("pg", "m2")) == "/dev/loop0"
