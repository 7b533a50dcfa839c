"""StoreClient: the store for its users, whichever members are up. IO on the caller's event loop.

Fulfils cluster.registry.store.Store; client_calls says who is asked, and what is asked again. A caller's ``deadline``
(on the loop's clock) bounds a call beside the client's time-out: past it nothing is sent any more. Errors are those of
raft.errors; ``.code`` is what callers branch on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from raft.client_calls import Calls, Endpoint
from raft.client_watch import watch_batches
from raft.config import Address
from raft.errors import TOO_MANY_KEYS, Invalid
from raft.mvcc.types import NO_PREVIOUS, Compare, EventBatch, KeyValue, Op, RangeResult, Response, TxnResult

DELETE_KEYS = 5_000


class StoreClient(Calls):
    # --- the Store

    async def range(
        self,
        key: bytes,
        range_end: bytes | None = None,
        *,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        deadline: float | None = None,
    ) -> RangeResult:
        """[key, range_end) of one revision. Large results come in pages of that revision, which callers do not see."""
        options = (limit, revision, serializable, keys_only, count_only)
        raw = await self._read("range", key, range_end, *options, deadline=deadline)
        kvs, count, more, at = [KeyValue(*kv) for kv in raw[0]], raw[1], raw[2], raw[3]
        while more and not count_only and (not limit or len(kvs) < limit):
            start = kvs[-1].key + b"\0"
            left = limit - len(kvs) if limit else 0
            options = (left, at, serializable, keys_only, False)
            raw = await self._read("range", start, range_end, *options, deadline=deadline)
            kvs += [KeyValue(*kv) for kv in raw[0]]
            more = raw[2]
        return RangeResult(kvs, count, more, at)

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Op],
        otherwise: Sequence[Op] = (),
        *,
        deadline: float | None = None,
    ) -> TxnResult:
        """Raises OutcomeUnknown, DeadlineExceeded, TooLarge, NoSpace, LeaseNotFound, Invalid, Unavailable."""
        raw = await self._lead("txn", compares, then, otherwise, deadline=deadline)
        return TxnResult(raw[0], raw[1], [_response(r) for r in raw[2]])

    async def put(self, key: bytes, value: bytes, lease_id: int = 0) -> int:
        """Returns the revision."""
        raw = await self._lead("txn", (), (("put", key, value, lease_id),), ())
        revision: int = raw[1]
        return revision

    async def delete(self, key: bytes, range_end: bytes | None = None) -> int:
        """How many it deleted: at one revision, but for ranges of thousands of keys, which go in parts."""
        deleted = 0
        while True:
            try:
                result = await self.txn((), (("delete", key, range_end),))
                return deleted + int(result.responses[0][1])
            except Invalid as error:
                if not str(error).startswith(TOO_MANY_KEYS):
                    raise
            some = await self.range(key, range_end, limit=DELETE_KEYS, keys_only=True)
            if some.kvs:
                part = await self.txn((), (("delete", key, some.kvs[-1].key + b"\0"),))
                deleted += part.responses[0][1]

    async def read_index(self, *, tell_watches: bool = False) -> int:
        """A revision at or above all that was acknowledged before. The leader is asked if it is known: any other member
        would have to ask it first. ``tell_watches``: the member that this client's watches are on is asked, which tells
        them at once how far they are; quiet ones hear of it by and by otherwise."""
        answer = None if tell_watches else await self._from_leader("read_index")
        revision: int = await self._read("read_index") if answer is None else answer
        return revision

    async def compact(self, revision: int) -> None:
        await self._lead("compact", revision)

    async def lease_grant(self, ttl_s: int, lease_id: int = 0) -> int:
        """With lease_id 0 it may be repeated: a lease nobody heard of expires."""
        granted = await self._lead("lease_grant", ttl_s, lease_id, repeatable=lease_id == 0)
        ident: int = granted[0]
        return ident

    async def lease_keep_alive(self, lease_id: int) -> int:
        ttl_s: int = await self._lead("lease_keep_alive", lease_id, repeatable=True)
        return ttl_s

    async def lease_revoke(self, lease_id: int) -> None:
        await self._lead("lease_revoke", lease_id)

    async def lease_time_to_live(self, lease_id: int) -> tuple[float, int, list[bytes]]:
        """(seconds left, ttl, keys)."""
        left_s, ttl_s, keys = await self._lead("lease_time_to_live", lease_id, repeatable=True)
        return left_s, ttl_s, keys

    async def lease_list(self) -> list[int]:
        ids: list[int] = await self._read("lease_list")
        return ids

    def watch(
        self, key: bytes, range_end: bytes | None = None, *, start_revision: int = 0, prev_kv: int = NO_PREVIOUS
    ) -> AsyncIterator[EventBatch]:
        """Batches in order, for ever; resumes on any member without a gap. Raises code ``compacted`` if it cannot."""
        return watch_batches(self, key, range_end, start_revision, prev_kv)

    # --- the group

    async def member_list(self) -> list[tuple[int, Address, bool]]:
        """(id, (host, peer port, client port), is a learner) of each."""
        return _members(await self._read("member_list"))

    async def member_add(self, member_id: int, address: Address) -> list[tuple[int, Address, bool]]:
        """As a learner, with an id never used before. Then join_member its directory, and start it."""
        return _members(await self._lead("member_add", member_id, *address))

    async def member_promote(self, member_id: int) -> list[tuple[int, Address, bool]]:
        """Make a learner a voter. Raises Unavailable (after the time-out) as long as it has not caught up."""
        return _members(await self._lead("member_promote", member_id))

    async def member_remove(self, member_id: int) -> list[tuple[int, Address, bool]]:
        return _members(await self._lead("member_remove", member_id))

    async def transfer_leader(self, to: int) -> None:
        await self._lead("transfer_leader", to, repeatable=True)

    async def alarm_list(self) -> list[tuple[int, str]]:
        return [(member, kind) for member, kind in await self._read("alarm_list")]

    async def alarm_disarm(self) -> list[tuple[int, str]]:
        return [(member, kind) for member, kind in await self._lead("alarm_disarm", repeatable=True)]

    async def status(self, endpoint: Endpoint) -> dict[str, Any]:
        """Of that member alone. Raises Unavailable."""
        return dict(await self._ask(endpoint, "status"))

    async def hash(self, endpoint: Endpoint) -> tuple[int, int, int, int]:
        """(hash, revision, compacted revision, applied index) of that member: equal hashes at equal revisions."""
        digest, revision, compacted, applied = await self._ask(endpoint, "hash")
        return digest, revision, compacted, applied

    async def hash_kv(self, endpoint: Endpoint, revision: int = 0) -> tuple[int, int, int]:
        """(hash, revision, compacted revision) of that member's records at ``revision``, which it reads for it."""
        digest, at, compacted = await self._ask(endpoint, "hash_kv", revision)
        return digest, at, compacted


def _members(raw: list[list[Any]]) -> list[tuple[int, Address, bool]]:
    return [(m[0], (m[1], m[2], m[3]), bool(m[4])) for m in raw]


def _response(raw: list[Any]) -> Response:
    if raw[0] == "range":
        return ("range", [KeyValue(*kv) for kv in raw[1]], raw[2])
    return tuple(raw)
