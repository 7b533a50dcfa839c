"""Making a member's directory: with the cluster, or later, or of a saved state. IO, blocking.

All founding members start from the same state: the first membership, as of entry 1. Whoever joins later starts empty,
takes no part in elections, and gets everything from the leader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from raft.applier import found_state
from raft.config import Address
from raft.core.memory import bootstrap_hard_state, bootstrap_meta
from raft.core.types import ConfState, HardState, SnapshotMeta
from raft.membership import Members
from raft.storage.backend_lmdb import LmdbBackend
from raft.storage.identity import StateDirectory
from raft.storage.wal import Wal, WalMetadata

MAP_BYTES = 64 << 20

Fill = Callable[[Path, SnapshotMeta], None]
"""Makes the backend in a directory that does not exist yet, as of the given entry."""


def create_member(dir: Path, cluster_id: str, member_id: int, members: Mapping[int, Address]) -> None:
    """A founding member; call it once for each, with the same ``members`` (all of them, itself included).

    Raises storage.errors.DirectoryNotEmpty and others of that tree.
    """
    found_member(dir, cluster_id, member_id, members, _empty(cluster_id, members))


def found_member(dir: Path, cluster_id: str, member_id: int, members: Mapping[int, Address], fill: Fill) -> None:
    """A founding member whose state is what ``fill`` makes: the same for each of them."""
    if member_id not in members:
        raise ValueError(f"member {member_id} is not among the founding members {sorted(members)}")
    conf = ConfState(voters=tuple(sorted(members)))
    _create(dir, cluster_id, member_id, members, bootstrap_meta(conf), bootstrap_hard_state(), fill, founding=True)


def join_member(dir: Path, cluster_id: str, member_id: int, members: Mapping[int, Address]) -> None:
    """A member that the group has added as a learner, under an id never used before; ``members`` as member_list says.

    Raises storage.errors.DirectoryNotEmpty and others of that tree.
    """
    fill = _empty(cluster_id, members)
    _create(dir, cluster_id, member_id, members, SnapshotMeta(), HardState(), fill, founding=False)


def _empty(cluster_id: str, members: Mapping[int, Address]) -> Fill:
    def fill(db: Path, meta: SnapshotMeta) -> None:
        backend = LmdbBackend(db, map_bytes=MAP_BYTES, create=True)
        try:
            found_state(backend, cluster_id, meta)
            known = Members(backend)
            for member, address in sorted(members.items()):
                known.set(member, address)
            backend.flush()
        finally:
            backend.close()

    return fill


def _create(
    path: Path,
    cluster_id: str,
    member_id: int,
    members: Mapping[int, Address],
    meta: SnapshotMeta,
    hard_state: HardState,
    fill: Fill,
    *,
    founding: bool,
) -> None:
    def populate(directory: StateDirectory) -> None:
        wal = Wal.create(directory.wal, WalMetadata(cluster_id, member_id), hard_state=hard_state, snapshot_marker=meta)
        wal.close()
        fill(directory.backend, meta)

    peers = {member: f"{host}:{peer_port}" for member, (host, peer_port, _) in members.items()}
    StateDirectory.create(path, cluster_id, member_id, peers, founding=founding, populate=populate).close()
