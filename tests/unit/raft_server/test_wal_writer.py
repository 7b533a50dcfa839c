"""The order in which a Ready reaches the log decides what a restart finds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from raft.core.types import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from raft.storage.wal import Wal, WalMetadata
from raft.wal_writer import QUICK_S, QUICK_SYNCS, WalWriter, Write


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


class Disk:
    """A log whose syncs take what the test says, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sync_s = 0.0
        self.broken = False
        self.saved: list[Entry] = []
        self.synced = 0

    def save(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        self.saved += entries

    def save_snapshot_marker(self, meta: SnapshotMeta) -> None: ...

    def sync(self) -> None:
        if self.broken:
            raise OSError("no")
        self.now += self.sync_s
        self.synced = len(self.saved)

    def release_to(self, index: int) -> int:
        return 0

    def close(self) -> None: ...


def test_the_loop_syncs_itself_only_while_the_disk_is_quick() -> None:
    disk, done = Disk(), threading.Semaphore(0)
    writer = WalWriter(disk, lambda _n: done.release(), lambda _e: None, lambda _s: None, lambda: disk.now)
    writer.start()

    def by_thread(number: int) -> None:
        assert not writer.write_now(Write(number, None, [entry(1, number)]))
        writer.submit(Write(number, None, [entry(1, number)]))
        assert done.acquire(timeout=30)

    for number in range(QUICK_SYNCS):
        by_thread(number + 1)
    while not writer.write_now(Write(100, None, [entry(1, 100)])):
        pass  # the thread is still on its way back to its queue
    assert disk.synced == len(disk.saved) == QUICK_SYNCS + 1

    disk.sync_s = 2 * QUICK_S
    assert writer.write_now(Write(101, None, [entry(1, 101)])) and disk.synced == QUICK_SYNCS + 2
    disk.sync_s = 0.0
    for number in range(QUICK_SYNCS):
        by_thread(number + 200)
    writer.stop()
    assert disk.synced == len(disk.saved)


def test_a_failed_sync_on_the_loop_is_raised_and_nothing_counts_as_durable() -> None:
    disk, done = Disk(), threading.Semaphore(0)
    writer = WalWriter(disk, lambda _n: done.release(), lambda _e: None, lambda _s: None, lambda: disk.now)
    writer.start()
    for number in range(QUICK_SYNCS):
        writer.submit(Write(number + 1, None, [entry(1, number)]))
        assert done.acquire(timeout=30)
    synced, disk.broken = disk.synced, True
    with pytest.raises(OSError):
        while not writer.write_now(Write(100, None, [entry(1, 100)])):
            pass
    assert disk.synced == synced and not done.acquire(blocking=False)
    writer.stop()
