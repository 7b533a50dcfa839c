"""What every part of the registry shares: the store, errors, authorization and guarded transactions.

IO only through the injected Store. A transaction is made of ops and `Guard`s: a guard is a compare and what its
failure means. The guarded keys are read back in the same transaction when it fails, so the reason is known without
another round trip and cannot be a different one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.api.faults import Hit, no_fault
from cluster.api.scheme import ResourceInfo
from cluster.registry import keys
from cluster.registry.codec import Codec
from cluster.registry.context import RequestContext, last_deadline
from cluster.registry.conversion import Converter
from cluster.registry.store import Compare, KeyValue, Op, RangeResult, Store, TxnResult, get
from cluster.registry.txn_log import TxnLog
from cluster.registry.types import Attributes, Authorizer, RegistryConfig, Stored

T = TypeVar("T")
_LONG_BYTES = 64 * 1024


class Stale(Exception):
    """A guard failed in a way that reading again may cure; never leaves the registry."""


@dataclass(frozen=True, slots=True)
class Guard:
    """`fail` turns the key's present state into an error; None means "read again and retry"."""

    compare: Compare
    fail: Callable[[KeyValue | None], ApiError | None] | None = None


@dataclass(slots=True)
class Plan:
    """A transaction in the making."""

    guards: list[Guard] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    @property
    def put_bytes(self) -> int:
        """Of the values that it writes."""
        return sum(len(op[2]) for op in self.ops if op[0] == "put")


Away = Callable[..., Awaitable[Any]]


async def _here(work: Callable[..., Any], *args: Any) -> Any:
    return work(*args)


LEASE_NOT_FOUND = "etcdserver: requested lease not found"

_STORE_ERRORS: dict[str, Callable[[str], ApiError]] = {
    "outcome_unknown": lambda m: errors.timeout("request did not complete within the allotted timeout: " + m),
    "deadline_exceeded": lambda m: errors.timeout("request did not complete within the allotted timeout: " + m),
    "too_many_requests": lambda m: errors.too_many_requests(m, 1),
    "unavailable": lambda m: errors.service_unavailable("the store is not available: " + m),
    "too_large": lambda m: errors.too_large(m or "limit is 3145728"),
    "no_space": lambda m: errors.internal("etcdserver: mvcc: database space exceeded"),
    "corrupt_cluster": lambda m: errors.internal(m),
    "compacted": lambda m: errors.expired("The resourceVersion for the provided list is too old."),
    "future_revision": lambda m: errors.timeout("Too large resource version", 1),
    "lease_not_found": lambda m: errors.internal(LEASE_NOT_FOUND),
    "invalid": lambda m: errors.internal(m),
}


def from_store_error(e: Exception) -> ApiError | None:
    """The API's word for a store error, or None when `e` is not one."""
    make = _STORE_ERRORS.get(str(getattr(e, "code", "")))
    return make(str(e)) if make is not None and not isinstance(e, ApiError) else None


class Core:
    """Collaborators of all registry parts; `clock` in seconds since the epoch. `away` runs `work(*args)` elsewhere
    while the loop goes on; unless the process puts something there, it is run on the spot."""

    def __init__(
        self,
        store: Store,
        config: RegistryConfig,
        clock: Callable[[], float],
        rng: random.Random,
        authorizer: Authorizer | None,
        hit: Hit = no_fault,
    ) -> None:
        config.validate()
        self._hit = hit
        self._log = TxnLog()
        self.store = store
        self.config = config
        self.clock = clock
        self.rng = rng
        self.authorizer = authorizer
        self.codec = Codec(config.encryption_keys)
        self.converter = Converter()
        self.away: Away = _here

    async def apart(self, size_bytes: int, work: Callable[..., T], *args: Any) -> T:
        """`work(*args)`, which takes as long as the object is long: by `away` once that would hold up others."""
        if size_bytes < _LONG_BYTES:
            return work(*args)
        done: T = await self.away(work, *args)
        return done

    async def served(self, info: ResourceInfo, stored: Stored) -> Stored:
        """A stored object as `info`'s version serves it."""
        return stored if info.custom is None else await self.converter.one(info.custom, stored)

    async def authorize(
        self,
        ctx: RequestContext,
        verb: str,
        info: ResourceInfo,
        namespace: str,
        name: str = "",
        subresource: str = "",
        field_selector: str = "",
    ) -> None:
        """Raises 403 with Kubernetes' sentence unless the authorizer allows it."""
        if self.authorizer is None:
            return
        attributes = Attributes(
            verb,
            info.group,
            info.plural,
            subresource,
            namespace,
            name,
            version=info.version,
            field_selector=field_selector,
        )
        decision = await self.authorizer.authorize(ctx.user, attributes)
        if not decision.allowed:
            raise denied(ctx.user.name, attributes, decision.reason)

    async def range(self, key: bytes, range_end: bytes | None = None, **options: Any) -> RangeResult:
        try:
            return await self.store.range(key, range_end, **options)
        except Exception as e:
            mapped = from_store_error(e)
            if mapped is None:
                raise
            raise mapped from e

    async def read_index(self, *, tell_watches: bool = False) -> int:
        try:
            return await self.store.read_index(tell_watches=tell_watches)
        except Exception as e:
            mapped = from_store_error(e)
            if mapped is None:
                raise
            raise mapped from e

    async def read(self, key: bytes, *, serializable: bool = False, deadline: float | None = None) -> Stored | None:
        result = await self.range(key, serializable=serializable, deadline=deadline)
        if not result.kvs:
            return None
        kv = result.kvs[0]
        return self.codec.decode(kv.key, kv.value, kv.mod_revision)

    async def commit(self, ctx: RequestContext, plan: Plan, *, explain: bool = True) -> int:
        """Run the plan and the caller's fence; the revision written. Raises Stale, FenceLost, or what a guard says. A
        caller that goes on one by one when many do not hold together need not have it explained: Stale, whatever it
        was, for a smaller transaction."""
        compares = [*ctx.fence, *(g.compare for g in plan.guards)]
        watched = list(dict.fromkeys(c[0] for c in compares)) if explain else []
        result = await self.write([ctx], compares, plan.ops, [get(k) for k in watched])
        if result.succeeded:
            return result.revision
        if not explain:
            raise Stale
        found: dict[bytes, KeyValue | None] = dict.fromkeys(watched)
        for key, response in zip(watched, result.responses, strict=True):
            found[key] = response[1][0] if response[1] else None
        raise verdict(ctx, plan, found) or Stale()

    async def write(
        self,
        callers: Sequence[RequestContext],
        compares: Sequence[Compare],
        then: Sequence[Op],
        otherwise: Sequence[Op],
    ) -> TxnResult:
        """What every write goes through: one transaction for all `callers` (one or more), within the last of their
        deadlines, between the fault points. What fails or is slow is logged with who wanted it."""
        about = "" if self._hit is no_fault else " ".join(op[1].decode(errors="replace") for op in then)
        self._hit("before_commit", about)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            result = await self.txn(compares, then, otherwise, deadline=last_deadline(callers))
        except BaseException as e:
            self._log.failed(callers, then, clock() - began, e, clock())
            raise
        self._log.done(callers, then, clock() - began, clock())
        if result.succeeded:
            self._hit("after_commit", about)
        return result

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Op],
        otherwise: Sequence[Op],
        *,
        deadline: float | None = None,
    ) -> TxnResult:
        try:
            return await self.store.txn(compares, then, otherwise, deadline=deadline)
        except Exception as e:
            mapped = from_store_error(e)
            if mapped is None:
                raise
            raise mapped from e

    def encrypts(self, info: ResourceInfo) -> bool:
        return bool(self.config.encryption_keys) and info.name in self.config.encrypted_resources


def verdict(ctx: RequestContext, plan: Plan, found: Mapping[bytes, KeyValue | None]) -> Exception | None:
    """Why the plan's transaction cannot hold on these states of its keys: FenceLost, what a guard says, else Stale;
    None when it can."""
    for c in ctx.fence:
        if not holds(c, found[c[0]]):
            return errors.fence_lost(_lost(c[0]))
    failed = [g for g in plan.guards if not holds(g.compare, found[g.compare[0]])]
    for g in failed:
        why = g.fail(found[g.compare[0]]) if g.fail is not None else None
        if why is not None:
            return why
    return Stale() if failed else None


def _lost(key: bytes) -> str:
    if key == keys.TURN:
        return "another turn to bind pods was taken since this one"
    return f"the lease {key.decode(errors='replace')} is no longer held by this writer"


def holds(compare: Compare, kv: KeyValue | None) -> bool:
    """Evaluate a compare against a key's state; an absent key has zeros and b""."""
    _, target, op, operand = compare
    have: int | bytes
    if kv is None:
        have = b"" if target == "value" else 0
    elif target == "mod":
        have = kv.mod_revision
    elif target == "create":
        have = kv.create_revision
    elif target == "value":
        have = kv.value
    else:
        have = kv.version if target == "version" else kv.lease
    if op == "=":
        return have == operand
    if op == "!=":
        return have != operand
    if isinstance(have, int) and isinstance(operand, int):
        return have > operand if op == ">" else have < operand
    if isinstance(have, bytes) and isinstance(operand, bytes):
        return have > operand if op == ">" else have < operand
    return False


def denied(user: str, a: Attributes, reason: str) -> ApiError:
    """Kubernetes' 403."""
    info = f"{a.resource}.{a.group}" if a.group else a.resource
    if a.path:
        return errors.forbidden(
            "", "", f'User "{user}" cannot {a.verb} path "{a.path}"' + (f": {reason}" if reason else "")
        )
    what = f"{a.resource}/{a.subresource}" if a.subresource else a.resource
    where = f'in the namespace "{a.namespace}"' if a.namespace else "at the cluster scope"
    why = f'User "{user}" cannot {a.verb} resource "{what}" in API group "{a.group}" {where}'
    return errors.forbidden(info, a.name, why + (f": {reason}" if reason else ""))


def namespace_guard(info: ResourceInfo, namespace: str, name: str) -> Guard:
    """A create in `namespace` needs it Active at that very revision."""

    def fail(kv: KeyValue | None) -> ApiError:
        if kv is None:
            return errors.not_found("namespaces", namespace)
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        cause = errors.Cause("NamespaceTerminating", f"namespace {namespace} is being terminated", "metadata.namespace")
        return errors.forbidden(info, name, why, causes=[cause])

    return Guard((keys.namespace_phase(namespace), "value", "=", keys.ACTIVE), fail)
