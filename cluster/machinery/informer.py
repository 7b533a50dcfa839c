"""A local, indexed, ordered copy of one resource, kept by list and watch, that never shows the past.

IO only through the injected Client. Handlers are plain functions called on the loop with (old, new); they should only
mark keys as dirty. Objects are shared by all readers: `clone` before changing one. A `view` makes of each object what
is kept of it; it keeps name, namespace and resourceVersion.

Invariants:
- Events are applied in order; what a handler saw last is what `get` returns.
- Read your own writes: `observe(obj)` puts the object a write returned into the cache before the watch delivers it.
  The watch is ordered, so (1) an observed object at or below the revision the watch has reached is dropped (its later
  fate, perhaps a delete, has been seen already); (2) an event older than the cached object is dropped.
- One transaction may write several objects at one revision (batched binds), and a stream may break between them; so
  a watch resumes after the last revision known to be complete, and what is delivered twice is dropped by (2).
- After an expired watch (410) the resource is listed again, and the difference is delivered as ordinary events.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable

from cluster.api.errors import ApiError
from cluster.machinery.client import Client, Obj, WatchEvent
from cluster.registry.context import CAUSE

log = logging.getLogger(__name__)

Handler = Callable[[Obj | None, Obj | None], None]
IndexFunc = Callable[[Obj], Iterable[str]]
_Key = tuple[str, str]

_NO_VALUES: list[str] = []
_BACKOFF_BASE_S = 0.05
_BACKOFF_MAX_S = 2.0


def revision_of(obj: Obj) -> int:
    """metadata.resourceVersion as the number it is since KEP-5504 made versions comparable; 0 when unset."""
    try:
        return int(obj.get("metadata", {}).get("resourceVersion") or 0)
    except ValueError:
        return 0


class Informer:
    def __init__(
        self,
        client: Client,
        resource: str,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        rng: random.Random | None = None,
        view: Callable[[Obj], Obj] | None = None,
    ) -> None:
        self.resource = resource
        self._client = client
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._rng = rng or random.Random(0)
        self._view = view
        self._objects: dict[_Key, Obj] = {}
        self._indexes: dict[str, _Index] = {}
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._reached = 0
        self._complete = 0
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []

    # ---- reading

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    @property
    def resource_version(self) -> str:
        """The revision the watch has reached."""
        return str(self._reached)

    async def wait_synced(self) -> None:
        await self._synced.wait()

    async def wait_reached(self, revision: int) -> None:
        """Until all that was written before `revision` has been seen. A quiet watch hears how far it is within seconds,
        or when its store's client is asked for the present revision."""
        if self._reached < revision:
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited.append((revision, reached))
            await reached

    def get(self, namespace: str, name: str) -> Obj | None:
        return self._objects.get((namespace, name))

    def items(self) -> list[Obj]:
        return list(self._objects.values())

    def in_namespace(self, namespace: str) -> list[Obj]:
        return [obj for (ns, _), obj in self._objects.items() if ns == namespace]

    def by_index(self, name: str, value: str) -> list[Obj]:
        return [self._objects[key] for key in self._indexes[name].keys_of(value)]

    def count_by_index(self, name: str, value: str) -> int:
        return len(self._indexes[name].keys_of(value))

    # ---- wiring

    def add_handler(self, handler: Handler) -> None:
        """`handler(old | None, new | None)`; one added late first gets everything known as (None, obj)."""
        self._handlers.append(handler)
        for obj in list(self._objects.values()):
            self._call(handler, None, obj)

    def add_index(self, name: str, func: IndexFunc) -> None:
        """Adding the same name again is allowed (informers are shared) and must mean the same function."""
        if name in self._indexes:
            return
        index = self._indexes[name] = _Index(func)
        for key, obj in self._objects.items():
            index.put(key, obj)

    def observe(self, obj: Obj) -> None:
        """Take the result of a write before the watch delivers it (invariant 2 of the module)."""
        key = _key(obj)
        revision = revision_of(obj)
        current = self._objects.get(key)
        if revision <= self._reached or (current is not None and revision <= revision_of(current)):
            return
        meta = obj["metadata"]
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and meta.get("deletionGracePeriodSeconds") == 0:
            return  # this write completed a deletion; the watch will say so
        self._store(key, obj)

    # ---- running

    async def run(self) -> None:
        """List, then watch, for ever; errors are retried with backoff. Returns only by cancellation."""
        failures = 0
        relist = True
        while True:
            try:
                if relist:
                    await self._list()
                    relist = False
                before = self._reached
                await self._watch()
                failures = 0 if self._reached > before else failures
            except ApiError as err:
                relist = relist or err.code == 410
                failures += 1
                level = logging.DEBUG if err.code == 410 or failures < 3 else logging.WARNING
                log.log(level, "watching %s: %s", self.resource, err.message)
            if failures:
                await asyncio.sleep(self._backoff_s(failures))

    def _backoff_s(self, failures: int) -> float:
        return min(_BACKOFF_BASE_S * 2.0 ** min(failures - 1, 10), _BACKOFF_MAX_S) * (0.5 + self._rng.random())

    async def _list(self) -> None:
        CAUSE.set("")
        listing = await self._client.list(
            self.resource, self._namespace, label_selector=self._label_selector, field_selector=self._field_selector
        )
        self._reached = self._complete = int(listing.resource_version or 0)
        fresh = {_key(obj): obj for obj in listing.items}
        for key in [k for k in self._objects if k not in fresh]:
            if revision_of(self._objects[key]) <= self._reached:
                self._remove(key)
        for key, obj in fresh.items():
            current = self._objects.get(key)
            if current is None or revision_of(obj) > revision_of(current):
                self._store(key, obj)
        self._synced.set()
        self._tell_awaited()

    async def _watch(self) -> None:
        stream = self._client.watch(
            self.resource,
            self._namespace,
            resource_version=str(self._complete),
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        async for event in stream:
            CAUSE.set(event.cause)  # of what the listeners mark; this task has a context of its own
            self.apply(event)

    def apply(self, event: WatchEvent) -> None:
        revision = revision_of(event.object)
        if event.type != "BOOKMARK":
            key = _key(event.object)
            current = self._objects.get(key)
            newer = current is None or revision == 0 or revision > revision_of(current)
            if event.type == "DELETED":
                if current is not None and (newer or revision == revision_of(current)):
                    self._remove(key)
            elif newer:
                self._store(key, event.object)
        if event.type == "BOOKMARK":
            self._complete = max(self._complete, revision)
        elif revision > self._reached:
            self._complete = self._reached
        self._reached = max(self._reached, revision)
        if self._awaited:
            self._tell_awaited()

    def _tell_awaited(self) -> None:
        """Those who gave up waiting are forgotten."""
        for revision, reached in self._awaited:
            if revision <= self._reached and not reached.done():
                reached.set_result(None)
        self._awaited = [one for one in self._awaited if not one[1].done()]

    def _store(self, key: _Key, obj: Obj) -> None:
        obj = obj if self._view is None else self._view(obj)
        old = self._objects.get(key)
        self._objects[key] = obj
        for index in self._indexes.values():
            index.put(key, obj)
        for handler in self._handlers:
            self._call(handler, old, obj)

    def _remove(self, key: _Key) -> None:
        old = self._objects.pop(key)
        for index in self._indexes.values():
            index.remove(key)
        for handler in self._handlers:
            self._call(handler, old, None)

    def _call(self, handler: Handler, old: Obj | None, new: Obj | None) -> None:
        try:
            handler(old, new)
        except Exception:  # outermost loop: one bad object or listener must not stop the others
            log.exception("a handler of %s failed", self.resource)


class _Index:
    """Which objects have a value. Most changes of an object leave its values as they are, and then nothing is moved."""

    def __init__(self, func: IndexFunc) -> None:
        self._func = func
        self._values: dict[_Key, list[str]] = {}
        self._keys: dict[str, dict[_Key, None]] = {}

    def keys_of(self, value: str) -> Collection[_Key]:
        return self._keys.get(value, ())

    def put(self, key: _Key, obj: Obj) -> None:
        values = list(self._func(obj))
        if values == self._values.get(key, _NO_VALUES):
            return
        self.remove(key)
        if values:
            self._values[key] = values
        for value in values:
            self._keys.setdefault(value, {})[key] = None

    def remove(self, key: _Key) -> None:
        for value in self._values.pop(key, _NO_VALUES):
            keys = self._keys.get(value)
            if keys is None:
                continue  # a value may be named twice
            keys.pop(key, None)
            if not keys:
                del self._keys[value]


class Informers:
    """One informer per resource, shared by all who ask for it."""

    def __init__(self, client: Client, *, rng: random.Random | None = None) -> None:
        self._client = client
        self._rng = rng or random.Random(0)
        self._informers: dict[str, Informer] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def of(self, resource: str, view: Callable[[Obj], Obj] | None = None) -> Informer:
        """The shared informer; started at once when the others already run. `view`: the first to ask decides."""
        informer = self._informers.get(resource)
        if informer is None:
            informer = self._informers[resource] = Informer(self._client, resource, rng=self._rng, view=view)
            if self._group is not None:
                self._start(self._group, resource, informer)
        return informer

    def drop(self, resource: str) -> None:
        """Stop and forget the informer of a resource that is no longer defined."""
        self._informers.pop(resource, None)
        task = self._tasks.pop(resource, None)
        if task is not None:
            task.cancel()

    def _start(self, group: asyncio.TaskGroup, resource: str, informer: Informer) -> None:
        self._tasks[resource] = group.create_task(informer.run(), name=f"informer-{resource}")

    def observe(self, resource: str, obj: Obj) -> None:
        informer = self._informers.get(resource)
        if informer is not None:
            informer.observe(obj)

    async def wait_synced(self) -> None:
        for informer in list(self._informers.values()):
            await informer.wait_synced()

    @property
    def unsynced(self) -> list[str]:
        return sorted(name for name, informer in self._informers.items() if not informer.synced)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            for resource, informer in self._informers.items():
                self._start(group, resource, informer)


def _key(obj: Obj) -> _Key:
    meta = obj["metadata"]
    return (meta.get("namespace", ""), meta["name"])
