"""The engine ``native``: raft.core on raft.storage's write-ahead log, driven by raft.consensus. IO."""

from __future__ import annotations

import os
import random

from raft.config import MIB, StateConfig
from raft.consensus import Consensus, Keep
from raft.core.config import Config
from raft.core.memory import MemoryStorage
from raft.core.types import HardState, Snapshot, SnapshotMeta
from raft.engine import Engine, EngineParts
from raft.errors import Corrupt
from raft.storage.identity import StateDirectory
from raft.storage.wal import Replay, Wal


class NativeLog:
    """See raft.engine.OpenLog."""

    def __init__(self, directory: StateDirectory, wal: Wal, replay: Replay) -> None:
        self._path = directory.path
        self._wal = wal
        self._replay: Replay | None = replay
        self.received: SnapshotMeta | None = replay.snapshot_marker

    def close(self) -> None:
        self._wal.close()

    def engine(self, parts: EngineParts) -> Engine:
        if self._replay is None:
            raise RuntimeError("the log has its engine already")
        storage = self._storage(self._replay, parts.applied)
        self._replay = None  # its entries are the storage's now: nobody else keeps them alive
        config = parts.config
        return Consensus(
            Config(
                id=parts.id,
                rng=random.Random(os.urandom(16)),
                election_ticks=config.election_ticks,
                max_uncommitted_bytes=64 * MIB,
                applied=parts.applied.index,
            ),
            storage,
            self._wal,
            parts.machine,
            parts.send,
            keep=Keep(config.snapshot_every, config.snapshot_bytes, config.keep_entries, config.keep_bytes),
            origin=parts.id.to_bytes(8, "big") + os.urandom(8),
            max_pending=config.max_pending,
            observe_sync=parts.observe_sync,
        )

    def _storage(self, replay: Replay, applied: SnapshotMeta) -> MemoryStorage:
        marker = replay.snapshot_marker
        last = replay.entries[-1].index if replay.entries else marker.index
        if not marker.index <= applied.index <= last:
            raise Corrupt(
                f"{self._path}: the state is at entry {applied.index}, the log has {marker.index} to {last}: "
                "they do not belong together"
            )
        storage = MemoryStorage(marker, _at_least(replay.hard_state, applied), replay.entries)
        if storage.term(applied.index) != applied.term:
            raise Corrupt(f"{self._path}: entry {applied.index} of the log has another term than the state")
        storage.set_conf_state(applied.conf)
        if applied.index > marker.index:
            storage.set_snapshot(Snapshot(applied))
        return storage


def _at_least(hard_state: HardState, applied: SnapshotMeta) -> HardState:
    return hard_state._replace(commit=max(hard_state.commit, applied.index))


def open_native(config: StateConfig, directory: StateDirectory) -> NativeLog:
    """Raises storage.errors.StorageError."""
    wal, replay = Wal.open(directory.wal, faults=config.faults)
    return NativeLog(directory, wal, replay)
