"""One namespace's quotas, and the writes that wait to be charged to them.

IO only through Core. Writes of one namespace that wait are charged together: racing creates cost one transaction per
batch, not one each. A refusal is given only on a view that was proved current after the write had come in.

    charge -> queue of its namespace -> batch -> one transaction { guards of all, marker, quotas } -> each its outcome
                    ^                                    |
                    └───── read again, try again ────────┘ somebody else was faster
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.api import amounts, errors, quota
from cluster.api.errors import ApiError
from cluster.api.quantity import parse_quantity
from cluster.api.scheme import ResourceInfo
from cluster.registry import keys
from cluster.registry.context import RequestContext, last_deadline
from cluster.registry.core import Core, Guard, Plan, Stale, verdict
from cluster.registry.quota_count import QUOTAS, Entry, Resources, corrected, count, entry_of, write
from cluster.registry.store import Compare, KeyValue, Op, get, prefix_end, unchanged

Object = dict[str, Any]

ROUNDS = 200  # of one batch, before its writers are told to come again
_BATCH = 64
_BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Charge:
    """`new` is what will be stored (None: it goes), `old` what is (None: it is new). `refusable`: whether it may be
    refused, which status writes and deletes are not."""

    info: ResourceInfo
    namespace: str
    name: str
    new: Object | None
    old: Object | None
    refusable: bool = True


@dataclass(slots=True)
class _Item:
    ctx: RequestContext
    plan: Plan
    charge: Charge
    outcome: asyncio.Future[int]
    rounds: int = 0

    @property
    def touched(self) -> set[bytes]:
        return {op[1] for op in self.plan.ops}


@dataclass(slots=True)
class _Verdicts:
    """How one look at the waiting writes went."""

    accepted: list[_Item] = field(default_factory=list)
    refused: list[tuple[_Item, ApiError]] = field(default_factory=list)
    deferred: list[_Item] = field(default_factory=list)
    used: dict[bytes, dict[str, str]] = field(default_factory=dict)


class Book:
    """One namespace's quotas and the writes that wait to be charged to them. One task at a time works on it."""

    def __init__(self, core: Core, namespace: str, resources: Resources, close: Callable[[], object]) -> None:
        self._core = core
        self._resources = resources
        self._namespace = namespace
        self._close = close
        self._marker = keys.quota_marker(namespace)
        self._prefix = keys.namespace_prefix(QUOTAS, namespace)
        self._marked_at = 0
        self._entries: list[Entry] = []
        self._loaded = False
        self._waiting: deque[_Item] = deque()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, ctx: RequestContext, plan: Plan, charge: Charge) -> int:
        item = _Item(ctx, plan, charge, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return await item.outcome

    async def _drain(self) -> None:
        """Until nothing waits. What goes wrong here goes wrong for all who wait."""
        try:
            while self._waiting:
                await self._round()
        except (ApiError, Stale) as e:
            self._fail(e)
        except BaseException:
            self._fail(errors.server_timeout(QUOTAS, "charge"))
            raise
        finally:
            self._task = None
            if not self._entries and self._loaded:
                self._close()

    def _fail(self, why: Exception) -> None:
        while self._waiting:
            _settle(self._waiting.popleft(), why)

    async def _round(self) -> None:
        if not self._loaded:
            await self._load(_together(list(self._waiting)))
        items = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        items = [i for i in items if not i.outcome.done()]
        try:
            left = await self._settle_batch(items)
        except (ApiError, Stale, OSError) as e:
            for item in items:
                _settle(item, e)
            self._loaded = False
            return
        except BaseException:
            for item in items:  # they wait no longer with the others: nobody else would answer them
                _settle(item, errors.server_timeout(QUOTAS, "charge"))
            raise
        self._waiting.extendleft(reversed(left))

    async def _settle_batch(self, items: list[_Item]) -> list[_Item]:
        """Those that have to be looked at again."""
        seen = self._judge(items)
        if not seen.accepted:
            if not seen.refused:
                return seen.deferred
            await self._load(_together(items))  # only a view of now may refuse
            seen = self._judge(items)
        if seen.accepted:
            again = await self._commit(seen)
            if again is not None:
                return _aged([*again, *(i for i, _ in seen.refused), *seen.deferred])
        for item, why in seen.refused:
            _settle(item, why)
        return seen.deferred

    def _judge(self, items: Sequence[_Item]) -> _Verdicts:
        out = _Verdicts(used={e.key: dict(e.used) for e in self._entries})
        quotas = {e.key for e in self._entries}
        touched: set[bytes] = set()
        size = 0
        for item in items:
            own = item.touched
            needs = own | {g.compare[0] for g in item.plan.guards}
            full = bool(out.accepted) and size + item.plan.put_bytes > _BATCH_BYTES
            # A quota that goes has a batch without charges: one transaction cannot delete its ledger and write to it.
            if touched & needs or touched & quotas or (out.accepted and own & quotas) or full:
                out.deferred.append(item)  # it depends on what another of this batch writes
                continue
            why = self._weigh(item, out.used)
            if why is not None:
                out.refused.append((item, why))
                continue
            out.accepted.append(item)
            touched |= own
            size += item.plan.put_bytes
        return out

    def _weigh(self, item: _Item, used: dict[bytes, dict[str, str]]) -> ApiError | None:
        """Charge `used`, or say why not and leave it as it is."""
        c = item.charge
        cost = quota.usage(c.info, c.new) if c.new is not None else {}
        before = quota.usage(c.info, c.old) if c.old is not None else {}
        charged: list[tuple[bytes, dict[str, str]]] = []
        touched = item.touched  # a quota that goes is not charged for going
        for e in self._entries:
            fits = c.new is not None and quota.matches(e.obj, c.info, c.new)
            did = c.old is not None and quota.matches(e.obj, c.info, c.old)
            if fits and c.refusable and c.info.name == "pods" and c.new is not None:
                lacking = quota.missing([r for r in e.hard if quota.tracks(c.info, r)], c.new)
                if lacking:
                    return errors.forbidden(c.info, c.name, f"failed quota: {e.name}: {lacking}")
            delta = amounts.minus(cost if fits else {}, before if did else {})
            delta = {k: v for k, v in delta.items() if k in e.hard and parse_quantity(v)}
            if not delta or e.key in touched:
                continue
            over = quota.exceeded(e.hard, used[e.key], delta) if c.refusable else []
            if over:
                return errors.forbidden(c.info, c.name, _exceeded(e, over, delta, used[e.key]))
            charged.append((e.key, delta))
        if not item.ctx.dry_run:
            for key, delta in charged:
                used[key] = {**used[key], **amounts.plus({k: used[key].get(k, "0") for k in delta}, delta)}
        return None

    async def _commit(self, seen: _Verdicts) -> list[_Item] | None:
        """None when all accepted are done; else those to be tried again, from a newer view."""
        core, ctx = self._core, seen.accepted[0].ctx
        compares: list[Compare] = [unchanged(self._marker, self._marked_at)]
        compares += [unchanged(e.key, e.revision) for e in self._entries]
        ops: list[Op] = []
        for e in self._entries:
            if seen.used[e.key] != e.used:
                ops.append(write(core, ctx, e, {**(e.obj.get("status") or {}), "used": seen.used[e.key]}))
        changed = {op[1] for op in ops}
        for item in seen.accepted:
            compares += [*item.ctx.fence, *(g.compare for g in item.plan.guards)]
            ops += item.plan.ops
        compares = list(dict.fromkeys(compares))
        watched = list(dict.fromkeys(c[0] for c in compares))
        view = get(self._prefix, prefix_end(self._prefix))
        result = await core.write([i.ctx for i in seen.accepted], compares, ops, [view, *(get(k) for k in watched)])
        if result.succeeded:
            for item in seen.accepted:
                _settle(item, result.revision)
            for e in self._entries:
                if e.key in changed:
                    e.obj = {**e.obj, "status": {**(e.obj.get("status") or {}), "used": seen.used[e.key]}}
                    e.revision = result.revision
            return None
        found: dict[bytes, KeyValue | None] = dict.fromkeys(watched)
        for key, response in zip(watched, result.responses[1:], strict=True):
            found[key] = response[1][0] if response[1] else None
        self._loaded = False
        again: list[_Item] = []
        for item in seen.accepted:
            why = verdict(item.ctx, item.plan, found)
            if why is None:
                again.append(item)
            else:
                _settle(item, why)
        return again

    async def _load(self, ctx: RequestContext) -> None:
        """Marker and quotas at one revision; what is not counted yet is counted."""
        for _ in range(ROUNDS):
            view = [get(self._marker), get(self._prefix, prefix_end(self._prefix))]
            result = await self._core.txn([], view, [], deadline=ctx.deadline)
            found, quotas = (r[1] for r in result.responses)
            self._marked_at = found[0].mod_revision if found else 0
            self._entries = [entry_of(self._core, kv) for kv in quotas] if found else []
            unknown = [e for e in self._entries if not e.counted]
            if not unknown:
                self._loaded = True
                return
            for e in unknown:
                await self._count(ctx, e, result.revision)
        raise errors.server_timeout(QUOTAS, "count")

    async def _count(self, ctx: RequestContext, entry: Entry, revision: int) -> None:
        counted = await count(self._core, self._resources(), self._namespace, entry, revision, ctx.deadline)
        status = {"hard": dict(entry.hard), "used": corrected(entry, entry, counted)}
        guard = Guard(unchanged(entry.key, entry.revision))
        try:
            await self._core.commit(ctx, Plan([guard], [write(self._core, ctx, entry, status)]))
        except Stale:
            return  # read again: somebody else counted, or charged


def _settle(item: _Item, outcome: int | Exception) -> None:
    if item.outcome.done():
        return  # its writer has gone
    if isinstance(outcome, int):
        item.outcome.set_result(outcome)
    else:
        item.outcome.set_exception(outcome)


def _aged(items: list[_Item]) -> list[_Item]:
    """Without those that were tried too often."""
    out = []
    for item in items:
        item.rounds += 1
        if item.outcome.done():
            continue  # its writer gave up waiting
        if item.rounds < ROUNDS:
            out.append(item)
        else:
            _settle(item, errors.server_timeout(item.charge.info, "create", 1))
    return out


def _together(items: Sequence[_Item]) -> RequestContext:
    """The first's context with the last's deadline: what is read for all must not end with the most hurried."""
    callers = [i.ctx for i in items]
    return replace(callers[0], deadline=last_deadline(callers))


def _exceeded(entry: Entry, over: list[str], delta: dict[str, str], used: dict[str, str]) -> str:
    requested, spent = ({k: side.get(k, "0") for k in over} for side in (delta, used))
    limited = {k: str(entry.hard[k]) for k in over}
    return (
        f"exceeded quota: {entry.name}, requested: {quota.text(requested)}, used: {quota.text(spent)}, "
        f"limited: {quota.text(limited)}"
    )
