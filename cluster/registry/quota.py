"""ResourceQuota, exact: `status.used` of a quota is a ledger that changes in the same transaction as what it counts.

IO only through Core. A write that costs (or gives back) something carries a `Charge`. A namespace with a quota has a
marker key; every charged write compares it, so no writer can overlook a quota that another process just made. The
ledger's entry and the object are one transaction, guarded by the revision of each quota of the namespace: writers in
several processes cannot both take the last place, and what is deleted gives back at once.

    charge -> queue of its namespace -> batch -> one transaction { guards of all, marker, quotas } -> each its outcome
                    ^                                    |
                    └───── read again, try again ────────┘ somebody else was faster

Writes of one namespace that wait are charged together: racing creates cost one transaction per batch, not one each.
A refusal is given only on a view that was proved current after the write had come in.

A resource that a quota limits and `status.used` does not know yet is counted before anything is charged to it:
whoever meets it counts. Counting is a read of all objects at the ledger's own revision R, and then
`used = used_now + (counted_at_R - used_at_R)`, which is exact although charges went on meanwhile.

Source: k8s.io/kubernetes' resourcequota admission; there the ledger and the object are two writes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cluster.api import amounts, errors, quota
from cluster.api.errors import ApiError
from cluster.api.quantity import parse_quantity
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry import keys
from cluster.registry.context import RequestContext, last_deadline
from cluster.registry.core import Core, Guard, Plan, Stale, verdict
from cluster.registry.store import Compare, KeyValue, Op, delete, get, prefix_end, put, unchanged

Object = dict[str, Any]
Resources = Callable[[], Iterable[ResourceInfo]]  # all there are, custom ones too

QUOTAS = SCHEME.named("resourcequotas")
_BATCH = 64
_BATCH_BYTES = 1 << 20
_PAGE = 500
_ROUNDS = 200  # of one batch, before its writers are told to come again


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
class _Entry:
    """One quota as last read."""

    key: bytes
    revision: int
    obj: Object

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])

    @property
    def hard(self) -> dict[str, Any]:
        return self.obj.get("spec", {}).get("hard") or {}

    @property
    def used(self) -> dict[str, str]:
        return (self.obj.get("status") or {}).get("used") or {}

    @property
    def counted(self) -> bool:
        return all(r in self.used for r in self.hard)

    @property
    def says_hard(self) -> bool:
        return bool((self.obj.get("status") or {}).get("hard") == self.hard)


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

    @property
    def bytes(self) -> int:
        return sum(len(op[2]) for op in self.plan.ops if op[0] == "put")


class QuotaLedger:
    def __init__(self, core: Core, enabled: bool, resources: Resources) -> None:
        self._core = core
        self._resources = resources
        self._enabled = enabled
        self._books: dict[str, _Book] = {}

    def charge(
        self,
        info: ResourceInfo,
        namespace: str,
        name: str,
        new: Object | None,
        old: Object | None,
        subresource: str = "",
    ) -> Charge | None:
        """What a write costs; None when it cannot cost anything."""
        if not self._enabled or not info.namespaced or info.name in quota.IGNORED:
            return None
        if new is not None and old is not None and not quota.may_change(info, new, old):
            return None
        refusable = new is not None and subresource in ("", "resize")
        return Charge(info, namespace, name, new, old, refusable)

    async def commit(self, ctx: RequestContext, plan: Plan, charge: Charge | None) -> int:
        """The plan, and its charge, as one. Raises what Core.commit raises, and 403 when a quota is exceeded."""
        if charge is None:
            return await self._core.commit(ctx, plan)
        if charge.namespace not in self._books:
            try:
                return await self.commit_uncounted(ctx, plan, [charge])
            except Stale:
                if charge.namespace not in self._books:
                    raise
        return await self._books[charge.namespace].submit(ctx, plan, charge)

    async def commit_uncounted(self, ctx: RequestContext, plan: Plan, charges: Sequence[Charge]) -> int:
        """The plan of any number of writes, as long as no namespace of theirs has a quota. Raises Stale when one has,
        and what Core.commit raises, which explains what is wrong with one write, not with many."""
        namespaces = dict.fromkeys(charge.namespace for charge in charges)
        if not self._books.keys().isdisjoint(namespaces):
            raise Stale
        guards = [Guard(unchanged(keys.quota_marker(name), 0), partial(self._meet, name)) for name in namespaces]
        explain = len(charges) == 1
        return await self._core.commit(ctx, Plan([*plan.guards, *guards], plan.ops), explain=explain)

    def _meet(self, namespace: str, _: KeyValue | None) -> None:
        close = partial(self._books.pop, namespace, None)
        self._books[namespace] = _Book(self._core, namespace, self._resources, close)

    async def restructure(self, ctx: RequestContext, plan: Plan, namespace: str, key: bytes, *, removed: bool) -> None:
        """A quota comes or goes: the namespace's marker with it."""
        marker, prefix = keys.quota_marker(namespace), keys.namespace_prefix(QUOTAS, namespace)
        view = [get(marker), get(prefix, prefix_end(prefix))]
        result = await self._core.txn([], view, [], deadline=ctx.deadline)
        found, quotas = (r[1] for r in result.responses)
        plan.guards.append(Guard(unchanged(marker, found[0].mod_revision if found else 0)))
        last = removed and all(kv.key == key for kv in quotas)
        plan.ops.append(delete(marker) if last else put(marker, b"1"))

    async def recount(self, ctx: RequestContext, namespace: str, name: str) -> None:
        """Bring a quota's status in line with what is stored, whatever it says now."""
        if not self._enabled:
            return
        for _ in range(_ROUNDS):
            result = await self._core.range(keys.object_key(QUOTAS, namespace, name), deadline=ctx.deadline)
            if not result.kvs:
                return
            entry = entry_of(self._core, result.kvs[0])
            counted = await count(self._core, self._resources(), namespace, entry, result.revision, ctx.deadline)
            if await self._correct(ctx, entry, counted):
                return
        raise errors.conflict(QUOTAS, name)

    async def _correct(self, ctx: RequestContext, then: _Entry, counted: dict[str, str]) -> bool:
        """Apply the difference between what was counted and what was in the ledger then to the ledger now."""
        for _ in range(_ROUNDS):
            stored = await self._core.range(then.key, deadline=ctx.deadline)
            if not stored.kvs:
                return True
            now = entry_of(self._core, stored.kvs[0])
            if now.hard != then.hard or now.obj["metadata"]["uid"] != then.obj["metadata"]["uid"]:
                return False
            fixed = corrected(then, now, counted)
            if now.says_hard and fixed == now.used:
                return True
            status = {"hard": dict(now.hard), "used": fixed}
            plan = Plan([Guard(unchanged(now.key, now.revision))], [write(self._core, ctx, now, status)])
            try:
                await self._core.commit(ctx, plan)
                return True
            except Stale:
                await asyncio.sleep(0)
        return False


def entry_of(core: Core, kv: KeyValue) -> _Entry:
    return _Entry(kv.key, kv.mod_revision, core.codec.decode(kv.key, kv.value, kv.mod_revision).obj)


def write(core: Core, ctx: RequestContext, entry: _Entry, status: Object) -> Op:
    obj = {**entry.obj, "metadata": dict(entry.obj["metadata"]), "status": status}
    obj["metadata"].pop("resourceVersion", None)
    value, _, _ = core.codec.encode(entry.key, obj, encrypt=core.encrypts(QUOTAS), cause=ctx.cause_id)
    return put(entry.key, value)


def corrected(then: _Entry, now: _Entry, counted: dict[str, str]) -> dict[str, str]:
    out = {}
    for r in now.hard:
        if r in then.used and r in now.used:
            out[r] = amounts.plus({r: now.used[r]}, amounts.minus({r: counted[r]}, {r: then.used[r]}))[r]
        else:
            out[r] = counted[r]
    return out


async def count(
    core: Core,
    resources: Iterable[ResourceInfo],
    namespace: str,
    entry: _Entry,
    revision: int,
    deadline: float | None,
) -> dict[str, str]:
    """What the quota's resources amount to at `revision`."""
    total = dict.fromkeys(entry.hard, "0")
    for info in resources:
        if not info.namespaced or not any(quota.tracks(info, r) for r in entry.hard):
            continue
        prefix = keys.namespace_prefix(info, namespace)
        start, more = prefix, True
        while more:
            page = await core.range(start, prefix_end(prefix), revision=revision, limit=_PAGE, deadline=deadline)
            for kv in page.kvs:
                start = kv.key + b"\0"
                obj = core.codec.decode(kv.key, kv.value, kv.mod_revision).obj
                if quota.matches(entry.obj, info, obj):
                    cost = quota.usage(info, obj)
                    total.update(amounts.plus({r: total[r] for r in cost if r in total}, _of(cost, total)))
            more = page.more
    return total


def _of(cost: dict[str, str], limited: Mapping[str, Any]) -> dict[str, str]:
    return {r: v for r, v in cost.items() if r in limited}


@dataclass(slots=True)
class _Verdicts:
    """How one look at the waiting writes went."""

    accepted: list[_Item] = field(default_factory=list)
    refused: list[tuple[_Item, ApiError]] = field(default_factory=list)
    deferred: list[_Item] = field(default_factory=list)
    used: dict[bytes, dict[str, str]] = field(default_factory=dict)


class _Book:
    """One namespace's quotas and the writes that wait to be charged to them. One task at a time works on it."""

    def __init__(self, core: Core, namespace: str, resources: Resources, close: Callable[[], object]) -> None:
        self._core = core
        self._resources = resources
        self._namespace = namespace
        self._close = close
        self._marker = keys.quota_marker(namespace)
        self._prefix = keys.namespace_prefix(QUOTAS, namespace)
        self._marked_at = 0
        self._entries: list[_Entry] = []
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
            full = bool(out.accepted) and size + item.bytes > _BATCH_BYTES
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
            size += item.bytes
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
        for _ in range(_ROUNDS):
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

    async def _count(self, ctx: RequestContext, entry: _Entry, revision: int) -> None:
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
        if item.rounds < _ROUNDS:
            out.append(item)
        else:
            _settle(item, errors.server_timeout(item.charge.info, "create", 1))
    return out


def _together(items: Sequence[_Item]) -> RequestContext:
    """The first's context with the last's deadline: what is read for all must not end with the most hurried."""
    callers = [i.ctx for i in items]
    return replace(callers[0], deadline=last_deadline(callers))


def _exceeded(entry: _Entry, over: list[str], delta: dict[str, str], used: dict[str, str]) -> str:
    requested, spent = ({k: side.get(k, "0") for k in over} for side in (delta, used))
    limited = {k: str(entry.hard[k]) for k in over}
    return (
        f"exceeded quota: {entry.name}, requested: {quota.text(requested)}, used: {quota.text(spent)}, "
        f"limited: {quota.text(limited)}"
    )
