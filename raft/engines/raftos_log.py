"""Opening a member's directory for the engine ``raftos``: whose directory it is, and the group's secret. IO.

raftos keeps its files in ``raftos/`` of the State directory; the write-ahead log beside it stays as the founding left
it. A directory belongs to the engine that wrote to it first: the two logs know nothing of each other.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from raft.config import StateConfig
from raft.core.memory import BOOTSTRAP_INDEX
from raft.core.types import SnapshotMeta
from raft.engine import Engine, EngineParts
from raft.engines.raftos_engine import RaftosEngine
from raft.engines.raftos_library import load
from raft.errors import Corrupt, Invalid
from raft.storage.identity import StateDirectory
from raft.storage.wal import Wal

FOLDER = "raftos"


def folder_of(directory: Path) -> Path:
    return directory / FOLDER


class RaftosLog:
    """See raft.engine.OpenLog."""

    received: SnapshotMeta | None = None

    def __init__(self, directory: StateDirectory, secret: bytes) -> None:
        self._folder = folder_of(directory.path)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._secret = secret
        self._library = load()

    def engine(self, parts: EngineParts) -> Engine:
        engine = RaftosEngine(parts, self._library, str(self._folder), self._secret)
        have = engine.status().last_index
        if have < parts.applied.index:
            raise Corrupt(
                f"{self._folder}: the state is at entry {parts.applied.index}, raftos' log ends at {have}: it lost "
                "what it had acknowledged (it never syncs)"
            )
        return engine

    def close(self) -> None:
        self._library.forget()


def open_raftos(config: StateConfig, directory: StateDirectory) -> RaftosLog:
    """Raises Invalid, storage.errors.StorageError."""
    if not folder_of(directory.path).exists():
        wal, replay = Wal.open(directory.wal, faults=config.faults)
        wal.close()
        if replay.entries or replay.snapshot_marker.index != BOOTSTRAP_INDEX:
            raise Invalid(
                f"{directory.path}: this member was written by the engine native (or joins a group): raftos knows only "
                "groups that it founded; make a new cluster to use it"
            )
    return RaftosLog(directory, _secret(config, directory.identity.cluster_id))


def _secret(config: StateConfig, cluster_id: str) -> bytes:
    """The key of the group's datagrams, from the cluster's shared key file."""
    material = config.raftos_key.read_bytes() if config.raftos_key is not None else b"loopback"
    kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=cluster_id.encode(), info=b"sk8 raftos datagrams")
    return kdf.derive(material)
