"""Snapshot files are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft.core.types import ConfState, SnapshotMeta
from raft.faults import Faults
from raft.storage.errors import SnapshotCorrupt
from raft.storage.snapshots import SnapshotStore

META = SnapshotMeta(10, 2, ConfState((1, 2, 3), (4,)))


def test_written_in_chunks_and_read_back(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snap")
    assert store.newest() is None
    store.save(META, [b"a" * 1000, b"", b"b" * 70000])
    assert store.newest() == META
    assert list(store.chunks(META)) == [b"a" * 1000, b"b" * 70000]
    assert SnapshotStore(tmp_path / "snap").load(META).data == b"a" * 1000 + b"b" * 70000


def test_the_newest_n_are_kept(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snap", keep=2)
    for index in (5, 100, 7, 300):
        store.save(META._replace(index=index), [b"x"])
    assert [int(p.stem.rpartition("-")[2]) for p in store.paths()] == [300, 100]


def test_without_commit_nothing_remains(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snap")
    with store.writer(META) as writer:
        writer.write(b"half")
    assert list((tmp_path / "snap").iterdir()) == []
    with pytest.raises(FileNotFoundError):
        store.load(META)


@pytest.mark.parametrize("point", ["snapshot.write", "snapshot.fsync", "snapshot.before_rename"])
def test_a_crash_leaves_the_older_one(tmp_path: Path, point: str) -> None:
    store = SnapshotStore(tmp_path / "snap")
    store.save(META, [b"old"])
    store.faults = Faults()
    store.faults.add("fail", point)
    with pytest.raises(OSError, match="injected"):
        store.save(META._replace(index=20), [b"new"])
    (tmp_path / "snap" / "left.part").write_bytes(b"half")
    again = SnapshotStore(tmp_path / "snap")
    assert again.newest() == META and again.load(META).data == b"old"
    assert len(list((tmp_path / "snap").iterdir())) == 1


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snap")
    path = store.save(META, [b"some", b"data"])
    data = path.read_bytes()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x01
        path.write_bytes(bytes(broken))
        with pytest.raises(SnapshotCorrupt):
            store.verify(META)
        path.write_bytes(data[:at])
        with pytest.raises(SnapshotCorrupt, match=r"ends early|checksum"):
            store.verify(META)
