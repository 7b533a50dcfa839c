"""Block volumes of local machines: image files that are a loop device while attached, to one machine at a time.

`DiskTable` is pure: who has which disk, and what is refused. `Disks` is its shell: the image files, losetup(8), and the
table in `disks/disks.json`, replaced atomically before a device appears and after it is gone.

Invariants: a disk is attached to at most one machine, also across a crash of the host agent at any point (the table is
written first on attach, last on detach); a device that is mounted is never detached; `disks/dev/<name>` leads to the
device of that disk or to nothing. Callers get that path, never the loop device's own: loop devices are handed out anew
after a power failure, and whoever remembered `/dev/loop0` would hold somebody else's disk.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import orjson

from cluster.cloud.mounts import users_of
from cluster.machine.files import make_private_dir, write_atomic

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MIB = 1 << 20
_GONE_S = 5.0


class DiskError(Exception):
    """A refusal; `retriable` when the same call may succeed later."""

    def __init__(self, message: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.retriable = retriable


@dataclass(frozen=True, slots=True)
class Disk:
    name: str
    size_bytes: int
    attached_to: str = ""


@dataclass(frozen=True, slots=True)
class DiskTable:
    """All disks by name. Every operation returns the new table, the same one when there is nothing to do."""

    disks: Mapping[str, Disk] = field(default_factory=lambda: MappingProxyType({}))

    def created(self, name: str, size_bytes: int) -> DiskTable:
        if not _NAME.fullmatch(name):
            raise DiskError(f"disk name {name!r}: must be a DNS subdomain name in lower case")
        if size_bytes < _MIB:
            raise DiskError(f"disk {name}: size {size_bytes} bytes: must be at least {_MIB} (1 MiB)")
        old = self.disks.get(name)
        if old is None:
            return self._with(Disk(name, size_bytes))
        if old.size_bytes != size_bytes:
            raise DiskError(f"disk {name} exists with {old.size_bytes} bytes, not {size_bytes}")
        return self

    def grown(self, name: str, size_bytes: int) -> DiskTable:
        """At least that large; a disk never shrinks."""
        disk = self.get(name)
        return self if disk.size_bytes >= size_bytes else self._with(replace(disk, size_bytes=size_bytes))

    def deleted(self, name: str) -> DiskTable:
        disk = self.disks.get(name)
        if disk is None:
            return self
        if disk.attached_to:
            raise DiskError(f"disk {name} is attached to machine {disk.attached_to}; detach it first", retriable=True)
        return DiskTable(MappingProxyType({n: d for n, d in self.disks.items() if n != name}))

    def attached(self, name: str, machine: str) -> DiskTable:
        disk = self.get(name)
        if disk.attached_to == machine:
            return self
        if disk.attached_to:
            raise DiskError(
                f"disk {name} is attached to machine {disk.attached_to}; it can be attached to {machine} "
                "once it is detached there",
                retriable=True,
            )
        return self._with(replace(disk, attached_to=machine))

    def detached(self, name: str, machine: str) -> DiskTable:
        disk = self.disks.get(name)
        if disk is None or disk.attached_to != machine:
            return self
        return self._with(replace(disk, attached_to=""))

    def get(self, name: str) -> Disk:
        try:
            return self.disks[name]
        except KeyError as e:
            raise DiskError(f"there is no disk {name}") from e

    def of(self, machine: str) -> list[Disk]:
        return [d for d in self.disks.values() if d.attached_to == machine]

    def to_json(self) -> bytes:
        items = [{"name": d.name, "size_bytes": d.size_bytes, "attached_to": d.attached_to} for d in self._sorted()]
        return orjson.dumps({"format": 1, "disks": items}, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> DiskTable:
        raw = orjson.loads(data)
        if raw["format"] != 1:
            raise DiskError(f"disks.json: format {raw['format']!r} is not known to this version")
        return cls(MappingProxyType({d["name"]: Disk(**d) for d in raw["disks"]}))

    def _sorted(self) -> list[Disk]:
        return sorted(self.disks.values(), key=lambda d: d.name)

    def _with(self, disk: Disk) -> DiskTable:
        return DiskTable(MappingProxyType({**self.disks, disk.name: disk}))


class Disks:
    """Blocking, thread-safe: one operation at a time."""

    def __init__(self, directory: Path) -> None:
        self._dir = directory
        self._busy = threading.RLock()
        make_private_dir(directory)
        self._file = directory / "disks.json"
        self._table = DiskTable.from_json(self._file.read_bytes()) if self._file.exists() else DiskTable()
        self._links = directory / "dev"
        make_private_dir(self._links)
        self._mend_links()

    @property
    def table(self) -> DiskTable:
        return self._table

    def list(self) -> list[tuple[Disk, str]]:
        """Each disk with the path of its device, "" while it has none."""
        devices = loop_devices()
        return [
            (d, str(self.link(d.name)) if self.image(d.name) in devices else "") for d in self._table.disks.values()
        ]

    def image(self, name: str) -> Path:
        return self._dir / f"{name}.img"

    def link(self, name: str) -> Path:
        """The path under which the disk's device is found while it has one."""
        return self._links / name

    def create(self, name: str, size_bytes: int) -> None:
        with self._busy:
            table = self._table.created(name, size_bytes)
            if table is not self._table:
                self._make_image(name, size_bytes)
                self._save(table)

    def _make_image(self, name: str, size_bytes: int) -> None:
        """Raises DiskError for a size that the file system's files cannot have; a new image does not stay then."""
        image = self.image(name)
        new = not image.exists()
        fd = os.open(image, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size_bytes)  # sparse: takes room as it is written
            os.fsync(fd)
        except OSError as e:
            if new:
                image.unlink(missing_ok=True)
            if e.errno == errno.EFBIG:
                raise DiskError(f"{size_bytes} bytes are more than a file in {self._dir} can have") from e
            raise
        finally:
            os.close(fd)

    def grow(self, name: str, size_bytes: int) -> int:
        """The size it has then, in bytes; whoever has its device open sees it at once."""
        with self._busy:
            table = self._table.grown(name, size_bytes)
            if table is not self._table:
                self._make_image(name, size_bytes)
                self._save(table)
            if device := loop_devices().get(self.image(name)):
                _losetup("--set-capacity", device)
            return table.get(name).size_bytes

    def delete(self, name: str) -> None:
        with self._busy:
            self._save(self._table.deleted(name))
            self.image(name).unlink(missing_ok=True)

    def attach(self, name: str, machine: str) -> str:
        """The device path; the same one when it is there already."""
        with self._busy:
            self._save(self._table.attached(name, machine))
            image = self.image(name)
            device = loop_devices().get(image) or _losetup("--find", "--show", str(image))
            self._set_link(name, device)
            return str(self.link(name))

    def attach_again(self, machine: str) -> None:
        """A machine is switched on: it finds its disks where they were, as in a cloud."""
        with self._busy:
            for disk in self._table.of(machine):
                self.attach(disk.name, machine)

    def _set_link(self, name: str, device: str) -> None:
        fresh = self._links / f".{name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(device)
        fresh.replace(self.link(name))

    def _mend_links(self) -> None:
        """After a crash or a reboot: links of devices that are no more go, the others are put right."""
        devices = loop_devices()
        for link in self._links.iterdir():
            link.unlink()
        for name in self._table.disks:
            if device := devices.get(self.image(name)):
                self._set_link(name, device)

    def detach(self, name: str, machine: str) -> None:
        """Refuses while the device is mounted anywhere; never takes a disk from another machine."""
        with self._busy:
            table = self._table.detached(name, machine)
            if table is not self._table:
                self._release(name)
                self._save(table)

    def release_machine(self, machine: str) -> None:
        """A machine is off: its devices go, the attachments stay until somebody detaches them (as in a cloud)."""
        with self._busy:
            for disk in self._table.of(machine):
                self._release(disk.name)

    def release_all(self) -> None:
        with self._busy:
            for name in self._table.disks:
                self._release(name)

    def _release(self, name: str) -> None:
        """Returns once the device is gone: one that is still in use goes only with its last user (losetup(8)).

        1. A container that is being killed holds the file system, though nobody sees its mount any more.
        2. The device is detached, in name; the disk is attached to another machine.
        3. The dying container's last writes reach the image under the other machine's mount.
        """
        device = loop_devices().get(self.image(name))
        if device is None:
            return
        users = users_of(device)
        if users:
            raise DiskError(f"disk {name} is mounted on {', '.join(map(str, users))}", retriable=True)
        self.link(name).unlink(missing_ok=True)
        _losetup("--detach", device)
        deadline = time.monotonic() + _GONE_S
        while loop_devices().get(self.image(name)) == device:
            if time.monotonic() > deadline:
                raise DiskError(f"disk {name}: something still uses its device {device}", retriable=True)
            time.sleep(0.01)

    def _save(self, table: DiskTable) -> None:
        if table is not self._table:
            write_atomic(self._file, table.to_json())
            self._table = table


def loop_devices() -> dict[Path, str]:
    """Device by backing file."""
    raw = json.loads(_losetup("--list", "--json", "--output", "NAME,BACK-FILE") or '{"loopdevices": []}')
    return {Path(entry["back-file"]): entry["name"] for entry in raw["loopdevices"] if entry["back-file"]}


def _losetup(*arguments: str) -> str:
    done = subprocess.run(["losetup", *arguments], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise DiskError(f"losetup {' '.join(arguments)}: {done.stderr.strip()}", retriable=True)
    return done.stdout.strip()
