"""Binding pods to nodes, many in one transaction.

IO only through Core. A batch is written in one transaction, guarded by each pod's revision and the scheduler's fence.
It is made from what the caller's watch showed of the pods (`known`); only pods it does not know are read. When one pod
has changed meanwhile, the rest are not held up: the batch falls back to a fresh read and one transaction each. Pods
that belong together are bound all or none.

Whoever decides from a picture of the cluster takes a turn first: a write of one key, `keys.TURN`, whose revision each
bind of it compares. Invariant: between a turn and each of its binds nobody else has bound with a turn. So who takes
one, and waits until its picture has come so far, knows of all that was bound, by whomever and under whichever lease;
and as long as there is one scheduler, that costs a compare.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.api import errors, meta
from cluster.api.errors import ApiError, FenceLost
from cluster.api.scheme import SCHEME
from cluster.registry import keys
from cluster.registry.context import RequestContext
from cluster.registry.core import Core, Guard, Plan, Stale
from cluster.registry.store import Compare, Op, put, unchanged
from cluster.registry.types import Binding, Stored

PodKey = tuple[str, str]
"""(namespace, name)."""
Bound = Callable[[bytes, int, dict[str, Any]], None]
"""Told the key, the revision and the pod."""

_PODS = SCHEME.named("pods")
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Write:
    guard: Guard
    op: Op
    pod: dict[str, Any]

    def bound(self, revision: int) -> dict[str, Any]:
        """The pod as it is read at that revision."""
        return {**self.pod, "metadata": {**self.pod["metadata"], "resourceVersion": str(revision)}}


class Binder:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def take_turn(self, ctx: RequestContext, holder: str) -> tuple[int, str]:
        """(its revision, who had the last one). Watches of this process are told how far they are, which they would
        hear a while later. Raises FenceLost."""
        before = await self._core.range(keys.TURN)
        revision = await self._core.commit(ctx, Plan([], [put(keys.TURN, orjson.dumps({"holder": holder}))]))
        with suppress(ApiError):  # the turn is taken; they hear of it, only later
            await self._core.read_index(tell_watches=True)
        return revision, orjson.loads(before.kvs[0].value)["holder"] if before.kvs else ""

    async def bind(
        self,
        ctx: RequestContext,
        bindings: Sequence[Binding],
        known: Mapping[PodKey, Stored],
        *,
        together: bool = False,
        bound: Bound | None = None,
    ) -> list[ApiError | None]:
        """One outcome per binding, in order; None is success. Raises FenceLost and what concerns the whole batch."""
        if together:
            return await self._all_or_none(ctx, bindings)
        writes = await self._all(ctx, bindings, known)
        ready = [w for w in writes if isinstance(w, _Write)]
        if ready:
            try:
                revision = await self._commit(ctx, ready, explain=False)
            except Stale:
                await self._check_fence(ctx)
            else:
                if bound is not None and not ctx.dry_run:
                    for write in ready:
                        bound(write.op[1], revision, write.bound(revision))
                return [w if isinstance(w, ApiError) else None for w in writes]
        return await self._one_by_one(ctx, bindings, writes)

    async def _all(
        self, ctx: RequestContext, bindings: Sequence[Binding], known: Mapping[PodKey, Stored]
    ) -> list[_Write | ApiError]:
        """What is known and may be bound needs no read. A refusal does: what is known may be old."""
        writes: list[_Write | ApiError | None] = [self._expected(ctx, b, known) for b in bindings]
        unknown = [i for i, w in enumerate(writes) if w is None]
        read = await asyncio.gather(*(self._prepare(ctx, bindings[i], serializable=True) for i in unknown))
        for i, write in zip(unknown, read, strict=True):
            writes[i] = write
        return [w for w in writes if w is not None]

    def _expected(self, ctx: RequestContext, b: Binding, known: Mapping[PodKey, Stored]) -> _Write | None:
        stored = known.get((b.namespace, b.name))
        if stored is None or self._refuse(b, stored) is not None:
            return None
        return self._write(ctx, b, stored)

    async def _one_by_one(
        self, ctx: RequestContext, bindings: Sequence[Binding], writes: Sequence[_Write | ApiError]
    ) -> list[ApiError | None]:
        """NB: what is raised says nothing of the others, so it is raised when none of them can be written any more."""
        again = (self._again(ctx, b, w) for b, w in zip(bindings, writes, strict=True))
        ended = await asyncio.gather(*again, return_exceptions=True)
        outcomes: list[ApiError | None] = []
        for one in ended:
            if isinstance(one, FenceLost) or not (one is None or isinstance(one, ApiError)):
                raise one
            outcomes.append(one)
        return outcomes

    async def _again(self, ctx: RequestContext, b: Binding, write: _Write | ApiError) -> ApiError | None:
        return write if isinstance(write, ApiError) else await self._single(ctx, b)

    async def _all_or_none(self, ctx: RequestContext, bindings: Sequence[Binding]) -> list[ApiError | None]:
        for _ in range(_ATTEMPTS):
            writes = await asyncio.gather(*(self._prepare(ctx, b, serializable=False) for b in bindings))
            refused = [w if isinstance(w, ApiError) else None for w in writes]
            if any(refused):
                return held_back(bindings, refused)
            try:
                await self._commit(ctx, [w for w in writes if isinstance(w, _Write)])
                return refused
            except Stale:
                continue
        return [errors.conflict(_PODS, b.name) for b in bindings]

    async def _single(self, ctx: RequestContext, binding: Binding) -> ApiError | None:
        for _ in range(_ATTEMPTS):
            try:
                write = await self._prepare(ctx, binding, serializable=False)
                if isinstance(write, ApiError):
                    return write
                await self._commit(ctx, [write])
                return None
            except FenceLost:
                raise
            except ApiError as e:
                return e
            except Stale:
                continue
        return errors.conflict(_PODS, binding.name)

    async def _check_fence(self, ctx: RequestContext) -> None:
        """Raises FenceLost: then none of the batch can be bound, and none needs to be tried by itself."""
        if ctx.fence:
            await self._core.commit(ctx, Plan())

    async def _commit(self, ctx: RequestContext, writes: Sequence[_Write], *, explain: bool = True) -> int:
        ops = [] if ctx.dry_run else [w.op for w in writes]
        return await self._core.commit(ctx, Plan([w.guard for w in writes], ops), explain=explain)

    async def _prepare(self, ctx: RequestContext, b: Binding, *, serializable: bool) -> _Write | ApiError:
        key = keys.object_key(_PODS, b.namespace, b.name)
        stored = await self._core.read(key, serializable=serializable, deadline=ctx.deadline)
        if stored is None:
            return errors.not_found(_PODS, b.name)
        refusal = self._refuse(b, stored)
        if refusal is not None:
            return refusal
        return self._write(ctx, b, stored)

    def _write(self, ctx: RequestContext, b: Binding, stored: Stored) -> _Write:
        """`stored` is shared: what changes is copied."""
        status = stored.obj.get("status") or {}
        conditions = [dict(c) for c in status.get("conditions") or ()]
        meta.set_condition(conditions, {"type": "PodScheduled", "status": "True"}, self._core.clock())
        for c in conditions:
            if c["type"] == "PodScheduled":  # what was said while it was unschedulable is over
                c.pop("reason", None)
                c.pop("message", None)
        changed = {"spec": {**stored.obj["spec"], "nodeName": b.node}, "status": {**status, "conditions": conditions}}
        # A batch has no single cause: each pod keeps that of its own last write, unless the caller names one.
        cause = ctx.cause_id or stored.cause
        pod = {**stored.obj, **changed}
        value, _, _ = self._core.codec.encode(stored.key, pod, encrypt=self._core.encrypts(_PODS), cause=cause)
        return _Write(Guard(unchanged(stored.key, stored.revision)), put(stored.key, value), pod)

    @staticmethod
    def _refuse(b: Binding, stored: Stored) -> ApiError | None:
        pod = stored.obj
        if b.uid and b.uid != stored.uid:
            why = f"Precondition failed: UID in precondition: {b.uid}, UID in object meta: {stored.uid}"
            return errors.conflict("pods/binding", b.name, why)
        if not b.node:
            cause = errors.Cause("FieldValueRequired", "Required value", "target.name")
            return errors.invalid("Binding", "", b.name, [cause])
        if "deletionTimestamp" in pod["metadata"]:
            why = f"pod {b.name} is being deleted, cannot be assigned to a host"
            return errors.conflict("pods/binding", b.name, why)
        if pod["spec"].get("nodeName"):
            why = f'pod {b.name} is already assigned to node "{pod["spec"]["nodeName"]}"'
            return errors.conflict("pods/binding", b.name, why)
        if pod["spec"].get("schedulingGates"):
            return errors.conflict("pods/binding", b.name, f"pod {b.name} has non-empty .spec.schedulingGates")
        return None


def within(turn: int) -> tuple[Compare, ...]:
    """What a bind of this turn compares; nothing for 0, who has none."""
    return (unchanged(keys.TURN, turn),) if turn else ()


def held_back(bindings: Sequence[Binding], refused: Sequence[ApiError | None]) -> list[ApiError | None]:
    """The outcomes when one of those that belong together cannot be bound: none is."""
    first = next(b.name for b, why in zip(bindings, refused, strict=True) if why is not None)
    why = f"not bound, because pod {first}, which it must run together with, could not be bound"
    return [own or errors.conflict("pods/binding", b.name, why) for b, own in zip(bindings, refused, strict=True)]
