"""A disk that forgets what was not synced. The bytes are those of the real WAL format, replayed by the real code."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from raft.core.types import Entry, HardState, Snapshot, SnapshotMeta
from raft.storage.segment import Header, Record, WalMetadata, encode_record, pack, pack_entries, parse
from raft.storage.wal_replay import Replay, Replayer

SECTOR = 512


class SimDisk:
    """One segment in memory, and the newest snapshot files."""

    def __init__(self, member: int, marker: SnapshotMeta | None, hard_state: HardState | None) -> None:
        self._metadata = WalMetadata("sim", member)
        self._data = bytearray()
        header = Header(self._metadata, 0, hard_state or HardState(), marker or SnapshotMeta())
        self._crc = encode_record(self._data, Record.HEADER, pack(header.to_wire()), 0)
        self._synced = len(self._data)
        self._marker = header.snapshot_marker.index
        self._dropped = 1 << 62
        self._snapshots: dict[SnapshotMeta, bytes] = {header.snapshot_marker: b""}

    def save(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        if entries:
            for packed in pack_entries(entries, 4096):
                self._crc = encode_record(self._data, Record.ENTRIES, packed, self._crc)
        if hard_state is not None:
            self._crc = encode_record(self._data, Record.HARD_STATE, pack(hard_state.to_wire()), self._crc)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """The snapshot file is durable at once (its own fsync); the marker is an ordinary record."""
        self._snapshots[snapshot.meta] = snapshot.data
        if snapshot.meta.index < self._marker:
            return  # as Wal.save_snapshot_marker: a state received meanwhile is newer
        self._marker = snapshot.meta.index
        self._crc = encode_record(self._data, Record.SNAPSHOT_MARKER, pack(snapshot.meta.to_wire()), self._crc)

    @property
    def written(self) -> int:
        return len(self._data)

    def synced_to(self, offset: int) -> None:
        self._synced = max(self._synced, offset)

    def sync_failed(self) -> None:
        """The kernel drops what it could not write: a later sync that succeeds does not bring it back."""
        self._dropped = min(self._dropped, self._synced)

    def crash(self, rng: random.Random) -> int:
        """Lose some of what was not synced: a cut at any byte, or sectors that never arrived. Returns bytes lost."""
        before = len(self._data)
        if self._dropped < before:
            del self._data[self._dropped :]
            return before - self._dropped
        if before > self._synced:
            del self._data[rng.randint(self._synced, before) :]
            if rng.random() < 0.3:
                self._lose_sectors(rng)
        return before - len(self._data)

    def _lose_sectors(self, rng: random.Random) -> None:
        at = self._synced
        while at < len(self._data):
            stop = min(len(self._data), (at // SECTOR + 1) * SECTOR)
            if rng.random() < 0.5:
                self._data[at:stop] = bytes(stop - at)
            at = stop

    def recover(self) -> tuple[Replay, Snapshot]:
        """As Wal.open: parse, cut the torn tail, replay."""
        path = Path(f"/sim/{self._metadata.member_id}.wal")
        contents = parse(path, bytes(self._data), last=True)
        if contents.torn_at is not None:
            del self._data[contents.torn_at :]
        replayer = Replayer()
        replayer.segment(path, contents)
        replay = replayer.finish()
        self._crc = replayer.crc
        self._synced = len(self._data)
        self._marker = replay.snapshot_marker.index
        self._dropped = 1 << 62
        return replay, Snapshot(replay.snapshot_marker, self._snapshots[replay.snapshot_marker])
