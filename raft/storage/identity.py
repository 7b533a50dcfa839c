"""A member's State directory: who it is, and that only one process has it. IO, blocking.

    <directory>/lock            flock'ed while open
    <directory>/identity.json   format version, cluster id, member id, what is known of the members
    <directory>/wal/  snap/  db/  the log, snapshots, the backend

Invariants:
- A directory is created once, empty, for one member id, which is never used again; opening never creates. An empty
  directory therefore never becomes a member that has forgotten its votes.
- identity.json is written last: without it the directory counts as never created, whatever a crash left there
  (``creating`` marks that it may be cleared).
- A directory of an older format that is still read is marked with the present one before anything else is written, so
  that the older program refuses it instead of stumbling over what it does not know. 2: leases carry a checkpoint.
- flock(2) is released by the kernel when the process dies, so a crash never leaves a stale lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from raft.faults import Faults
from raft.storage.errors import (
    DirectoryEmpty,
    DirectoryError,
    DirectoryLocked,
    DirectoryNotEmpty,
    MemberRetired,
)
from raft.storage.files import replace_durably, sync_directory

FORMAT_VERSION = 2
_READABLE = (1, FORMAT_VERSION)
_LOCK = "lock"
_IDENTITY = "identity.json"
_CREATING = "creating"


@dataclass(frozen=True, slots=True)
class Identity:
    cluster_id: str
    member_id: int
    members: Mapping[int, str]
    """Member id to peer address, as last known: where to look for the others when nothing else answers."""
    founding: bool = True
    """Made with the cluster (its log starts with the first membership), or joined later (starts empty)."""
    retired: bool = False


class StateDirectory:
    """Use create or open; then it is locked until close (or the process ends)."""

    def __init__(self, path: Path, identity: Identity, lock_fd: int, faults: Faults) -> None:
        self.path = path
        self.identity = identity
        self._lock_fd = lock_fd
        self._faults = faults

    @property
    def wal(self) -> Path:
        return self.path / "wal"

    @property
    def snapshots(self) -> Path:
        return self.path / "snap"

    @property
    def backend(self) -> Path:
        return self.path / "db"

    @classmethod
    def create(
        cls,
        path: Path,
        cluster_id: str,
        member_id: int,
        members: Mapping[int, str],
        *,
        founding: bool = True,
        populate: Callable[[StateDirectory], None] | None = None,
        faults: Faults | None = None,
    ) -> StateDirectory:
        """A new member. ``populate`` makes its log and backend before the member counts as created.

        Raises DirectoryNotEmpty, DirectoryLocked, DirectoryError.
        """
        if not cluster_id or member_id <= 0:
            raise DirectoryError(f"cluster id {cluster_id!r}, member id {member_id}: need a name and an id > 0")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(path.parent)
        if set(os.listdir(path)) - {_LOCK} and not (path / _CREATING).exists():
            raise DirectoryNotEmpty(f"{path} is not empty: a new member needs a directory of its own")
        fd = _lock(path)
        try:
            identity = Identity(cluster_id, member_id, dict(members), founding)
            directory = cls(path, identity, fd, faults or Faults())
            directory._start_creating()
            if populate is not None:
                populate(directory)
            directory._write_identity(identity)
            (path / _CREATING).unlink()
            sync_directory(path)
        except BaseException:
            os.close(fd)
            raise
        return directory

    @classmethod
    def open(cls, path: Path, *, cluster_id: str = "", faults: Faults | None = None) -> StateDirectory:
        """An existing member; ``cluster_id``, if given, must be its cluster.

        Raises DirectoryEmpty, DirectoryLocked, MemberRetired, DirectoryError.
        """
        if not (path / _IDENTITY).is_file():
            raise DirectoryEmpty(
                f"{path} holds no member. An empty directory never bootstraps: if this member's disk was lost, "
                "remove the member from the group and add a new one under a new member id"
            )
        fd = _lock(path)
        try:
            version, identity = _read_identity(path / _IDENTITY)
            if cluster_id and identity.cluster_id != cluster_id:
                raise DirectoryError(f"{path} belongs to cluster {identity.cluster_id}, not to {cluster_id}")
            if identity.retired:
                raise MemberRetired(
                    f"{path}: member {identity.member_id} was removed from its group and cannot come back; "
                    "add a new member in an empty directory"
                )
            (path / _CREATING).unlink(missing_ok=True)
            directory = cls(path, identity, fd, faults or Faults())
            if version != FORMAT_VERSION:
                directory._write_identity(identity)
        except BaseException:
            os.close(fd)
            raise
        return directory

    def _start_creating(self) -> None:
        """Clear what an interrupted creation left behind (it never was a member), and mark that one is on."""
        if (self.path / _IDENTITY).exists():
            raise DirectoryNotEmpty(f"{self.path} already is a member: open it")
        (self.path / _CREATING).touch()
        sync_directory(self.path)
        for child in self.path.iterdir():
            if child.name in (_LOCK, _CREATING):
                continue
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()

    def save_members(self, members: Mapping[int, str]) -> None:
        """Remember the members' addresses. Durable on return."""
        if dict(members) != dict(self.identity.members):
            self._write_identity(replace(self.identity, members=dict(members)))

    def retire(self) -> None:
        """This member was removed from the group: never open again. Durable on return."""
        self._write_identity(replace(self.identity, retired=True))

    def _write_identity(self, identity: Identity) -> None:
        temporary = self.path / f"{_IDENTITY}.tmp"
        text = json.dumps(
            {
                "formatVersion": FORMAT_VERSION,
                "clusterId": identity.cluster_id,
                "memberId": identity.member_id,
                "members": {str(i): address for i, address in sorted(identity.members.items())},
                "founding": identity.founding,
                "retired": identity.retired,
            },
            indent=2,
        )
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._faults.hit("identity.before_rename")
        replace_durably(temporary, self.path / _IDENTITY)
        self.identity = identity

    def close(self) -> None:
        """Gives the lock back. Idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> StateDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _lock(path: Path) -> int:
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        who = f" (process {holder})" if holder else ""
        raise DirectoryLocked(
            f"{path} is in use by another process{who}. Two processes with one identity could vote twice: "
            "stop the other one first"
        ) from e
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
    return fd


def _read_identity(path: Path) -> tuple[int, Identity]:
    """With the format version it was written in. Raises DirectoryError."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["formatVersion"]
        if version not in _READABLE:
            raise DirectoryError(f"{path}: format version {version} is not known here (this one is {FORMAT_VERSION})")
        members = {int(i): str(address) for i, address in raw["members"].items()}
        return version, Identity(
            str(raw["clusterId"]), int(raw["memberId"]), members, bool(raw["founding"]), bool(raw["retired"])
        )
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise DirectoryError(f"{path} cannot be read ({e!r}): restore it, or replace this member by a new one") from e
