"""Wrong stores, each breaking one promise, to see that the oracle notices (docs/consensus.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raft.mvcc.watch import Watcher, WatchHub
from tests.support.dict_backend import DictBackend
from tests.unit.raft_mvcc.test_mvcc_oracle import World

Mutation = Callable[[pytest.MonkeyPatch], None]


def drops_watch_events_at_compaction(mp: pytest.MonkeyPatch) -> None:
    """A watcher that fell behind compaction goes on from what is left, and is not told."""
    original = WatchHub.catch_up

    def catch_up(self: WatchHub[Any], limit: int, watchers: int = 4) -> bool:
        for watcher in self._behind.values():
            watcher.next_revision = max(watcher.next_revision, self._store.compacted + 1)
        return original(self, limit, watchers)

    mp.setattr(WatchHub, "catch_up", catch_up)


def forgets_what_a_full_connection_missed(mp: pytest.MonkeyPatch) -> None:
    original = WatchHub._tell

    def tell(self: WatchHub[Any], watcher: Watcher[Any], revision: int, events: list[Any]) -> None:
        original(self, watcher, revision, events)
        if watcher.blocked:
            watcher.next_revision = revision + 1

    mp.setattr(WatchHub, "_tell", tell)


def repeats_the_last_revision_after_catching_up(mp: pytest.MonkeyPatch) -> None:
    original = WatchHub._follow

    def follow(self: WatchHub[Any], watcher: Watcher[Any]) -> None:
        original(self, watcher)
        if watcher.next_revision > 2:
            watcher.next_revision -= 1
            self._unfollow(watcher)
            self._behind[id(watcher)] = watcher

    mp.setattr(WatchHub, "_follow", follow)


def write(value: bytes) -> Any:
    return ("txn", [], [("put", b"a", value, 0)], [])


BLOCK, UNBLOCK, CATCH_UP = ("block", True), ("block", False), ("catch_up",)
CASES: list[tuple[Mutation, list[Any]]] = [
    (
        drops_watch_events_at_compaction,
        [CATCH_UP, BLOCK, *(write(b"%d" % i) for i in range(6)), ("compact", 1), UNBLOCK, CATCH_UP],
    ),
    (forgets_what_a_full_connection_missed, [CATCH_UP, write(b"1"), BLOCK, write(b"2"), UNBLOCK, write(b"3")]),
    (repeats_the_last_revision_after_catching_up, [write(b"1"), BLOCK, write(b"2"), UNBLOCK, CATCH_UP, CATCH_UP]),
]


@pytest.mark.parametrize(("mutation", "actions"), CASES)
def test_a_broken_promise_is_noticed(mutation: Mutation, actions: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def play() -> None:
        world = World(DictBackend(), lambda backend: backend)
        for action in actions:
            world.run(action)
        world.finish()

    play()
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        play()
