"""Errors of a member's directory. Pure.

StorageError
├── WalCorrupt         the log contradicts itself; names file and offset and how to recover
├── WalExists          creating over an existing log
├── WalMissing         there is no log where one should be
├── WalFailed          a write or sync failed: nothing more is accepted until a restart
├── SnapshotCorrupt    a snapshot file fails its checks
└── DirectoryError     the State directory cannot be used
    ├── DirectoryLocked       another process has it open
    ├── DirectoryNotEmpty     creating a member where something already is
    ├── DirectoryEmpty        opening a member where none was created
    └── MemberRetired         this member was removed from its group
"""

from __future__ import annotations

from pathlib import Path

RECOVER = (
    "Do not delete single files: acknowledged writes may be lost. Stop this member, move its directory away, remove "
    "the member from the group and add a new one (new member id), which copies the state from the others. If the "
    "whole group is affected, restore a backup."
)


class StorageError(Exception):
    """Base."""


class WalCorrupt(StorageError):
    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(f"{path}: corrupt at byte {offset}: {what}. {RECOVER}")
        self.path = path
        self.offset = offset


class WalExists(StorageError):
    def __init__(self, directory: Path) -> None:
        super().__init__(f"{directory} already holds a write-ahead log: open it instead of creating one")


class WalMissing(StorageError):
    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{directory} holds no write-ahead log. An empty directory never bootstraps: a new member is created "
            "under a new member id"
        )


class WalFailed(StorageError):
    """The disk refused a write or a sync."""


class SnapshotCorrupt(StorageError):
    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: snapshot unusable: {what}. {RECOVER}")
        self.path = path


class DirectoryError(StorageError):
    """Base of what can be wrong with a State directory."""


class DirectoryLocked(DirectoryError):
    """Another process has it open."""


class DirectoryNotEmpty(DirectoryError):
    """A member can only be created in an empty directory."""


class DirectoryEmpty(DirectoryError):
    """No member was ever created here."""


class MemberRetired(DirectoryError):
    """The member of this directory was removed from its group for good."""
