"""The store against a dumb oracle that keeps a whole copy of the key space per revision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raft.errors import Compacted, FutureRevision, LeaseNotFound, StoreError
from raft.mvcc.store import Mvcc
from raft.mvcc.types import Event, KeyValue, in_range
from raft.mvcc.watch import Watcher, WatchHub
from raft.storage.backend_lmdb import LmdbBackend
from tests.support.dict_backend import DictBackend

KEYS = [b"a", b"a/1", b"a/2", b"b", b"b/1", b"\xff", b"c" * 40]
key = st.sampled_from(KEYS)
end = st.one_of(st.none(), st.just(b"\0"), key)
put = st.tuples(st.just("put"), key, st.binary(max_size=4), st.sampled_from([0, 0, 0, 7]))
delete = st.tuples(st.just("delete"), key, end)
read = st.tuples(st.just("range"), key, end, st.integers(0, 3))
compare = st.one_of(
    st.tuples(
        key,
        st.sampled_from(["mod", "create", "version", "lease"]),
        st.sampled_from(["=", "!=", ">", "<"]),
        st.integers(0, 9),
    ),
    st.tuples(key, st.just("value"), st.sampled_from(["=", "!=", ">", "<"]), st.binary(max_size=2)),
)


def no_duplicates(ops: list[Any]) -> list[Any]:
    """Drop puts that another operation of the transaction also writes."""
    kept: list[Any] = []
    for op in ops:
        written = [o for o in kept if o[0] in ("put", "delete")]
        if op[0] == "put" and any(in_range(op[1], o[1], o[2] if o[0] == "delete" else None) for o in written):
            continue
        if op[0] == "delete" and any(o[0] == "put" and in_range(o[1], op[1], op[2]) for o in written):
            continue
        kept.append(op)
    return kept


ops = st.lists(st.one_of(put, put, delete, read), max_size=4).map(no_duplicates)
step = st.one_of(
    st.tuples(st.just("txn"), st.lists(compare, max_size=2), ops, ops),
    st.tuples(st.just("txn"), st.just([]), ops, st.just([])),
    st.tuples(st.just("grant")),
    st.tuples(st.just("revoke")),
    st.tuples(st.just("compact"), st.integers(0, 12)),
    st.tuples(st.just("scrub"), st.integers(1, 5)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("block"), st.booleans()),
    st.tuples(st.just("catch_up")),
)


class Oracle:
    def __init__(self) -> None:
        self.history: dict[int, dict[bytes, KeyValue]] = {1: {}}
        self.revision = 1
        self.compacted = 0
        self.leases: dict[int, None] = {}
        self.events: dict[int, list[Event]] = {}

    def range(self, start: bytes, stop: bytes | None, at: int = 0) -> list[KeyValue]:
        at = at or self.revision
        return sorted(kv for k, kv in self.history[at].items() if in_range(k, start, stop))

    def holds(self, c: Any) -> bool:
        kv = self.history[self.revision].get(c[0], KeyValue(c[0], b"", 0, 0, 0, 0))
        fields = {"mod": kv.mod_revision, "create": kv.create_revision, "version": kv.version, "lease": kv.lease}
        left: Any = kv.value if c[1] == "value" else fields[c[1]]
        return bool({"=": left == c[3], "!=": left != c[3], ">": left > c[3], "<": left < c[3]}[c[2]])

    def txn(self, compares: Any, then: Any, otherwise: Any) -> tuple[bool, int, list[Any]]:
        good = all(self.holds(c) for c in compares)
        chosen = then if good else otherwise
        if any(o[0] == "put" and o[3] and o[3] not in self.leases for o in chosen):
            raise LeaseNotFound(7)
        return good, *self.write(chosen)

    def write(self, chosen: Any) -> tuple[int, list[Any]]:
        now, revision = dict(self.history[self.revision]), self.revision + 1
        responses: list[Any] = []
        events: list[Event] = []
        for op in chosen:
            if op[0] == "put":
                old = now.get(op[1])
                create, version = (old.create_revision, old.version + 1) if old else (revision, 1)
                now[op[1]] = KeyValue(op[1], op[2], create, revision, version, op[3])
                events.append(Event(0, now[op[1]], old))
                responses.append(("put", None))
            elif op[0] == "delete":
                names = sorted(k for k in now if in_range(k, op[1], op[2]))
                for k in names:
                    events.append(Event(1, KeyValue(k, b"", 0, revision, 0, 0), now.pop(k)))
                responses.append(("delete", len(names)))
            else:
                found = sorted(kv for k, kv in now.items() if in_range(k, op[1], op[2]))
                responses.append(("range", found[: op[3] or None], len(found)))
        if events:
            self.revision = revision
            self.history[revision] = now
            self.events[revision] = events
        return self.revision, responses

    def revoke(self, lease: int) -> None:
        if lease not in self.leases:
            raise LeaseNotFound(lease)
        del self.leases[lease]
        names = sorted(k for k, kv in self.history[self.revision].items() if kv.lease == lease)
        self.write([("delete", k, None) for k in names])


def outcome(fn: Any, *args: Any) -> Any:
    try:
        return fn(*args)
    except StoreError as e:
        return type(e)


def check_state(store: Mvcc, oracle: Oracle) -> None:
    assert (store.revision, store.compacted) == (oracle.revision, oracle.compacted)
    assert store.leases.ids() == sorted(oracle.leases)
    for at in range(max(1, oracle.compacted), oracle.revision + 1):
        for start, stop in ((b"a", b"\0"), (b"a/", b"a0"), (b"b", None), (b"c", b"a")):
            expected = oracle.range(start, stop, at)
            got = store.range(start, stop, revision=at)
            assert (got.kvs, got.count, got.more) == (expected, len(expected), False)
            paged = store.range(start, stop, revision=at, limit=2, keys_only=True)
            assert [kv.key for kv in paged.kvs] == [kv.key for kv in expected[:2]]
            assert (paged.count, paged.more) == (len(expected), len(expected) > 2)
            assert store.range(start, stop, revision=at, count_only=True).count == len(expected)
    if oracle.compacted > 1:
        with pytest.raises(Compacted):
            store.range(b"a", revision=oracle.compacted - 1)
    with pytest.raises(FutureRevision):
        store.range(b"a", revision=oracle.revision + 1)


class World:
    def __init__(self, backend: Any, reopen: Any) -> None:
        self.backend, self.reopen_backend = backend, reopen
        self.store = Mvcc(backend)
        self.oracle = Oracle()
        self.got: list[tuple[int, list[Event]]] = []
        self.ended = 0
        self.open_watch(1 + 1)

    def open_watch(self, start: int) -> None:
        self.hub: WatchHub[None] = WatchHub(self.store, self.deliver, self.end)
        self.watcher = self.hub.watch(None, 1, b"a", b"c", start, True)

    def deliver(self, watcher: Watcher[None], revision: int, events: list[Event]) -> None:
        self.got.append((revision, events))

    def end(self, watcher: Watcher[None], error: Compacted) -> None:
        self.ended += 1

    def run(self, action: Any) -> None:
        getattr(self, "do_" + action[0])(*action[1:])
        self.store.save_state()

    def do_txn(self, compares: Any, then: Any, otherwise: Any) -> None:
        def mine() -> Any:
            result, writes = self.store.txn(compares, then, otherwise)
            events = self.store.events(writes, with_previous=True)
            if events:
                self.hub.commit(result.revision, events)
                assert events == self.oracle.events[result.revision]
            return tuple(result)

        expected = outcome(self.oracle.txn, compares, then, otherwise)
        assert outcome(mine) == expected

    def do_grant(self) -> None:
        if 7 not in self.oracle.leases:
            self.store.leases.grant(7, 10, 0.0)
            self.oracle.leases[7] = None

    def do_revoke(self) -> None:
        expected = outcome(self.oracle.revoke, 7)
        got = outcome(self.store.lease_revoke, 7)
        if expected is LeaseNotFound:
            assert got is LeaseNotFound
        elif got[1]:
            self.hub.commit(got[0], self.store.events(got[1], with_previous=True))

    def do_compact(self, back: int) -> None:
        revision = self.oracle.revision - back
        if revision > self.oracle.compacted:
            self.store.compact(revision)
            self.oracle.compacted = revision

    def do_scrub(self, limit: int) -> None:
        self.store.scrub(limit)

    def do_flush(self) -> None:
        if isinstance(self.backend, LmdbBackend):
            self.backend.flush()

    def do_reopen(self) -> None:
        before, start = self.store.hash, self.watcher.next_revision
        self.store.save_state()
        self.backend = self.reopen_backend(self.backend)
        in_use = self.store.bytes_in_use
        self.store = Mvcc(self.backend)
        assert (self.store.hash, self.store.bytes_in_use) == (before, in_use)
        if not self.ended:
            if start <= self.oracle.compacted:
                self.ended = 1
            else:
                self.open_watch(start)

    def do_block(self, on: bool) -> None:
        self.watcher.blocked = on

    def do_catch_up(self) -> None:
        self.hub.catch_up(3)

    def finish(self) -> None:
        check_state(self.store, self.oracle)
        while not self.store.scrub(100):
            continue
        check_state(self.store, self.oracle)
        if self.ended:
            return
        self.watcher.blocked = False
        while self.hub.catch_up(2):
            continue
        if self.ended:
            return
        expected = [
            event
            for revision in sorted(self.oracle.events)
            for event in self.oracle.events[revision]
            if in_range(event.kv.key, b"a", b"c")
        ]
        told = [event for _, events in self.got for event in events]
        assert [(e.type, e.kv) for e in told] == [(e.type, e.kv) for e in expected]
        for mine, theirs in zip(told, expected, strict=True):
            assert mine.prev_kv in (theirs.prev_kv, None)
        revisions = [revision for revision, _ in self.got]
        assert revisions == sorted(set(revisions))


@given(st.lists(step, max_size=30))
@settings(max_examples=250, deadline=None)
def test_dict_backend(actions: list[Any]) -> None:
    world = World(DictBackend(), lambda backend: backend)
    for action in actions:
        world.run(action)
    world.finish()


@given(actions=st.lists(step, max_size=25))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lmdb_backend(actions: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    directory: Path = tmp_path_factory.mktemp("lmdb")

    def reopen(backend: LmdbBackend) -> LmdbBackend:
        backend.flush()
        backend.close()
        return LmdbBackend(directory, map_bytes=1 << 24)

    world = World(LmdbBackend(directory, map_bytes=1 << 24, create=True), reopen)
    try:
        for action in actions:
            world.run(action)
        world.finish()
    finally:
        world.backend.close()
