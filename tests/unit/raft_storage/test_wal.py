"""The write-ahead log: what was synced comes back, what was torn is cut, what is wrong is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft.core.types import ConfState, Entry, HardState, SnapshotMeta
from raft.faults import Faults
from raft.storage import segment
from raft.storage.errors import WalCorrupt, WalExists, WalFailed, WalMissing
from raft.storage.wal import Wal, WalMetadata
from raft.storage.wal_replay import Replayer

META = WalMetadata("c1", 7)
START = SnapshotMeta(1, 1, ConfState((7, 8, 9)))


def entries(first: int, count: int, term: int = 1, size: int = 20) -> list[Entry]:
    return [Entry(term, i, 0, b"%d" % i * (size // 2)) for i in range(first, first + count)]


def make(path: Path, **options: int) -> Wal:
    return Wal.create(path / "wal", META, hard_state=HardState(1, 0, 1), snapshot_marker=START, **options)


def last_segment(path: Path) -> Path:
    return max((path / "wal").glob("*.wal"))


def test_everything_comes_back(tmp_path: Path) -> None:
    wal = make(tmp_path)
    wal.save(HardState(2, 7, 1), entries(2, 3))
    wal.save(None, entries(5, 2))
    wal.save(HardState(3, 8, 4), [])
    wal.sync()
    wal.close()
    for _ in range(2):
        wal, replay = Wal.open(tmp_path / "wal")
        wal.close()
        assert replay == (META, HardState(3, 8, 4), entries(2, 5), START)


def test_a_new_log_is_durable_with_what_it_was_made_with(tmp_path: Path) -> None:
    make(tmp_path).close()
    wal, replay = Wal.open(tmp_path / "wal")
    assert replay == (META, HardState(1, 0, 1), [], START)
    wal.close()


def test_creating_twice_and_opening_nothing_are_refused(tmp_path: Path) -> None:
    make(tmp_path).close()
    with pytest.raises(WalExists):
        make(tmp_path)
    with pytest.raises(WalMissing, match="never bootstraps"):
        Wal.open(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WalMissing):
        Wal.open(tmp_path / "empty")


def test_overwritten_entries(tmp_path: Path) -> None:
    wal = make(tmp_path)
    wal.save(None, entries(2, 10, term=1))
    wal.save(None, entries(5, 2, term=2))
    wal.sync()
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal")
    wal.close()
    assert replay.entries == entries(2, 3, term=1) + entries(5, 2, term=2)


def test_segments_follow_each_other_and_are_released(tmp_path: Path) -> None:
    wal = make(tmp_path, segment_bytes=500)
    for i in range(2, 42):
        wal.save(HardState(1, 7, i - 1), entries(i, 1))
        wal.sync()
    assert wal.segment_count >= 5
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal", segment_bytes=500)
    assert replay.entries == entries(2, 40)
    before = wal.segment_count
    assert wal.release_to(30) == 0, "nothing is durable elsewhere yet"
    marker = SnapshotMeta(30, 1, START.conf)
    wal.save_snapshot_marker(marker)
    assert wal.release_to(30) == 0, "the marker itself is not durable yet"
    wal.sync()
    assert wal.release_to(99) >= 2
    assert wal.segment_count < before
    wal.save(None, entries(42, 3))
    wal.sync()
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal", segment_bytes=500)
    wal.close()
    assert replay == (META, HardState(1, 7, 40), entries(31, 14), marker)


def test_a_marker_of_our_own_state_keeps_the_entries_after_it(tmp_path: Path) -> None:
    wal = make(tmp_path)
    wal.save(HardState(1, 0, 8), entries(2, 10))
    wal.save_snapshot_marker(SnapshotMeta(8, 1))
    wal.sync()
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal")
    wal.close()
    assert replay.entries == entries(9, 3) and replay.snapshot_marker.index == 8


@pytest.mark.parametrize("marker", [SnapshotMeta(8, 5), SnapshotMeta(50, 5)])
def test_a_snapshot_from_the_leader_replaces_the_log(tmp_path: Path, marker: SnapshotMeta) -> None:
    wal = make(tmp_path)
    wal.save(None, entries(2, 10))
    wal.save_snapshot_marker(marker)
    wal.save(HardState(5, 0, marker.index), entries(marker.index + 1, 2, term=5))
    wal.sync()
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal")
    wal.close()
    assert replay.entries == entries(marker.index + 1, 2, term=5)


def test_an_old_marker_is_ignored(tmp_path: Path) -> None:
    wal = make(tmp_path)
    wal.save(None, entries(2, 10))
    wal.save_snapshot_marker(SnapshotMeta(8, 1))
    wal.save_snapshot_marker(SnapshotMeta(4, 1))
    wal.sync()
    assert wal.snapshot_marker.index == 8
    wal.close()


def test_a_late_marker_in_the_retained_part_does_not_drop_entries(tmp_path: Path) -> None:
    """Markers 5, then entries, then markers below and inside what is retained after a release."""
    wal = make(tmp_path, segment_bytes=300)
    for i in range(2, 22):
        wal.save(None, entries(i, 1))
        wal.sync()
    wal.save_snapshot_marker(SnapshotMeta(6, 1))
    wal.save_snapshot_marker(SnapshotMeta(18, 1))
    wal.sync()
    wal.release_to(18)
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal")
    wal.close()
    assert replay.entries == entries(19, 3)


class TestTornTail:
    def _written(self, path: Path) -> tuple[int, bytes]:
        """A synced part of some length, then records that were not."""
        wal = make(path)
        wal.save(HardState(2, 7, 1), entries(2, 3))
        wal.sync()
        synced = last_segment(path).stat().st_size
        wal.save(HardState(2, 7, 4), entries(5, 1))
        wal.save(HardState(3, 0, 4), entries(6, 2, size=1200))
        wal.close()
        return synced, last_segment(path).read_bytes()

    def test_cut_at_every_byte(self, tmp_path: Path) -> None:
        synced, data = self._written(tmp_path)
        lengths = set()
        for size in range(synced, len(data) + 1):
            contents = segment.parse(Path("x.wal"), data[:size], last=True)
            replayer = Replayer()
            replayer.segment(Path("x.wal"), contents)
            replay = replayer.finish()
            assert replay.entries[:3] == entries(2, 3)
            assert replay.hard_state.term >= 2 and replay.hard_state.vote in (7, 0)
            lengths.add(len(replay.entries))
        assert lengths == {3, 4, 6}

    def test_it_goes_on_after_the_cut(self, tmp_path: Path) -> None:
        synced, data = self._written(tmp_path)
        last_segment(tmp_path).write_bytes(data[: synced + 5])
        wal, _ = Wal.open(tmp_path / "wal")
        assert last_segment(tmp_path).stat().st_size == synced
        wal.save(None, entries(5, 1, term=9))
        wal.sync()
        wal.close()
        wal, replay = Wal.open(tmp_path / "wal")
        wal.close()
        assert replay.entries == entries(2, 3) + entries(5, 1, term=9)

    def test_sectors_that_never_arrived(self, tmp_path: Path) -> None:
        """The file has its length, but a page of the last record is zeros."""
        synced, data = self._written(tmp_path)
        start = (synced // 512 + 2) * 512
        last_segment(tmp_path).write_bytes(data[:start] + bytes(512) + data[start + 512 :])
        wal, replay = Wal.open(tmp_path / "wal")
        wal.close()
        assert replay.entries == entries(2, 4)

    def test_a_tail_of_zeros(self, tmp_path: Path) -> None:
        synced, data = self._written(tmp_path)
        last_segment(tmp_path).write_bytes(data[:synced] + bytes(5000))
        wal, replay = Wal.open(tmp_path / "wal")
        wal.close()
        assert replay.entries == entries(2, 3)

    def test_only_the_last_segment_may_have_one(self, tmp_path: Path) -> None:
        wal = make(tmp_path, segment_bytes=200)
        for i in range(2, 12):
            wal.save(None, entries(i, 1))
            wal.sync()
        wal.close()
        first = min((tmp_path / "wal").glob("*.wal"))
        first.write_bytes(first.read_bytes()[:-3])
        with pytest.raises(WalCorrupt, match=first.name):
            Wal.open(tmp_path / "wal")


class TestCorruption:
    def test_every_flipped_bit_of_what_was_synced_is_noticed(self, tmp_path: Path) -> None:
        wal = make(tmp_path)
        wal.save(HardState(2, 7, 1), entries(2, 3))
        wal.sync()
        wal.save(HardState(2, 7, 3), entries(5, 3))
        wal.sync()
        wal.close()
        path = last_segment(tmp_path)
        data = path.read_bytes()
        for at in range(len(data)):
            broken = bytearray(data)
            broken[at] ^= 0x10
            with pytest.raises(WalCorrupt):
                segment.parse(path, bytes(broken), last=True)
        path.write_bytes(bytes(broken))
        with pytest.raises(WalCorrupt, match="remove the member from the group") as e:
            Wal.open(tmp_path / "wal")
        assert str(path) in str(e.value) and e.value.offset > 0

    def test_a_missing_segment(self, tmp_path: Path) -> None:
        wal = make(tmp_path, segment_bytes=200)
        for i in range(2, 20):
            wal.save(None, entries(i, 1))
            wal.sync()
        wal.close()
        sorted((tmp_path / "wal").glob("*.wal"))[2].unlink()
        with pytest.raises(WalCorrupt, match=r"segment \d is missing"):
            Wal.open(tmp_path / "wal")

    def test_the_first_segment_is_missing(self, tmp_path: Path) -> None:
        wal = make(tmp_path, segment_bytes=200)
        for i in range(2, 20):
            wal.save(None, entries(i, 1))
            wal.sync()
        wal.close()
        min((tmp_path / "wal").glob("*.wal")).unlink()
        with pytest.raises(WalCorrupt, match="are missing after the snapshot at 1"):
            Wal.open(tmp_path / "wal")

    def test_a_segment_of_another_member(self, tmp_path: Path) -> None:
        for name, member in (("a", 7), ("b", 8)):
            wal = Wal.create(tmp_path / name, WalMetadata("c1", member), segment_bytes=200)
            for i in range(1, 12):
                wal.save(None, entries(i, 1))
                wal.sync()
            wal.close()
        second = sorted((tmp_path / "b").glob("*.wal"))[1]
        (tmp_path / "a" / second.name).write_bytes(second.read_bytes())
        with pytest.raises(WalCorrupt, match="belongs to"):
            Wal.open(tmp_path / "a")

    def test_a_committed_entry_is_missing(self, tmp_path: Path) -> None:
        wal = make(tmp_path)
        wal.save(HardState(2, 7, 9), entries(2, 3))
        wal.sync()
        wal.close()
        with pytest.raises(WalCorrupt, match="entry 9 was committed but the log ends at 4"):
            Wal.open(tmp_path / "wal")


class TestFaults:
    def test_after_a_failed_sync_nothing_is_accepted(self, tmp_path: Path) -> None:
        faults = Faults()
        wal = Wal.create(tmp_path / "wal", META, faults=faults)
        faults.add("fail", "wal.fsync", nth=1)
        wal.save(HardState(1, 7, 0), entries(1, 1))
        with pytest.raises(WalFailed, match="restart to replay"):
            wal.sync()
        for again in (lambda: wal.sync(), lambda: wal.save(None, entries(2, 1))):
            with pytest.raises(WalFailed, match="earlier write or sync failed"):
                again()
        wal.close()
        wal, _ = Wal.open(tmp_path / "wal")
        wal.close()

    @pytest.mark.parametrize("point", ["wal.write", "wal.after_write", "wal.fsync", "wal.cut", "wal.after_cut"])
    def test_crash_points(self, tmp_path: Path, point: str) -> None:
        """Whatever was synced before the crash is there after it, and the log can be written again."""

        class Crash(BaseException):
            pass

        def crash() -> None:
            raise Crash

        faults = Faults(on_crash=crash)
        wal = Wal.create(tmp_path / "wal", META, segment_bytes=200, faults=faults)
        faults.add("crash", point, nth=3)
        synced = 0
        with pytest.raises(Crash):
            for i in range(1, 100):
                wal.save(HardState(1, 0, 0), entries(i, 1))
                wal.sync()
                synced = i
        wal.close()
        wal, replay = Wal.open(tmp_path / "wal", segment_bytes=200)
        assert synced <= len(replay.entries) <= synced + 1
        wal.save(None, entries(len(replay.entries) + 1, 1))
        wal.sync()
        wal.close()

    def test_a_half_made_segment_is_swept_away(self, tmp_path: Path) -> None:
        make(tmp_path).close()
        leftover = tmp_path / "wal" / "0000000000000002-0000000000000009.tmp"
        leftover.write_bytes(b"half")
        wal, _ = Wal.open(tmp_path / "wal")
        wal.close()
        assert not leftover.exists()


def test_a_large_save_is_split_into_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raft.storage.wal.RECORD_BYTES", 100)
    wal = make(tmp_path)
    wal.save(HardState(1, 0, 1), entries(2, 30))
    wal.sync()
    wal.close()
    wal, replay = Wal.open(tmp_path / "wal")
    wal.close()
    assert replay.entries == entries(2, 30)
