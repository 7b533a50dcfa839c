"""The order in which a Ready reaches the log decides what a restart finds."""

from __future__ import annotations

import threading
from pathlib import Path

from raft.core.types import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from raft.storage.wal import Wal, WalMetadata
from raft.wal_writer import WalWriter, Write


def entry(term: int, index: int) -> Entry:
    return Entry(term, index, EntryKind.NORMAL, b"x%d" % index)


def written(wal: Wal, *writes: Write) -> None:
    done, last = threading.Event(), writes[-1].number
    errors: list[BaseException] = []
    writer = WalWriter(wal, lambda n: done.set() if n == last else None, errors.append, lambda _s: None)
    writer.start()
    for write in writes:
        writer.submit(write)
    assert done.wait(10) and errors == []
    writer.stop()


def test_an_entry_synced_with_a_snapshot_survives_a_restart(tmp_path: Path) -> None:
    """Regression: the marker used to be written after the entries of its Ready, and the replay dropped them."""
    conf = ConfState(voters=(1, 2, 3))
    start = SnapshotMeta(1, 1, conf)
    wal = Wal.create(tmp_path / "wal", WalMetadata("c", 1), hard_state=HardState(1, 0, 1), snapshot_marker=start)
    written(
        wal,
        Write(1, HardState(1, 1, 1), [entry(1, i) for i in range(2, 11)]),
        Write(2, HardState(3, 2, 8), [entry(3, 9)], marker=SnapshotMeta(8, 3, conf)),
    )
    reopened, replay = Wal.open(tmp_path / "wal")
    reopened.close()
    assert replay.snapshot_marker.index == 8
    assert [(e.term, e.index) for e in replay.entries] == [(3, 9)]
    assert replay.hard_state == HardState(3, 2, 8)
