"""The hash at a past revision is what the store's hash was then; compaction by time and by number of revisions."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.compaction import ByRevisions, Periodic, policy_of
from raft.corruption import judge
from raft.errors import Compacted, Corrupt, FutureRevision, StoreError
from raft.mvcc.store import Mvcc
from raft.mvcc.types import NO_PREVIOUS, PREVIOUS_OF_DELETES, Event
from raft.mvcc.watch import WatchHub
from tests.support.dict_backend import DictBackend


class Unread(DictBackend):
    """Whose records nobody may read."""

    locked = False

    def get(self, pos: int) -> bytes | None:
        assert not self.locked, "a record is read"
        return super().get(pos)


def test_a_delete_reads_nothing_of_what_it_deletes() -> None:
    """So that one transaction may delete gigabytes."""
    backend = Unread()
    store = Mvcc(backend)
    store.leases.grant(7, 60, 0.0)
    before = store.hash
    for i in range(20):
        store.txn((), (("put", b"k%02d" % i, b"x" * 100, 7 * (i % 2)),))
    backend.locked = True
    _, writes = store.txn((), (("delete", b"k", b"l"),))
    assert len(writes) == 20 and (store.hash, len(store), store.leases.get(7).keys) == (before, 0, {})
    assert store.events(writes, with_previous=False)[0].prev_kv is None
    backend.locked = False
    previous = store.events(writes, with_previous=True)[3].prev_kv
    assert previous is not None and (previous.value, previous.lease) == (b"x" * 100, 7)


def test_previous_values_are_told_of_deletes_alone_to_who_wants_no_more() -> None:
    store = Mvcc(DictBackend())
    told: list[Event] = []
    hub: WatchHub[None] = WatchHub(store, lambda _, __, events: told.extend(events), lambda _, __: None)
    watcher = hub.watch(None, 1, b"k", None, 0, PREVIOUS_OF_DELETES)
    assert hub.wants_previous == PREVIOUS_OF_DELETES
    for op in (("put", b"k", b"1", 0), ("put", b"k", b"2", 0), ("delete", b"k", None)):
        result, writes = store.txn((), (op,))
        hub.commit(result.revision, store.events(writes, with_previous=hub.wants_previous))
    assert [e.prev_kv and e.prev_kv.value for e in told] == [None, None, b"2"]
    hub.cancel(watcher)
    assert hub.wants_previous == NO_PREVIOUS
    told.clear()
    hub.watch(None, 2, b"k", None, 2, PREVIOUS_OF_DELETES)
    hub.catch_up(10)
    assert [e.prev_kv and e.prev_kv.value for e in told] == [None, None, b"2"], "from history too"


def hash_at(store: Mvcc, revision: int) -> tuple[int, int, int]:
    steps = store.hash_steps(revision)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: tuple[int, int, int] = done.value
            return result


action = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 5), st.binary(max_size=3)),
    st.tuples(st.just("delete"), st.integers(0, 5)),
    st.tuples(st.just("compact"), st.integers(0, 8)),
    st.tuples(st.just("scrub"), st.integers(1, 4)),
)


@given(st.lists(action, max_size=60))
@settings(deadline=None, max_examples=150)
def test_a_past_revision_hashes_to_what_the_store_hashed_to_then(actions: list[Any]) -> None:
    store = Mvcc(DictBackend())
    hashes = {1: 0}
    for what, *arguments in actions:
        if what == "put":
            store.txn((), (("put", b"k%d" % arguments[0], arguments[1], 0),))
        elif what == "delete":
            store.txn((), (("delete", b"k%d" % arguments[0], None),))
        elif what == "compact":
            with contextlib.suppress(StoreError):
                store.compact(store.revision - arguments[0])
        else:
            store.scrub(arguments[0])
        hashes[store.revision] = store.hash
    for revision, digest in hashes.items():
        if revision < store.compacted:
            with pytest.raises(Compacted):
                hash_at(store, revision)
        else:
            assert hash_at(store, revision) == (digest, revision, store.compacted)
    with pytest.raises(FutureRevision):
        hash_at(store, store.revision + 1)


def test_a_record_that_changed_or_went_is_noticed() -> None:
    backend = DictBackend()
    store = Mvcc(backend)
    for i in range(3):
        store.txn((), (("put", b"k%d" % i, b"value", 0),))
    [(pos, record), *_] = backend.scan(0, 1 << 62, 9)
    backend._records[pos] = record[:-1] + b"X"
    assert hash_at(store, 0)[0] != store.hash
    del backend._records[pos]
    with pytest.raises(Corrupt, match="is missing"):
        hash_at(store, 0)


@given(st.dictionaries(st.integers(1, 7), st.integers(0, 2), max_size=7))
def test_who_is_wrong(hashes: dict[int, int]) -> None:
    wrong = judge(hashes)
    agree = [m for m in hashes if m not in wrong]
    assert len({hashes[m] for m in agree}) <= 1
    if len(set(hashes.values())) <= 1:
        assert wrong == []
    elif 2 * len(agree) > len(hashes):
        assert all(hashes[m] != hashes[agree[0]] for m in wrong)
    else:
        assert wrong == sorted(hashes), "no majority: everybody is suspect"


def test_by_time_what_was_newest_a_retention_ago_stays_readable() -> None:
    policy = Periodic(300)
    assert policy.interval_s == 30
    # One revision a second, looked at every 30 s.
    due = {second: policy.observe(float(second), second + 1) for second in range(0, 1201, 30)}
    assert all(due[second] == 0 for second in range(0, 300, 30))
    assert all(due[second] == second - 300 + 1 for second in range(300, 1201, 30))


def test_by_time_a_pause_is_no_reason_to_forget_more() -> None:
    policy = Periodic(300)
    policy.observe(0.0, 10)
    assert policy.observe(1000.0, 20) == 10
    assert policy.observe(1001.0, 30) == 10
    assert policy.observe(1300.0, 30) == 20


@given(st.integers(1, 100), st.integers(1, 1000))
def test_by_revisions_the_last_ones_stay(retention: int, revision: int) -> None:
    assert ByRevisions(retention).observe(0.0, revision) == max(0, revision - retention)


def test_which_policy() -> None:
    assert policy_of(0, 0) is None
    assert isinstance(policy_of(300, 0), Periodic)
    assert isinstance(policy_of(300, 1000), ByRevisions)
