"""Watchers that come back at once, from different revisions and of different ranges, read history together."""

from __future__ import annotations

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from raft.errors import Compacted
from raft.mvcc.store import Mvcc
from raft.mvcc.types import EVERY_PREVIOUS, NO_PREVIOUS, PREVIOUS_OF_DELETES, Event, in_range
from raft.mvcc.watch import Watcher, WatchHub
from tests.support.dict_backend import DictBackend

KEYS = [b"a", b"a/1", b"a/2", b"b", b"\xff"]
key = st.sampled_from(KEYS)
write = st.one_of(
    st.tuples(st.just("put"), key, st.binary(max_size=2), st.just(0)),
    st.tuples(st.just("delete"), key, st.sampled_from([None, b"b"])),
)
watch = st.tuples(
    key,
    st.one_of(st.none(), st.just(b"\0"), key),
    st.integers(1, 12),
    st.sampled_from([NO_PREVIOUS, PREVIOUS_OF_DELETES, EVERY_PREVIOUS]),
)


class Heard:
    """A hub and what each of its watchers was told."""

    def __init__(self, store: Mvcc) -> None:
        self.events: dict[int, list[Event]] = {}
        self.up_to: dict[int, int] = {}
        self.ended: dict[int, Compacted] = {}
        self.hub: WatchHub[None] = WatchHub(store, self._told, lambda w, error: self.ended.update({w.id: error}))
        self._ids = count(1)

    def watch(self, key: bytes, end: bytes | None, start: int, prev_kv: int) -> Watcher[None]:
        watcher = self.hub.watch(None, next(self._ids), key, end, start, prev_kv)
        self.events[watcher.id], self.up_to[watcher.id] = [], start - 1
        return watcher

    def _told(self, watcher: Watcher[None], revision: int, events: list[Event]) -> None:
        assert revision > self.up_to[watcher.id]
        self.events[watcher.id] += events
        self.up_to[watcher.id] = revision


def as_told(event: Event, mode: int) -> Event:
    wanted = mode == EVERY_PREVIOUS or (mode == PREVIOUS_OF_DELETES and event.type == 1)
    return event if wanted else Event(event.type, event.kv, None)


@given(st.lists(write, max_size=14), st.lists(watch, min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=300)
def test_each_is_told_its_own_events_once_and_in_order(
    writes: list[tuple[object, ...]], watches: list[tuple[bytes, bytes | None, int, int]], limit: int, at_once: int
) -> None:
    store = Mvcc(DictBackend())
    history: list[Event] = []
    for op in writes:
        _, written = store.txn([], [op], [])
        history += store.events(written, with_previous=EVERY_PREVIOUS)
    heard = Heard(store)
    watchers = [heard.watch(*each) for each in watches]
    for _ in range(200):
        if not heard.hub.catch_up(limit, at_once):
            break
    for watcher, (name, end, start, mode) in zip(watchers, watches, strict=True):
        expected = [e for e in history if in_range(e.kv.key, name, end) and e.kv.mod_revision >= start]
        assert heard.events[watcher.id] == [as_told(e, mode) for e in expected]
        assert watcher.synced
    assert heard.hub.behind == 0


def test_what_is_compacted_ends_only_those_that_wanted_it() -> None:
    store = Mvcc(DictBackend())
    for value in (b"1", b"2", b"3", b"4"):
        store.txn([], [("put", b"a", value, 0)], [])
    heard = Heard(store)
    early, late = heard.watch(b"a", None, 2, NO_PREVIOUS), heard.watch(b"a", None, 5, NO_PREVIOUS)
    store.compact(3)
    heard.hub.catch_up(10)
    assert list(heard.ended) == [early.id]
    assert [event.kv.value for event in heard.events[late.id]] == [b"4"]


def test_one_far_behind_holds_up_nobody_who_is_nearly_there() -> None:
    store = Mvcc(DictBackend())
    for _ in range(100):
        store.txn([], [("put", b"a", b"", 0)], [])
    heard = Heard(store)
    far = heard.watch(b"a", None, 2, NO_PREVIOUS)
    near = heard.watch(b"a", None, store.revision, NO_PREVIOUS)
    heard.hub.catch_up(10)
    assert (near.synced, heard.hub.catch_up(10)) == (False, True)
    assert near.synced and not far.synced and heard.up_to[near.id] == store.revision
    while heard.hub.catch_up(10):
        pass
    assert far.synced and len(heard.events[far.id]) == 100


def test_who_is_blocked_is_no_reason_to_come_back() -> None:
    store = Mvcc(DictBackend())
    store.txn([], [("put", b"a", b"", 0)], [])
    heard = Heard(store)
    blocked = heard.watch(b"a", None, 2, NO_PREVIOUS)
    blocked.blocked = True
    assert not heard.hub.catch_up(10)
    assert heard.hub.behind == 1


def test_progress_in_turn_reaches_every_watcher_after_as_many_turns_as_it_takes() -> None:
    store = Mvcc(DictBackend())
    heard = Heard(store)
    watchers = [heard.watch(b"quiet", None, 2, NO_PREVIOUS) for _ in range(5)]
    store.txn([], [("put", b"a", b"1", 0)], [])
    told = []
    for _ in range(3):
        heard.hub.progress_in_turn(2)
        told.append(sum(heard.up_to[watcher.id] == 2 for watcher in watchers))
    assert told == [2, 4, 5]
