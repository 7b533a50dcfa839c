"""Clients that record, and watchers that do. IO on the loop of whoever runs the chaos.

Every value is written once, so that a value tells its write.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from raft.client import StoreClient
from raft.errors import StoreError
from raft.mvcc.types import DELETE, KeyValue
from tests.chaos.history import NEVER, Operation
from tests.chaos.watches import Watched

KEYS = [b"c/%02d" % i for i in range(24)]
PAIR = (b"pair/a", b"pair/b")
"""Always written together."""
PREFIX, END = b"", b"\0"


class Recorder:
    """One client; ``operations`` is its history."""

    def __init__(self, number: int, client: StoreClient, rng: random.Random, think_s: float) -> None:
        self.number = number
        self.operations: list[Operation] = []
        self.torn_pairs: list[str] = []
        self._client, self._rng, self._think_s = client, rng, think_s
        self._counter = 0
        self._known: dict[bytes, bytes | None] = {}

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._one()
            await asyncio.sleep(self._rng.uniform(0, 2 * self._think_s))

    def _value(self) -> bytes:
        self._counter += 1
        return b"%d:%d" % (self.number, self._counter)

    async def _one(self) -> None:
        key = self._rng.choice(KEYS)
        act = self._rng.choices((self._put, self._cas, self._delete, self._read, self._pair), (45, 12, 3, 35, 5))[0]
        await act(key)

    def _record(
        self, kind: str, key: bytes, value: bytes | None, start: float, error: StoreError | None, **more: object
    ) -> None:
        """What was refused before it could take effect never happened, and a read without an answer says nothing."""
        if error is not None and (kind == "read" or error.code != "outcome_unknown"):
            return
        end = time.monotonic() if error is None else NEVER
        self.operations.append(Operation(self.number, kind, key, value, start, end, **more))  # type: ignore[arg-type]

    async def _put(self, key: bytes) -> None:
        value, start = self._value(), time.monotonic()
        try:
            revision = await self._client.put(key, value)
        except StoreError as error:
            self._record("put", key, value, start, error)
        else:
            self._record("put", key, value, start, None, revision=revision)
            self._known[key] = value

    async def _cas(self, key: bytes) -> None:
        expected = self._known.get(key)
        if expected is None:
            return await self._read(key)
        value, start = self._value(), time.monotonic()
        try:
            result = await self._client.txn([(key, "value", "=", expected)], [("put", key, value, 0)])
        except StoreError as error:
            self._record("cas", key, value, start, error, expected=expected)
        else:
            self._record(
                "cas", key, value, start, None, expected=expected, revision=result.revision, succeeded=result.succeeded
            )
        self._known[key] = None
        return None

    async def _delete(self, key: bytes) -> None:
        start = time.monotonic()
        try:
            result = await self._client.txn((), [("delete", key, None)])
        except StoreError as error:
            self._record("delete", key, None, start, error)
        else:
            deleted = result.responses[0][1]
            self._record("delete", key, None, start, None, revision=result.revision if deleted else 0)

    async def _read(self, key: bytes) -> None:
        start = time.monotonic()
        try:
            result = await self._client.range(key)
        except StoreError:
            return
        value = result.kvs[0].value if result.kvs else None
        self._record("read", key, value, start, None, revision=result.revision)
        self._known[key] = value

    async def _pair(self, _: bytes) -> None:
        """Two keys in one transaction; whoever reads sees both of one, or none."""
        value = self._value()
        try:
            if self._rng.random() < 0.5:
                await self._client.txn((), [("put", key, value, 0) for key in PAIR])
            else:
                found = await self._client.range(PAIR[0], PAIR[1] + b"\0")
                if len({kv.value for kv in found.kvs}) > 1 or len(found.kvs) == 1:
                    self.torn_pairs.append(f"read at {found.revision}: {found.kvs}")
        except StoreError:
            return


class Follower:
    """Watches everything, over and over: each stretch from a revision of its own choice within the last hundred."""

    def __init__(
        self, name: str, client: StoreClient, rng: random.Random, wrote: Callable[[bytes, float], None]
    ) -> None:
        self.name = name
        self.watches: list[Watched] = []
        self._client, self._rng, self._wrote = client, rng, wrote

    async def run(self, stop: asyncio.Event, *, stretches: bool) -> None:
        start = 1
        while not stop.is_set():
            watched = Watched(f"{self.name}.{len(self.watches)}", start)
            self.watches.append(watched)
            batches = self._rng.randrange(50, 400) if stretches else 1 << 60
            try:
                await self._follow(watched, batches)
            except StoreError as error:
                if error.code != "compacted":
                    raise
                watched.compacted_at = start
            start = await self._next_start()

    async def _next_start(self) -> int:
        while True:
            try:
                now = await self._client.read_index()
            except StoreError:
                await asyncio.sleep(0.2)
            else:
                return max(1, now - self._rng.randrange(100))

    async def _follow(self, watched: Watched, batches: int) -> None:
        async for batch in self._client.watch(PREFIX or b"\0", END, start_revision=watched.start, prev_kv=True):
            now = time.monotonic()
            events = []
            for event in batch.events:
                value = None if event.type == DELETE else event.kv.value
                events.append((event.kv.mod_revision, event.kv.key, value, _value(event.prev_kv)))
                if value is not None:
                    self._wrote(value, now)
            watched.batches.append((batch.revision, events, now))
            batches -= 1
            if batches <= 0:
                return


def _value(kv: KeyValue | None) -> bytes | None:
    return None if kv is None else kv.value
