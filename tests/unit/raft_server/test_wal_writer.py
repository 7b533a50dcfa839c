"""The order in which a Ready reaches the log decides what a restart finds."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from raft.core.types import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from raft.storage.wal import Wal, WalMetadata
from raft.wal_writer import QUICK_LIGHT_S, QUICK_S, RECENT_SYNCS, WalWriter, Write


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


class Writing:
    """A writer on such a disk, on which write after write becomes durable."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.number = 0
        self._done = threading.Semaphore(0)
        self.writer = WalWriter(
            self.disk, lambda _n: self._done.release(), lambda _e: None, lambda _s: None, lambda: self.disk.now
        )
        self.writer.start()

    def next(self) -> Write:
        self.number += 1
        return Write(self.number, None, [entry(1, self.number)])

    def by_thread(self) -> None:
        self.writer.submit(self.next())
        assert self._done.acquire(timeout=30)

    def until_by_loop(self, *, light: bool = False) -> int:
        """How many the thread wrote before. The thread may still be on its way back to its queue when asked."""
        for count in range(10_000):
            if self.writer.write_now(self.next(), light=light):
                return count
            self.by_thread()
        raise AssertionError("the loop never writes itself")

    def by_loop(self, sync_s: float, *, light: bool = False) -> None:
        self.disk.sync_s = sync_s
        assert self.writer.write_now(self.next(), light=light)


@pytest.fixture
def writing() -> Iterator[Writing]:
    writing = Writing()
    yield writing
    writing.writer.stop()
    assert writing.disk.synced == len(writing.disk.saved)


def test_the_loop_syncs_itself_only_while_the_disk_is_quick(writing: Writing) -> None:
    assert writing.until_by_loop() > RECENT_SYNCS
    writing.by_loop(2 * QUICK_S * RECENT_SYNCS)
    for light in (False, True):
        assert writing.writer.write_now(writing.next(), light=light) is light
    writing.disk.sync_s = 0.0
    assert writing.until_by_loop() > 0


def test_a_slow_sync_among_quick_ones_changes_nothing_for_what_is_light(writing: Writing) -> None:
    writing.until_by_loop()
    for _ in range(10):
        writing.by_loop(4 * QUICK_LIGHT_S, light=True)
        for _ in range(RECENT_SYNCS):
            writing.by_loop(0.0, light=True)
    writing.by_loop(100 * QUICK_LIGHT_S, light=True)
    assert not writing.writer.write_now(writing.next(), light=True)
    writing.disk.sync_s = 0.0
    assert writing.until_by_loop(light=True) > RECENT_SYNCS


def test_a_failed_sync_on_the_loop_is_raised_and_nothing_counts_as_durable() -> None:
    writing = Writing()
    writing.until_by_loop()
    synced, writing.disk.broken = writing.disk.synced, True
    with pytest.raises(OSError):
        writing.by_loop(0.0)
    assert writing.disk.synced == synced
    writing.writer.stop()
