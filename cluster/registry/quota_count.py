"""What a ResourceQuota limits, counted: by looking at all that is stored, exact although charges go on meanwhile.

IO only through Core. Counting is a read of all objects at the ledger's own revision R, and then
`used = used_now + (counted_at_R - used_at_R)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.api import amounts, quota
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry import keys
from cluster.registry.context import RequestContext
from cluster.registry.core import Core
from cluster.registry.store import KeyValue, Op, prefix_end, put

Object = dict[str, Any]
Resources = Callable[[], Iterable[ResourceInfo]]  # all there are, custom ones too

QUOTAS = SCHEME.named("resourcequotas")
_PAGE = 500


@dataclass(slots=True)
class Entry:
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


def entry_of(core: Core, kv: KeyValue) -> Entry:
    return Entry(kv.key, kv.mod_revision, core.codec.decode(kv.key, kv.value, kv.mod_revision).obj)


def write(core: Core, ctx: RequestContext, entry: Entry, status: Object) -> Op:
    obj = {**entry.obj, "metadata": dict(entry.obj["metadata"]), "status": status}
    obj["metadata"].pop("resourceVersion", None)
    value, _, _ = core.codec.encode(entry.key, obj, encrypt=core.encrypts(QUOTAS), cause=ctx.cause_id)
    return put(entry.key, value)


def corrected(then: Entry, now: Entry, counted: dict[str, str]) -> dict[str, str]:
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
    entry: Entry,
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
