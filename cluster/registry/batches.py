"""Many objects of one kind, created with few transactions: what a flood of pods or Events costs is transactions, not
bytes.

IO only through Core. Each object goes the whole way of a create of its own (decoding, admission, validation, managed
fields), unless the one before it was alike and it is cast from its mould (`moulds`); the ends of those ways, guarded
puts, are joined. While one transaction is under way the next is made
ready, and between a few objects the loop is given to whoever else waits. What would fail alone fails alone: when a
guard of a common transaction does not hold, each of its objects is stored by itself, and says for itself what is wrong.

    objects -> drafts -> parts of 64 -> one transaction each --holds-------------------------> stored
                                                  └─ does not ─> one each ─ stale, name taken ─> created anew
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.api.errors import ApiError, FenceLost
from cluster.api.scheme import ResourceInfo
from cluster.registry.admission import Admission
from cluster.registry.context import RequestContext
from cluster.registry.core import Plan, Stale
from cluster.registry.moulds import Mould
from cluster.registry.quota import QuotaLedger
from cluster.registry.quota_book import Charge
from cluster.registry.types import Stored
from cluster.registry.writing import Draft, Writer

Object = dict[str, Any]
Created = list[Stored | ApiError]

Write = tuple[Plan, Charge | None]

_AT_ONCE = 64
BYTES_AT_ONCE = 1 << 19
"""Well below the largest request that the store takes."""
_SLICE = 4
_ALL_ALIKE = (429, 503, 504)
"""Nothing that would be otherwise for one of them."""


@dataclass(frozen=True, slots=True)
class _Item:
    """`draft`: the object made ready, or why it cannot be."""

    obj: Object
    draft: Draft | ApiError

    @property
    def size(self) -> int:
        return len(self.draft.body) if isinstance(self.draft, Draft) else 0


async def joined(ledger: QuotaLedger, ctx: RequestContext, writes: Sequence[Write]) -> int | ApiError | None:
    """One transaction of many writes that touch no key of each other's: the revision of all, or what is wrong for all.
    None: none was written, and what is wrong may be one's own."""
    guards = {g.compare: g for plan, _ in writes for g in plan.guards}
    ops = [] if ctx.dry_run else [op for plan, _ in writes for op in plan.ops]
    charges = [charge for _, charge in writes if charge is not None]
    try:
        return await ledger.commit_uncounted(ctx, Plan(list(guards.values()), ops), charges)
    except Stale:
        return None
    except ApiError as e:
        return e if isinstance(e, FenceLost) or e.code in _ALL_ALIKE else None


class BatchCreator:
    def __init__(self, writer: Writer, admission: Admission) -> None:
        self._writer = writer
        self._admission = admission

    async def create(self, ctx: RequestContext, info: ResourceInfo, objects: Sequence[Object]) -> Created:
        """One outcome each, in order. The objects have namespaces of their own. Raises FenceLost, and what keeps
        admission from being asked at all."""
        parts: list[asyncio.Task[Created]] = []
        try:
            async for part in self._parts(ctx, info, objects):
                parts.append(asyncio.create_task(self._store(ctx, info, part)))
            outcomes = [outcome for stored in await asyncio.gather(*parts) for outcome in stored]
        finally:
            for task in parts:
                task.cancel()  # does nothing to one that is done
        for outcome in outcomes:
            if isinstance(outcome, FenceLost):
                raise outcome
        return outcomes

    async def _parts(
        self, ctx: RequestContext, info: ResourceInfo, objects: Sequence[Object]
    ) -> AsyncIterator[list[_Item]]:
        """Made ready, as many as share a transaction."""
        part: list[_Item] = []
        size = 0
        ready = self._cast_items if await self._admission.quiet() else self._seen_items
        async for item in ready(ctx, info, objects):
            if part and (len(part) == _AT_ONCE or size + item.size > BYTES_AT_ONCE):
                yield part
                part, size = [], 0
            part.append(item)
            size += item.size
        if part:
            yield part

    async def _seen_items(
        self, ctx: RequestContext, info: ResourceInfo, objects: Sequence[Object]
    ) -> AsyncIterator[_Item]:
        """Those whom a webhook or a policy may have to be asked about, made ready side by side."""
        for start in range(0, len(objects), _AT_ONCE):
            some = objects[start : start + _AT_ONCE]
            for item in await asyncio.gather(*(self._item(ctx, info, obj) for obj in some)):
                yield item

    async def _cast_items(
        self, ctx: RequestContext, info: ResourceInfo, objects: Sequence[Object]
    ) -> AsyncIterator[_Item]:
        """Those whom nobody looks at, made ready one after the other, and cast where the one before was alike."""
        mould: Mould | None = None
        for number, obj in enumerate(objects):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            item = self._cast(ctx, info, mould, obj) if mould is not None else None
            if item is None:
                item = await self._item(ctx, info, obj)
                mould = self._writer.mould(info, obj, item.draft) if isinstance(item.draft, Draft) else mould
            yield item

    def _cast(self, ctx: RequestContext, info: ResourceInfo, mould: Mould, obj: Object) -> _Item | None:
        try:
            draft = self._writer.cast(ctx, info, mould, obj)
        except ApiError as e:
            return _Item(obj, e)
        return _Item(obj, draft) if draft is not None else None

    async def _item(self, ctx: RequestContext, info: ResourceInfo, obj: Object) -> _Item:
        try:
            return _Item(obj, await self._writer.draft(ctx, info, _namespace(obj), obj))
        except ApiError as e:
            return _Item(obj, e)

    async def _store(self, ctx: RequestContext, info: ResourceInfo, part: Sequence[_Item]) -> Created:
        drafts = [item.draft for item in part if isinstance(item.draft, Draft)]
        done = await self._together(ctx, drafts)
        if done is None:
            return list(await asyncio.gather(*(self._alone(ctx, info, item) for item in part)))
        return [self._outcome(ctx, item.draft, done) for item in part]

    def _outcome(self, ctx: RequestContext, draft: Draft | ApiError, done: int | ApiError) -> Stored | ApiError:
        if isinstance(draft, ApiError):
            return draft
        return done if isinstance(done, ApiError) else self._writer.written(ctx, draft, done)

    async def _together(self, ctx: RequestContext, drafts: Sequence[Draft]) -> int | ApiError | None:
        """The revision at which all of them were written, or what is wrong for all. None: none was written, and what
        is wrong may be one's own."""
        if not drafts:
            return 0
        return await joined(self._writer.ledger, ctx, [(d.plan, d.charge) for d in drafts])

    async def _alone(self, ctx: RequestContext, info: ResourceInfo, item: _Item) -> Stored | ApiError:
        if isinstance(item.draft, ApiError):
            return item.draft
        try:
            return self._writer.written(ctx, item.draft, await self._writer.store(ctx, item.draft))
        except Stale:
            pass
        except ApiError as e:
            if e.reason != "AlreadyExists" or item.obj["metadata"].get("name"):
                return e
        try:
            return await self._writer.create(ctx, info, _namespace(item.obj), item.obj)
        except ApiError as e:
            return e


def _namespace(obj: Object) -> str:
    return str(obj["metadata"].get("namespace", ""))
