"""The byte cache: every object under /registry/ as the bytes clients get, sorted, with a window of recent events.

Pure.

Fed by `feed.py` with whole batches of the store's event stream; read by GET, LIST and WATCH. Nothing here awaits, so a
reader never sees half of a transaction.

Invariants:
- `revision` only grows; everything at or below it is applied, nothing above it is visible.
- `Table.keys` is sorted and holds exactly the keys of `Table.entries`.
- A window holds every event of its resource above `window_start`; asking for an older start is Expired, never a gap.
- Entries are immutable; a change replaces the entry, so readers may keep what they got.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from cluster.api import errors
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry.keys import resource_prefix
from cluster.registry.store import EventBatch, KeyValue

REGISTRY = b"/registry/"


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None


class _Spec(msgspec.Struct):
    nodeName: str | None = None


class _MetaOnly(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class _PodFacts(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


_META = msgspec.json.Decoder(_MetaOnly)
_POD = msgspec.json.Decoder(_PodFacts)
_ANY = msgspec.json.Decoder()


class Entry:
    """One object at one revision: `raw` is its JSON with resourceVersion in. Facts are decoded once, when asked for.
    `form` is what another version of a custom resource shows of it (`versions.py`)."""

    __slots__ = ("_meta", "_node", "_obj", "form", "key", "raw", "revision")

    def __init__(self, key: bytes, raw: bytes, revision: int) -> None:
        self.key = key
        self.raw = raw
        self.revision = revision
        self._meta: _Meta | None = None
        self._node: str | None = None
        self._obj: dict[str, Any] | None = None
        self.form: tuple[object, Entry] | None = None

    @property
    def meta(self) -> _Meta:
        if self._meta is None:
            self._meta = _META.decode(self.raw).metadata
        return self._meta

    @property
    def labels(self) -> dict[str, str]:
        return self.meta.labels or {}

    @property
    def node(self) -> str:
        """`spec.nodeName` of a pod, "" while it has none."""
        if self._node is None:
            facts = _POD.decode(self.raw)
            self._meta = facts.metadata
            self._node = facts.spec.nodeName or ""
        return self._node

    def decode(self) -> dict[str, Any]:
        """A fresh dict of the object."""
        obj: dict[str, Any] = _ANY.decode(self.raw)
        return obj


class CacheEvent:
    """One change. `entry` is None for a delete; `prev` None for a create; `last` is what a DELETED event shows."""

    __slots__ = ("_chunks", "_frames", "entry", "key", "prev", "revision")

    def __init__(self, key: bytes, revision: int, entry: Entry | None, prev: Entry | None) -> None:
        self.key = key
        self.revision = revision
        self.entry = entry
        self.prev = prev
        self._chunks: dict[str, bytes] = {}
        self._frames: dict[str, bytes] = {}

    @property
    def last(self) -> Entry:
        """The object as it left: its last state with the revision of the change that took it away."""
        if self.prev is None:
            raise ValueError(f"no state before {self.key!r} at revision {self.revision}")
        return Entry(self.key, at_revision(self.prev.raw, self.revision), self.revision)

    def chunk(self, kind: str) -> bytes:
        """This event as one line of a JSON watch stream; encoded once, whoever watches."""
        found = self._chunks.get(kind)
        if found is None:
            entry = self.last if kind == "DELETED" or self.entry is None else self.entry
            found = event_line(kind, entry.raw)
            self._chunks[kind] = found
        return found

    def framed(self, kind: str) -> bytes:
        """The line as an HTTP chunk (RFC 9112, section 7.1); made once, too."""
        found = self._frames.get(kind)
        if found is None:
            line = self.chunk(kind)
            found = self._frames[kind] = b"%x\r\n%b\r\n" % (len(line), line)
        return found

    def size(self) -> int:
        return len(self.entry.raw) if self.entry is not None else 256


_VERSION = b'"resourceVersion":"'


def at_revision(raw: bytes, revision: int) -> bytes:
    """Served JSON with another resourceVersion; the codec writes it as the first field of metadata."""
    start = raw.index(_VERSION) + len(_VERSION)
    return b"%b%d%b" % (raw[:start], revision, raw[raw.index(b'"', start) :])


def event_line(kind: str, raw: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), raw)


class Table:
    """All objects of one resource, and the window of its recent events. `name` is `pods`, `deployments.apps`."""

    __slots__ = ("_bytes", "changed", "entries", "keys", "name", "prefix", "window", "window_start")

    def __init__(self, prefix: bytes, start: int) -> None:
        self.prefix = prefix
        _, _, group, plural, _ = prefix.decode().split("/")
        self.name = plural if group == "core" else f"{plural}.{group}"
        self.keys: list[bytes] = []
        self.entries: dict[bytes, Entry] = {}
        self.window: deque[CacheEvent] = deque()
        self.window_start = start
        self.changed = start
        self._bytes = 0

    def put(self, entry: Entry) -> Entry | None:
        prev = self.entries.get(entry.key)
        if prev is None:
            if not self.keys or entry.key > self.keys[-1]:
                self.keys.append(entry.key)
            else:
                bisect.insort(self.keys, entry.key)
        self.entries[entry.key] = entry
        return prev

    def drop(self, key: bytes) -> Entry | None:
        prev = self.entries.pop(key, None)
        if prev is not None:
            del self.keys[bisect.bisect_left(self.keys, key)]
        return prev

    def record(self, event: CacheEvent, max_events: int, max_bytes: int) -> None:
        """Append to the window; forget whole revisions from its old end when it is over a bound."""
        self.window.append(event)
        self.changed = event.revision
        self._bytes += event.size()
        while len(self.window) > 1 and (len(self.window) > max_events or self._bytes > max_bytes):
            oldest = self.window.popleft()
            self._bytes -= oldest.size()
            self.window_start = oldest.revision

    def span(self, namespace: str = "", start: bytes = b"") -> tuple[int, int]:
        """The slice of `keys` in a namespace ("" is all), from `start` on."""
        prefix = self.prefix + namespace.encode() + b"/" if namespace else self.prefix
        lo = bisect.bisect_left(self.keys, max(prefix, start))
        hi = bisect.bisect_left(self.keys, prefix[:-1] + b"0") if namespace else len(self.keys)
        return lo, max(lo, hi)

    def select(self, namespace: str = "", start: bytes = b"") -> list[Entry]:
        lo, hi = self.span(namespace, start)
        entries = self.entries
        return [entries[k] for k in self.keys[lo:hi]]

    def since(self, revision: int) -> list[CacheEvent]:
        """Events above `revision`, in order. Raises ApiError 410 when the window no longer reaches back to it."""
        if revision < self.window_start:
            raise errors.expired(f"too old resource version: {revision} ({self.window_start})")
        newer: list[CacheEvent] = []
        for event in reversed(self.window):
            if event.revision <= revision:
                break
            newer.append(event)
        newer.reverse()
        return newer


Sink = Callable[[Table, list[CacheEvent]], None]
Decode = Callable[[bytes, bytes, int], bytes]


class Snapshot:
    """Tables being filled from a range at one revision, to be installed at once."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.tables: dict[bytes, Table] = {}

    def add(self, decode: Decode, kv: KeyValue) -> None:
        table = _table_of(self.tables, kv.key, self.revision)
        if table is not None:
            table.put(Entry(kv.key, decode(kv.key, kv.value, kv.mod_revision), kv.mod_revision))


class Cache:
    """The tables of all resources, also of those that no definition serves (yet).

    `decode(key, value, mod_revision)` gives the JSON to serve. `sizes`: events a window holds, by resource name, where
    it is not `max_events`. `sink` is called once per resource and batch, after the batch is applied.
    """

    def __init__(
        self,
        decode: Decode,
        *,
        max_events: int = 4096,
        max_bytes: int = 16 * 1024 * 1024,
        sizes: Mapping[str, int] = MappingProxyType({}),
        sink: Sink | None = None,
    ) -> None:
        self.decode = decode
        self.revision = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._sizes = sizes
        self._sink = sink
        self._start = 0
        self._tables: dict[bytes, Table] = {}

    def table(self, info: ResourceInfo) -> Table:
        """Of `info`'s objects; a view's are its hub's."""
        info = SCHEME.hub(info)
        prefix = resource_prefix(info)
        table = self._tables.get(prefix)
        if table is None:
            table = self._tables[prefix] = Table(prefix, self._start)
        return table

    def get(self, info: ResourceInfo, namespace: str, name: str) -> Entry | None:
        table = self.table(info)
        key = table.prefix + (f"{namespace}/{name}" if info.namespaced else name).encode()
        return table.entries.get(key)

    def entry(self, key: bytes) -> Entry | None:
        """By its key in the store."""
        table = self._tables.get(key[: key.find(b"/", key.find(b"/", len(REGISTRY)) + 1) + 1])
        return table.entries.get(key) if table is not None else None

    def install(self, snapshot: Snapshot) -> None:
        """Replace everything; windows start at the snapshot's revision."""
        self._tables = snapshot.tables
        self.revision = self._start = snapshot.revision

    def apply(self, batch: EventBatch) -> None:
        """Take one batch of the stream. A batch at or below `revision` was already applied and is left alone."""
        if batch.revision <= self.revision:
            return
        touched: dict[bytes, tuple[Table, list[CacheEvent]]] = {}
        for event in batch.events:
            kv = event.kv
            table = _table_of(self._tables, kv.key, self._start)
            if table is None or kv.mod_revision <= self.revision:
                continue
            change = self._change(table, kv, deleted=event.type == 1)
            if change is not None:
                touched.setdefault(table.prefix, (table, []))[1].append(change)
        self.revision = batch.revision
        if self._sink is not None:
            for table, events in touched.values():
                self._sink(table, events)

    def _change(self, table: Table, kv: KeyValue, *, deleted: bool) -> CacheEvent | None:
        if deleted:
            prev = table.drop(kv.key)
            if prev is None:
                return None
            change = CacheEvent(kv.key, kv.mod_revision, None, prev)
        else:
            entry = Entry(kv.key, self.decode(kv.key, kv.value, kv.mod_revision), kv.mod_revision)
            change = CacheEvent(kv.key, kv.mod_revision, entry, table.put(entry))
        table.record(change, self.capacity(table.name), self._max_bytes)
        return change

    def capacity(self, resource: str) -> int:
        """How many events the window of `pods`, `deployments.apps` may hold."""
        return self._sizes.get(resource, self._max_events)


def _table_of(tables: dict[bytes, Table], key: bytes, start: int) -> Table | None:
    """The table a store key belongs to; None for keys that hold no object."""
    if not key.startswith(REGISTRY):
        return None
    end = key.find(b"/", key.find(b"/", len(REGISTRY)) + 1) + 1
    prefix = key[:end]
    table = tables.get(prefix)
    if table is None and prefix.count(b"/") == 4:
        table = tables[prefix] = Table(prefix, start)
    return table
