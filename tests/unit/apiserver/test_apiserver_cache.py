"""The byte cache, its windows, and what watchers get from it."""

import asyncio
from dataclasses import dataclass, field

import orjson
import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.apiserver import selection
from cluster.apiserver.cache import Cache, Snapshot, at_revision
from cluster.apiserver.watchers import Chunk, Watcher, WatchHub
from cluster.registry.codec import decode, encode

PODS = SCHEME.named("pods")
NODES = SCHEME.named("nodes")


@dataclass
class Kv:
    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int = 1
    version: int = 1
    lease: int = 0


@dataclass
class Ev:
    kv: Kv
    type: int = 0
    prev_kv: Kv | None = None


@dataclass
class Batch:
    revision: int
    events: list = field(default_factory=list)


def pod(name: str, namespace: str = "a", node: str = "", **labels: str) -> dict:
    meta = {"name": name, "namespace": namespace, "uid": f"u-{name}", "labels": labels}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": {"nodeName": node} if node else {}}


def key(obj: dict) -> bytes:
    return f"/registry/core/pods/{obj['metadata']['namespace']}/{obj['metadata']['name']}".encode()


def put(obj: dict, revision: int) -> Ev:
    return Ev(Kv(key(obj), encode(obj), revision))


def gone(obj: dict, revision: int) -> Ev:
    return Ev(Kv(key(obj), b"", revision), 1)


class World:
    def __init__(self, **options: int) -> None:
        self.hub = WatchHub()
        self.cache = Cache(lambda k, v, r: decode(v, r).raw, sink=self.hub.dispatch, **options)
        self.cache.install(Snapshot(1))
        self.revision = 1

    def apply(self, *events) -> None:
        self.revision += 1
        batch = [put(e, self.revision) if isinstance(e, dict) else gone(e[0], self.revision) for e in events]
        self.cache.apply(Batch(self.revision, batch))

    def watch(self, namespace: str = "", labels: str = "", fields: str = "", limit: int = 100) -> Watcher:
        chosen = selection.parse(PODS, namespace, labels, fields)
        watcher = Watcher(PODS, chosen, self.cache.revision, limit)
        self.hub.add(watcher)
        return watcher


def seen(watcher: Watcher) -> list[tuple[str, str, str]]:
    out = []
    for kind, event in watcher.drain():
        line = orjson.loads(event.chunk(kind))
        assert line["type"] == kind
        meta = line["object"]["metadata"]
        out.append((kind, meta["name"], meta["resourceVersion"]))
    return out


def test_entries_are_sorted_and_carry_their_revision():
    w = World()
    w.apply(pod("b"))
    w.apply(pod("a"))
    w.apply(pod("c", "0"))
    table = w.cache.table(PODS)
    assert [e.meta.name for e in table.select()] == ["c", "a", "b"]
    assert [e.meta.name for e in table.select("a")] == ["a", "b"]
    entry = w.cache.get(PODS, "a", "b")
    assert entry is not None
    assert orjson.loads(entry.raw)["metadata"]["resourceVersion"] == "2"
    w.apply((pod("a"),))
    assert [e.meta.name for e in table.select("a")] == ["b"]


def test_a_namespace_is_not_a_prefix_of_another():
    w = World()
    for namespace in ("a", "a-b", "a0", "ab"):
        w.apply(pod("p", namespace))
    assert [e.meta.namespace for e in w.cache.table(PODS).select("a")] == ["a"]


def test_respliced_revision():
    raw = decode(encode(pod("x")), 7).raw
    assert orjson.loads(at_revision(raw, 12345))["metadata"]["resourceVersion"] == "12345"


def test_watch_sees_each_change_once_in_order():
    w = World()
    watcher = w.watch()
    w.apply(pod("x"))
    w.apply(pod("x", v="2"), pod("y"))
    w.apply((pod("x", v="2"),))
    assert seen(watcher) == [("ADDED", "x", "2"), ("MODIFIED", "x", "3"), ("ADDED", "y", "3"), ("DELETED", "x", "4")]


async def test_who_waits_is_sent_events_at_once_and_in_order():
    """One whose connection lags is woken instead, and what comes until then waits behind what it has not sent yet."""
    w = World()
    watcher = w.watch()
    sent: list[str] = []
    lags = False

    def send(chunks: list[Chunk]) -> bool:
        if not lags:
            sent.extend(event.entry.meta.name for _, event in chunks)
        return not lags

    waiting = asyncio.create_task(watcher.wait(30, send))
    await asyncio.sleep(0)
    w.apply(pod("a"))
    w.apply(pod("b"), pod("c"))
    assert sent == ["a", "b", "c"] and not waiting.done()
    lags = True
    w.apply(pod("d"))
    lags = False
    w.apply(pod("e"))
    assert sent == ["a", "b", "c"]
    await waiting
    assert [name for _, name, _ in seen(watcher)] == ["d", "e"]
    w.apply(pod("f"))  # nobody waits
    assert [name for _, name, _ in seen(watcher)] == ["f"] and sent == ["a", "b", "c"]


def test_a_watch_that_cannot_be_told_is_ended_and_the_others_are_told():
    w = World()
    broken, well = w.watch(), w.watch()

    class Breaks:
        def matches(self, entry: object) -> bool:
            raise ValueError("planted")

    broken.selection = Breaks()
    w.apply(pod("x"))
    assert broken.stopped and broken.error is not None and broken.error.code == 500
    assert seen(well) == [("ADDED", "x", "2")]


def test_repeated_batch_is_applied_once():
    w = World()
    watcher = w.watch()
    batch = Batch(2, [put(pod("x"), 2)])
    w.cache.apply(batch)
    w.cache.apply(batch)
    assert len(watcher.drain()) == 1


def test_selector_watch_has_transitions():
    w = World()
    watcher = w.watch(labels="app=web")
    w.apply(pod("x", app="db"))
    w.apply(pod("x", app="web"))
    w.apply(pod("x", app="web", more="1"))
    w.apply(pod("x", app="db"))
    w.apply((pod("x"),))
    assert seen(watcher) == [("ADDED", "x", "3"), ("MODIFIED", "x", "4"), ("DELETED", "x", "5")]


def test_node_watch_follows_the_binding():
    w = World()
    one, two = w.watch(fields="spec.nodeName=m1"), w.watch(fields="spec.nodeName=m2")
    w.apply(pod("x"))
    w.apply(pod("x", node="m1"))
    w.apply(pod("y", node="m2"))
    w.apply((pod("x"),))
    assert seen(one) == [("ADDED", "x", "3"), ("DELETED", "x", "5")]
    assert seen(two) == [("ADDED", "y", "4")]


def test_narrow_watches_get_only_theirs():
    w = World()
    by_name, by_namespace = w.watch("a", fields="metadata.name=x"), w.watch("b")
    everywhere = w.watch(fields="metadata.name=x")
    w.apply(pod("x"), pod("y"), pod("x", "b"))
    assert [n for _, n, _ in seen(by_name)] == ["x"]
    assert [n for _, n, _ in seen(by_namespace)] == ["x"]
    assert len(seen(everywhere)) == 2
    for watcher in (by_name, by_namespace, everywhere):
        w.hub.remove(watcher)
        w.hub.remove(watcher)
    assert w.hub.count == 0


def test_combined_name_and_node_selector():
    w = World()
    watcher = w.watch("a", fields="metadata.name=x,spec.nodeName=m1")
    w.apply(pod("x"))
    w.apply(pod("x", node="m1"))
    assert seen(watcher) == [("ADDED", "x", "3")]


def test_slow_watcher_is_closed_and_others_are_not():
    w = World()
    slow, fast = w.watch(limit=3), w.watch()
    for i in range(5):
        w.apply(pod(f"p{i}"))
        assert len(fast.drain()) == 1
    assert slow.stopped and slow.overflowed
    assert slow.drain() == []


def test_window_serves_the_past_or_says_expired():
    w = World(max_events=3)
    for i in range(6):
        w.apply(pod(f"p{i}"))
    table = w.cache.table(PODS)
    assert [e.revision for e in table.since(5)] == [6, 7]
    assert [e.revision for e in table.since(4)] == [5, 6, 7]
    assert table.since(99) == []
    with pytest.raises(ApiError) as e:
        table.since(3)
    assert (e.value.code, e.value.message) == (410, "too old resource version: 3 (4)")


def test_quiet_resource_keeps_its_window():
    w = World(max_events=3)
    for i in range(6):
        w.apply(pod(f"p{i}"))
    assert w.cache.table(NODES).since(1) == []
    with pytest.raises(ApiError):
        w.cache.table(NODES).since(0)


def test_unknown_keys_are_left_alone():
    w = World()
    w.cache.apply(Batch(2, [Ev(Kv(b"/sk8/leader/x", b"?", 2)), Ev(Kv(b"/registry/odd", b"?", 2))]))
    assert w.cache.revision == 2


@pytest.mark.parametrize("fields", ["spec.image=x", "bad"])
def test_bad_field_selectors(fields):
    with pytest.raises(ApiError) as e:
        selection.parse(PODS, "", "", fields)
    assert e.value.code == 400
