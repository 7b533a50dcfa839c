"""core/v1 Events as Kubernetes emits them: aggregated, counted, rate-limited, never in the caller's way.

`EventRecorder.event` is a plain call: it never blocks, awaits or raises. A task that exists only while something is
queued writes the Events through the injected Client; the queue is bounded and drops the oldest.
Rules as client-go's correlator: the same event again raises `count` and `lastTimestamp`; more than 10 that differ only
in the message within 10 minutes become one "(combined from similar events)"; one object gets a burst of 25 and then
one per 5 minutes from one source.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TypeVar

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.machinery.client import Client, Created, Obj, is_not_found
from cluster.machinery.clock import Clock, wall

log = logging.getLogger(__name__)

_V = TypeVar("_V")
_CACHE = 4096
_QUEUE = 10_000
_GATHER_S = 0.05
_AT_ONCE = 128
"""Events that gather for a moment are created together, in process with few transactions: one at a time, each would
cost every member of the store a command, a message and a sync."""
_PER_S, _CROWD = 500.0, _QUEUE // 2
"""An Event costs the store as much as the bind it tells of. In a burst it is written behind it, at this rate (client-go
allows itself 50 requests a second), unless so many wait that some might have to be dropped."""
_SIMILAR_MAX = 10
_SIMILAR_WINDOW_S = 600.0
_BURST = 25.0
_REFILL_PER_S = 1.0 / 300.0


@dataclass(slots=True)
class _Seen:
    name: str
    namespace: str
    count: int
    first: float


@dataclass(slots=True)
class _Similar:
    since: float
    messages: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class _Write:
    """Create `event`, or when `count` > 1 raise the count of the one that exists (create it when it is gone)."""

    event: Obj
    count: int


class Correlator:
    """Pure: which write, if any, an occurrence leads to."""

    def __init__(self, component: str, host: str) -> None:
        self._component = component
        self._host = host
        self._seen: OrderedDict[tuple[str, ...], _Seen] = OrderedDict()
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, ...], _Bucket] = OrderedDict()
        self._serial = 0

    def take(self, ref: Obj, type_: str, reason: str, message: str, now: float) -> _Write | None:
        source = (ref.get("kind", ""), ref.get("namespace", ""), ref["name"], ref.get("uid", ""))
        if not self._allow(source, now):
            return None
        message = self._aggregate((*source, type_, reason), message, now)
        key = (*source, type_, reason, message)
        seen = self._seen.get(key)
        if seen is None:
            self._serial += 1
            stamp = (int(now * 1e6) * 1000 + self._serial) & 0xFFFFFFFFFFFFFFFF
            seen = _Seen(f"{ref['name'][:200]}.{stamp:016x}", ref.get("namespace") or "default", 0, now)
            _remember(self._seen, key, seen)
        seen.count += 1
        self._seen.move_to_end(key)
        return _Write(self._build(seen, ref, type_, reason, message, now), seen.count)

    def _build(self, seen: _Seen, ref: Obj, type_: str, reason: str, message: str, now: float) -> Obj:
        source = {"component": self._component} | ({"host": self._host} if self._host else {})
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": seen.name, "namespace": seen.namespace},
            "involvedObject": ref,
            "reason": reason,
            "message": message[:1024],
            "source": source,
            "firstTimestamp": rfc3339(seen.first),
            "lastTimestamp": rfc3339(now),
            "count": seen.count,
            "type": type_,
            "eventTime": None,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }

    def _allow(self, source: tuple[str, ...], now: float) -> bool:
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = _Bucket(_BURST, now)
            _remember(self._buckets, source, bucket)
        bucket.tokens = min(_BURST, bucket.tokens + max(now - bucket.at, 0.0) * _REFILL_PER_S)
        bucket.at = now
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def _aggregate(self, key: tuple[str, ...], message: str, now: float) -> str:
        similar = self._similar.get(key)
        if similar is None or now - similar.since > _SIMILAR_WINDOW_S:
            similar = _Similar(now)
            _remember(self._similar, key, similar)
        similar.messages.add(message)
        if len(similar.messages) <= _SIMILAR_MAX:
            return message
        return f"(combined from similar events): {message}"


class EventRecorder:
    def __init__(self, client: Client, component: str, host: str = "", *, clock: Clock = wall) -> None:
        self._client = client
        self._clock = clock
        self._correlator = Correlator(component, host)
        self._queue: deque[_Write] = deque(maxlen=_QUEUE)
        self._task: asyncio.Task[None] | None = None

    def event(self, obj: Obj, type_: str, reason: str, message: str) -> None:
        """`obj`: the object it is about (apiVersion, kind and metadata); `type_` Normal or Warning."""
        write = self._correlator.take(object_reference(obj), type_, reason, message, self._clock())
        if write is None:
            return
        self._queue.append(write)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._drain(), name="event-recorder")

    async def flush(self) -> None:
        """Wait until what was recorded so far is written."""
        while self._task is not None and not self._task.done():
            await asyncio.shield(self._task)

    async def close(self) -> None:
        """Drop what is queued and stop."""
        self._queue.clear()
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _drain(self) -> None:
        while self._queue:
            batch = self._batch()
            await self._write(batch)
            if self._queue:
                await asyncio.sleep(_pause_s(len(batch), len(self._queue)))

    def _batch(self) -> list[_Write]:
        """What may be written at once: one event's own writes follow each other."""
        batch: dict[tuple[str, str], _Write] = {}
        while self._queue and len(batch) < _AT_ONCE:
            meta = self._queue[0].event["metadata"]
            key = meta["namespace"], meta["name"]
            if key in batch:
                break
            batch[key] = self._queue.popleft()
        return list(batch.values())

    async def _write(self, batch: list[_Write]) -> None:
        try:
            await asyncio.gather(
                self._create([w.event for w in batch if w.count == 1]),
                *(self._raise_count(w) for w in batch if w.count > 1),
            )
        except Exception:  # the task's outermost loop
            log.exception("writing events failed")

    async def _create(self, events: list[Obj]) -> None:
        if not events:
            return
        outcomes: Created
        try:
            outcomes = await self._client.create_all("events", events)
        except ApiError as err:
            outcomes = [err for _ in events]
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, ApiError):
                _dropped(event, outcome)

    async def _raise_count(self, write: _Write) -> None:
        meta = write.event["metadata"]
        change = {k: write.event[k] for k in ("count", "lastTimestamp", "message")}
        try:
            await self._client.patch("events", meta["name"], change, meta["namespace"])
        except ApiError as err:
            if is_not_found(err):
                await self._create([write.event])
            else:
                _dropped(write.event, err)


def _pause_s(written: int, waiting: int) -> float:
    return _GATHER_S if waiting > _CROWD else max(_GATHER_S, written / _PER_S)


def _dropped(event: Obj, err: ApiError) -> None:
    """An Event is a courtesy: losing one (namespace being deleted, store away) must not matter."""
    log.debug("event %s dropped: %s", event["reason"], err.message)


def object_reference(obj: Obj) -> Obj:
    """The involvedObject of an object, or `obj` itself when it is a reference already."""
    meta = obj.get("metadata")
    if meta is None:
        return obj
    ref = {
        "kind": obj.get("kind", ""),
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "uid": meta.get("uid", ""),
        "apiVersion": obj.get("apiVersion", ""),
        "resourceVersion": meta.get("resourceVersion", ""),
    }
    return {k: v for k, v in ref.items() if v}


def _remember(cache: OrderedDict[tuple[str, ...], _V], key: tuple[str, ...], value: _V) -> None:
    cache[key] = value
    while len(cache) > _CACHE:
        cache.popitem(last=False)
