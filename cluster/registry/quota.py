"""ResourceQuota, exact: `status.used` of a quota is a ledger that changes in the same transaction as what it counts.

IO only through Core. A write that costs (or gives back) something carries a `Charge`. A namespace with a quota has a
marker key; every charged write compares it, so no writer can overlook a quota that another process just made. The
ledger's entry and the object are one transaction, guarded by the revision of each quota of the namespace: writers in
several processes cannot both take the last place, and what is deleted gives back at once.

How writes that wait are charged together is in `quota_book`. A resource that a quota limits and `status.used` does not
know yet is counted (`quota_count`) before anything is charged to it: whoever meets it counts.

Source: k8s.io/kubernetes' resourcequota admission; there the ledger and the object are two writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from cluster.api import errors, quota
from cluster.api.scheme import ResourceInfo
from cluster.registry import keys
from cluster.registry.context import RequestContext
from cluster.registry.core import Core, Guard, Plan, Stale
from cluster.registry.quota_book import ROUNDS, Book, Charge
from cluster.registry.quota_count import QUOTAS, Entry, Resources, corrected, count, entry_of, write
from cluster.registry.store import KeyValue, delete, get, prefix_end, put, unchanged

Object = dict[str, Any]


class QuotaLedger:
    def __init__(self, core: Core, enabled: bool, resources: Resources) -> None:
        self._core = core
        self._resources = resources
        self._enabled = enabled
        self._books: dict[str, Book] = {}

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
        if namespace in self._books:
            return
        close = partial(self._books.pop, namespace, None)
        self._books[namespace] = Book(self._core, namespace, self._resources, close)

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
        for _ in range(ROUNDS):
            result = await self._core.range(keys.object_key(QUOTAS, namespace, name), deadline=ctx.deadline)
            if not result.kvs:
                return
            entry = entry_of(self._core, result.kvs[0])
            counted = await count(self._core, self._resources(), namespace, entry, result.revision, ctx.deadline)
            if await self._correct(ctx, entry, counted):
                return
        raise errors.conflict(QUOTAS, name)

    async def _correct(self, ctx: RequestContext, then: Entry, counted: dict[str, str]) -> bool:
        """Apply the difference between what was counted and what was in the ledger then to the ledger now."""
        for _ in range(ROUNDS):
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
