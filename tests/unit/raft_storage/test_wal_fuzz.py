"""The log's reader against anything: what was synced comes back, or the damage is named; nothing else ever."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raft.core.types import ConfState, Entry, HardState, SnapshotMeta
from raft.storage import segment
from raft.storage.errors import WalCorrupt, WalMissing
from raft.storage.wal import Wal, WalMetadata
from raft.storage.wal_replay import Replayer
from raft.wal_dump import dump

META = SnapshotMeta(1, 1, ConfState((1, 2, 3)))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments with everything in them."""
    directory: Path = tmp_path_factory.mktemp("wal") / "wal"
    wal = Wal.create(
        directory, WalMetadata("c", 1), hard_state=HardState(1, 0, 1), snapshot_marker=META, segment_bytes=1500
    )
    index = 1
    for term in range(1, 13):
        entries = [Entry(term, index + i, 0, bytes([65 + term]) * (30 * term)) for i in range(1, 4)]
        wal.save(HardState(term, 1, index), entries)
        index += 3
        if term % 5 == 0:
            wal.save_snapshot_marker(SnapshotMeta(index - 2, term, ConfState((1, 2, 3))))
        wal.sync()
    wal.close()
    assert len(list(directory.glob("*.wal"))) >= 3
    return directory


def contents(directory: Path) -> tuple[Any, ...]:
    wal, replay = Wal.open(directory)
    wal.close()
    return replay.hard_state, replay.entries, replay.snapshot_marker


damage = st.lists(
    st.tuples(
        st.sampled_from(["flip", "zero", "cut", "insert", "drop", "swap", "repeat"]),
        st.integers(0, 1 << 20),
        st.integers(0, 1 << 20),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=3,
)


def hurt(directory: Path, steps: list[Any]) -> None:
    for what, a, b, junk in steps:
        files = sorted(directory.glob("*.wal"))
        if not files:
            return
        path = files[a % len(files)]
        data = bytearray(path.read_bytes())
        at = b % (len(data) or 1)
        if what == "flip" and data:
            data[at] ^= 1 << (a % 8)
        elif what == "zero":
            data[at : at + len(junk)] = bytes(len(data[at : at + len(junk)]))
        elif what == "cut":
            del data[at:]
        elif what == "insert":
            data[at:at] = junk
        elif what == "repeat":
            data[at:at] = data[max(0, at - len(junk)) : at]
        elif what == "drop":
            path.unlink()
            continue
        elif what == "swap":
            other = files[(a + 1) % len(files)]
            theirs = other.read_bytes()
            other.write_bytes(data)
            data = bytearray(theirs)
        path.write_bytes(data)


@given(steps=damage)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_log_is_refused_or_a_beginning_of_what_was_there(
    steps: list[Any], original: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hard_state, entries, _ = contents(original)
    directory = tmp_path_factory.mktemp("hurt") / "wal"
    shutil.copytree(original, directory)
    try:
        hurt(directory, steps)
        before = {path.name: path.read_bytes() for path in directory.iterdir()}
        seen = []
        try:
            seen = list(dump(directory))
        except (WalCorrupt, WalMissing) as error:
            assert "{" not in str(error)
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == before, "looking changes nothing"
        try:
            found_state, found, marker = contents(directory)
        except WalMissing:
            assert not list(directory.glob("*.wal"))
            return
        except WalCorrupt as error:
            assert "Do not delete single files" in str(error)
            return
        known = {entry.index: entry for entry in entries}
        known |= {e.index: e for e in found if e.index not in known}
        assert [e for e in found if known[e.index] != e] == []
        assert all(b.index == a.index + 1 for a, b in itertools.pairwise(found))
        assert found_state <= hard_state and marker.index <= entries[-1].index
        assert seen and seen[0].kind == "header"
    finally:
        shutil.rmtree(directory.parent)


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_bytes_as_a_segment(data: bytes, last: bool) -> None:
    with pytest.raises(WalCorrupt):
        segment.parse(Path("x.wal"), data, last=last)


@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_payloads_with_right_checksums(payloads: list[bytes], header: bytes) -> None:
    """Checksums are no proof of sense: what cannot be decoded is corrupt, not a crash."""
    buffer = bytearray()
    crc = segment.encode_record(buffer, segment.Record.HEADER, header, 0)
    for i, payload in enumerate(payloads):
        crc = segment.encode_record(buffer, segment.Record(2 + i % 3), payload, crc)
    with pytest.raises(WalCorrupt):
        segment.parse(Path("x.wal"), bytes(buffer), last=True)


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        (segment.Record.ENTRIES, [(1, 2, 0, b""), (1, 4, 0, b"")], "entry 4 follows entry 2"),
        (segment.Record.ENTRIES, [(1, 2, 0, b""), (2, 2, 0, b"")], "entry 2 follows entry 2"),
        (segment.Record.ENTRIES, [(1, 2, 0, "text")], "it makes no sense"),
        (segment.Record.HARD_STATE, (1, 1, "2"), "it makes no sense"),
        (segment.Record.SNAPSHOT_MARKER, (b"2", 1, META.conf.to_wire()), "it makes no sense"),
    ],
)
def test_a_record_that_makes_no_sense_is_corrupt_though_its_checksum_is_right(
    kind: segment.Record, value: Any, why: str
) -> None:
    header = segment.Header(WalMetadata("c", 1), 0, HardState(1, 0, 1), META)
    buffer = bytearray()
    crc = segment.encode_record(buffer, segment.Record.HEADER, segment.pack(header.to_wire()), 0)
    segment.encode_record(buffer, kind, segment.pack(value), crc)
    contents = segment.parse(Path("x.wal"), bytes(buffer), last=True)
    with pytest.raises(WalCorrupt, match=why):
        Replayer().segment(Path("x.wal"), contents)


def test_the_log_in_words(original: Path) -> None:
    items = list(dump(original))
    kinds = [item.kind for item in items]
    assert kinds.count("header") == len(list(original.glob("*.wal"))) and kinds[0] == "header"
    assert [item.fields["index"] for item in items if item.kind == "entry"] == list(range(2, 38))
    assert items[0].to_json()["cluster"] == "c"
    assert "entry index=2 term=1" in items[1].text()
