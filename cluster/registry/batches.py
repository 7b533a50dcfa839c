"""Many objects of one kind, created with one transaction: what a flood of Events costs is transactions, not bytes.

IO only through Core. Each object goes the whole way of a create of its own (decoding, admission, validation, managed
fields); only the ends of those ways, guarded puts, are joined. What would fail alone fails alone: when a guard of the
common transaction does not hold, each object is created by itself, and says for itself what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cluster.api.errors import ApiError, FenceLost
from cluster.api.scheme import ResourceInfo
from cluster.registry.context import RequestContext
from cluster.registry.core import Core, Plan, Stale
from cluster.registry.writing import Draft, Writer

Object = dict[str, Any]
Outcomes = list[ApiError | None]


class BatchCreator:
    def __init__(self, core: Core, writer: Writer) -> None:
        self._core = core
        self._writer = writer

    async def create(self, ctx: RequestContext, info: ResourceInfo, objects: Sequence[Object]) -> Outcomes:
        """One outcome each, in order; None is success. The objects have names and namespaces of their own. Raises
        FenceLost, and what concerns the whole batch."""
        drafts = [await self._draft(ctx, info, obj) for obj in objects]
        ready = [d for d in drafts if isinstance(d, Draft)]
        if not all(d.charge is None for d in ready) or not await self._together(ctx, ready):
            alone = (self._alone(ctx, info, obj, d) for obj, d in zip(objects, drafts, strict=True))
            return list(await asyncio.gather(*alone))
        return [d if isinstance(d, ApiError) else None for d in drafts]

    async def _draft(self, ctx: RequestContext, info: ResourceInfo, obj: Object) -> Draft | ApiError:
        try:
            return await self._writer.draft(ctx, info, _namespace(obj), obj)
        except FenceLost:
            raise
        except ApiError as e:
            return e

    async def _together(self, ctx: RequestContext, drafts: Sequence[Draft]) -> bool:
        """Whether all of them were written; if not, none was."""
        if not drafts:
            return True
        guards = {g.compare: g for d in drafts for g in d.plan.guards}
        ops = [] if ctx.dry_run else [op for d in drafts for op in d.plan.ops]
        try:
            await self._core.commit(ctx, Plan(list(guards.values()), ops))
        except FenceLost:
            raise
        except Stale:
            return False
        except ApiError as e:
            if e.code in (429, 503, 504):  # nothing that would be otherwise for one of them
                raise
            return False
        return True

    async def _alone(
        self, ctx: RequestContext, info: ResourceInfo, obj: Object, draft: Draft | ApiError
    ) -> ApiError | None:
        if isinstance(draft, ApiError):
            return draft
        try:
            await self._writer.create(ctx, info, _namespace(obj), obj)
        except FenceLost:
            raise
        except ApiError as e:
            return e
        return None


def _namespace(obj: Object) -> str:
    return str(obj["metadata"].get("namespace", ""))
