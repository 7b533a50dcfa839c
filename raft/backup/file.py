"""A saved state in a file: what is in it, is it whole, and how a new cluster is made of it. IO, blocking.

    file = data.mdb of one member as of one applied entry (an LMDB environment, whole pages) + its SHA-256 (32 bytes)

Two checks: the file's own checksum, and the hash that the store keeps of its records, computed anew from them. The
state says of which format it is (applier.STATE_FORMAT); one of a newer program is refused, and nothing made of it.
A restored group is a new one: new cluster id, ids above all that were ever used, a log that starts anew, so that no
member of the old group can ever be taken for one of it. The layout (and so the way to tell a file without checksum by
its size) is that of etcd's `snapshot save`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lmdb

from raft.applier import Applier, found_again
from raft.bootstrap import found_member
from raft.config import Address
from raft.core.types import SnapshotMeta
from raft.errors import Corrupt, Invalid
from raft.storage.backend_lmdb import DEFAULT_MAP_BYTES, LmdbBackend, data_file
from raft.storage.files import sync_directory

DIGEST_BYTES = 32
PAGE_BYTES = 512
CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """``hash`` is the store's, of all live records; ``checked``: the file's checksum was there and right; ``format``:
    the version of the state's format (a file that does not say counts as 1)."""

    cluster_id: str
    index: int
    term: int
    revision: int
    compacted: int
    hash: int
    keys: int
    leases: int
    members: tuple[int, ...]
    greatest_id: int
    alarms: tuple[str, ...]
    size_bytes: int
    checked: bool
    format: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"hash": f"{self.hash:016x}"}


def check(path: Path, progress: Progress = lambda done, of: None) -> int:
    """The size of the state in the file, whose checksum is right. Raises Invalid, Corrupt, OSError."""
    whole = path.stat().st_size
    if whole % PAGE_BYTES != DIGEST_BYTES:
        raise Invalid(f"{path}: the checksum at its end is missing: it is cut off, or no `sk8 snapshot save` made it")
    size = left = whole - DIGEST_BYTES
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while left and (chunk := file.read(min(CHUNK_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
            progress(size - left, size)
        if file.read(DIGEST_BYTES) != digest.digest():
            raise Corrupt(f"{path}: its contents do not match their SHA-256: it is damaged; use another snapshot")
    return size


def describe(
    path: Path, *, skip_hash_check: bool = False, progress: Progress = lambda done, of: None
) -> SnapshotStatus:
    """Reads all of it. Raises Invalid (no snapshot), Corrupt (a damaged one), OSError.

    ``skip_hash_check``: also a bare ``data.mdb`` that was copied from a member's directory.
    """
    size = _size(path) if skip_hash_check else check(path, progress)
    with _opened(path) as backend:
        applier = _applier(path, backend)
        store, members = applier.store, applier.members
        return SnapshotStatus(
            cluster_id=applier.cluster_id,
            index=applier.applied.index,
            term=applier.applied.term,
            revision=store.revision,
            compacted=store.compacted,
            hash=store.hash,
            keys=len(store),
            leases=len(store.leases),
            members=tuple(sorted(members.addresses)),
            greatest_id=max([*members.addresses, *members.removed], default=0),
            alarms=tuple(kind for _, kind in applier.alarms),
            size_bytes=size,
            checked=not skip_hash_check,
            format=applier.format,
        )


def _size(path: Path) -> int:
    whole = path.stat().st_size
    return whole - DIGEST_BYTES if whole % PAGE_BYTES == DIGEST_BYTES else whole


@contextmanager
def _opened(path: Path) -> Iterator[LmdbBackend]:
    try:
        backend = LmdbBackend(path, readonly=True)
    except lmdb.Error as error:
        raise Invalid(f"{path}: this is no state of a store: {error}") from error
    try:
        yield backend
    finally:
        backend.close()


def _applier(path: Path, backend: LmdbBackend) -> Applier:
    try:
        return Applier(backend, lambda: 0.0, lambda _writes: None, lambda origin, sequence, results: None)
    except Invalid as error:
        raise Invalid(f"{path}: {error}") from error
    except (Corrupt, lmdb.Error) as error:
        raise Corrupt(f"{path}: {error}") from error


def restore(
    path: Path,
    directory: Path,
    cluster_id: str,
    member_id: int,
    members: Mapping[int, Address],
    *,
    bump_revision: int = 0,
    drop: Sequence[bytes] = (),
    map_bytes: int = DEFAULT_MAP_BYTES,
) -> None:
    """Make ``directory`` the founding member ``member_id`` of a new cluster whose state is the file's.

    Call it once for each of ``members``, with the same arguments, after ``describe`` found the file good. Raises
    Invalid, storage.errors.DirectoryNotEmpty and others of that tree.
    """

    def fill(db: Path, meta: SnapshotMeta) -> None:
        db.mkdir(mode=0o700)
        _copy(path, data_file(db), _size(path))
        backend = LmdbBackend(db, map_bytes=map_bytes)
        try:
            found_again(backend, cluster_id, meta, members, bump_revision=bump_revision, drop=drop)
            backend.flush()
        finally:
            backend.close()
        sync_directory(db)

    found_member(directory, cluster_id, member_id, members, fill)


def _copy(source: Path, target: Path, size: int) -> None:
    with source.open("rb") as reading, target.open("xb") as writing:
        os.fchmod(writing.fileno(), 0o600)
        shutil.copyfileobj(reading, writing, CHUNK_BYTES)
        writing.truncate(size)
        writing.flush()
        os.fsync(writing.fileno())
