"""What was put comes back after flushes, whichever way it was handed to LMDB; and it takes the room it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raft.mvcc.backend import SUB_BITS
from raft.storage.backend_lmdb import LmdbBackend


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LmdbBackend]:
    made = LmdbBackend(tmp_path / "db", map_bytes=64 << 20, create=True)
    yield made
    made.close()


def at(revision: int, number: int = 0) -> int:
    return revision << SUB_BITS | number


def all_of(backend: LmdbBackend) -> list[tuple[int, bytes]]:
    return backend.scan(0, 1 << 62, 1 << 30)


def test_records_of_several_flushes_come_back_in_order(backend: LmdbBackend, tmp_path: Path) -> None:
    wanted = []
    for revision in range(1, 400):
        for number in range(revision % 3 + 1):
            wanted.append((at(revision, number), b"%d/%d" % (revision, number)))
            backend.put(*wanted[-1])
        if revision % 90 == 0:
            backend.flush()
    assert all_of(backend) == wanted
    backend.flush()
    assert all_of(backend) == wanted
    backend.close()
    again = LmdbBackend(tmp_path / "db", map_bytes=64 << 20)
    assert all_of(again) == wanted
    again.close()


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_a_flush_in_slices_puts_and_deletes_all(backend: LmdbBackend, limit: int) -> None:
    for revision in range(1, 21):
        backend.put(at(revision), b"old")
    backend.flush()
    for revision in range(21, 41):
        backend.put(at(revision), b"new")
    for revision in (*range(1, 11), 25, 30):  # of the disk, and of what never reached it
        backend.delete(at(revision))
    assert backend.begin_flush()
    backend.put(at(41), b"while it flushes")
    while not backend.flush_slice(limit):
        assert backend.get(at(24)) == b"new"
    backend.commit()
    backend.end_flush()
    left = [*range(11, 25), *range(26, 30), *range(31, 42)]
    assert [pos >> SUB_BITS for pos, _ in all_of(backend)] == left
    backend.flush()
    assert [pos >> SUB_BITS for pos, _ in all_of(backend)] == left


def test_a_position_that_does_not_rise_is_stored_all_the_same(backend: LmdbBackend) -> None:
    """Nobody should; but to leave a record out silently would be worse than to be slow."""
    backend.put(at(10), b"a")
    backend.flush()
    for revision, record in ((12, b"c"), (5, b"b"), (10, b"again")):
        backend.put(at(revision), record)
    backend.flush()
    assert all_of(backend) == [(at(5), b"b"), (at(10), b"again"), (at(12), b"c")]


def test_pages_are_filled(backend: LmdbBackend) -> None:
    """Two records of 1,800 bytes fit a page of 4,096; a tree that splits pages in their middle has one in each."""
    count, size = 2000, 1800
    for revision in range(1, count + 1):
        backend.put(at(revision), b"x" * size)
        if revision % 300 == 0:
            backend.flush()
    backend.flush()
    assert backend.used_bytes < 1.3 * count * size
