"""Create, update and patch: one path from input to transaction for every writer.

IO only through Core. A write is: read, make the new object, strategy, defaults, admission, validation, managed
fields, encode, one guarded transaction. When a guard says Stale the whole is done again from a fresh read, so what is
validated is what is stored. A write that changes nothing is answered without a transaction.

    input -> decode -> strategy -> defaults -> managedFields -> admission -> validate -> encode -> txn
                ^                                                                                   |
                └───────────────────────────── Stale: read again ───────────────────────────────────┘

As in Kubernetes, nobody owns what admission sets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.api import defaults, errors, managed, meta, schema, typecheck, validation
from cluster.api.errors import ApiError, FenceLost
from cluster.api.scheme import ResourceInfo
from cluster.api.validation import advice
from cluster.registry import keys, owners
from cluster.registry.addresses import IP_ADDRESSES
from cluster.registry.admission import Admission, Request
from cluster.registry.allocate import ServiceAllocator
from cluster.registry.catalog import Catalog, terminating
from cluster.registry.codec import body_of, splice
from cluster.registry.context import RequestContext
from cluster.registry.core import LEASE_NOT_FOUND, Core, Guard, Plan, Stale, namespace_guard
from cluster.registry.expiry import Expiry
from cluster.registry.known import Known, LookUp
from cluster.registry.moulds import Mould, mould_of
from cluster.registry.quota import QuotaLedger
from cluster.registry.quota_book import Charge
from cluster.registry.quota_count import QUOTAS
from cluster.registry.store import delete, put, unchanged
from cluster.registry.strategies import Strategy, bump_generation, merge_for_update, stamp_new, strategy_for
from cluster.registry.types import Stored
from cluster.registry.write_checks import (
    advise,
    check_namespace,
    check_preconditions,
    check_type,
    finished,
    free,
    gone_or_stale,
    manager_of,
    misplaced,
    refuse,
    to_generate,
    unchanged_object,
    warn,
)

Object = dict[str, Any]
Make = Callable[[Object], Object | None]

_ATTEMPTS = 8
_REFUSALS = (400, 403, 404, 409, 410, 422)
"""What a guard says, or a quota: nothing was written. Other codes of a commit are the store's, and may be otherwise."""
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_MAX_PREFIX = 58


@dataclass(frozen=True, slots=True)
class Draft:
    """An object as it will be stored, and its transaction. `body` is its JSON, `offset` where its resourceVersion goes;
    `lease` is 0 for what does not expire; `cast`: `obj` was made from another's, and nobody has it yet."""

    key: bytes
    obj: Object
    plan: Plan
    charge: Charge | None
    body: bytes
    offset: int
    lease: int
    cast: bool = False


@dataclass(frozen=True, slots=True)
class _Wish:
    """A change that somebody wants of an object."""

    ctx: RequestContext
    info: ResourceInfo
    name: str
    make: Make
    subresource: str
    manage: Callable[[Object, Object], None] | None


@dataclass(frozen=True, slots=True)
class _Change:
    """What was judged to become of `current`; without a draft, that it goes."""

    current: Stored
    plan: Plan
    draft: Draft | None


class Writer:
    """`create` and `change`; Registry's create, update, modify and patch are these with different makers."""

    def __init__(self, core: Core, admission: Admission, catalog: Catalog) -> None:
        self._core = core
        self._catalog = catalog
        self._admission = admission
        self._services = ServiceAllocator(core)
        self._expiry = Expiry(core)
        self._known = Known(core)
        self.ledger = QuotaLedger(core, core.config.admission.enabled("ResourceQuota"), catalog.all)

    def start_from(self, look_up: LookUp) -> None:
        """Where changes start from; see `known`."""
        self._known.look_up = look_up

    # --- create

    async def create(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        body: Object,
        *,
        manage: Callable[[Object], None] | None = None,
    ) -> Stored:
        """`manage` sets managedFields in place of the plain creator's (server-side apply)."""
        clean = await self._core.apart(ctx.body_bytes, self._creatable, ctx, info, namespace, body)
        generated = to_generate(clean)
        for attempt in range(_ATTEMPTS):
            obj = clean if attempt == 0 else self._decode(ctx, info, body, quiet=True)
            self._address(info, namespace, obj)
            if generated:
                obj["metadata"]["name"] = self._generate(generated)
            try:
                draft = await self._drafted(ctx, info, obj, attempt, manage)
                stored = self.written(ctx, draft, await self.store(ctx, draft))
            except Stale:
                continue
            except ApiError as e:
                if not (generated and e.reason == "AlreadyExists"):
                    raise
            else:
                if info is QUOTAS and not ctx.dry_run:
                    await self._count(ctx, namespace, obj["metadata"]["name"])
                return stored
        raise errors.server_timeout(info, "create", 1)

    async def draft(self, ctx: RequestContext, info: ResourceInfo, namespace: str, body: Object) -> Draft:
        """The creation of an object, up to its transaction."""
        obj = self._creatable(ctx, info, namespace, body)
        generated = to_generate(obj)
        if generated:
            obj["metadata"]["name"] = self._generate(generated)
        return await self._drafted(ctx, info, obj, 0, None)

    def mould(self, info: ResourceInfo, body: Object, draft: Draft) -> Mould | None:
        """What objects like `body`, of which `draft` was made, can be cast from."""
        if len(draft.plan.ops) != 1:
            return None
        metadata = draft.obj["metadata"]
        created = metadata["creationTimestamp"]
        own = {draft.key, keys.namespace_phase(metadata.get("namespace", ""))}  # whose words name the object
        guards = tuple(g for g in draft.plan.guards if g.compare[0] not in own)
        return mould_of(info.name, body, draft.obj, created, draft.lease, guards)

    def cast(self, ctx: RequestContext, info: ResourceInfo, mould: Mould, body: Object) -> Draft | None:
        """As `draft`, of an object that is like the mould's; None when it is not, or needs more than a cast. Raises
        ApiError 422. It is not looked at for warnings: in-process callers, who alone create many, read none."""
        core, values = self._core, mould.values(body)
        if values is None or mould.created != meta.rfc3339(core.clock()):
            return None
        namespace, name = body["metadata"].get("namespace", ""), values[0] or to_generate(body)
        if not name:
            return None
        if not values[0]:
            name = values[0] = self._generate(name)
        obj, encoded = mould.cast(values, meta.uuid4(core.rng.getrandbits(128)))
        if len(encoded) > core.config.max_object_bytes:
            return None
        refuse(info, obj, validation.create(info, obj))
        if mould.lease and not self._expiry.again(mould.lease):
            return None
        key = keys.object_key(info, namespace, name)
        plan = Plan(list(mould.guards))
        self._guard_creation(info, namespace, name, key, plan)
        charge = self.ledger.charge(info, namespace, name, obj, None)
        sealed = core.codec.seal(key, obj, encoded, mould.offset, encrypt=core.encrypts(info), cause=ctx.cause_id)
        plan.ops.append(put(key, sealed, mould.lease))
        return Draft(key, obj, plan, charge, encoded, mould.offset, mould.lease, cast=True)

    def _creatable(self, ctx: RequestContext, info: ResourceInfo, namespace: str, body: Object) -> Object:
        """The clean object that is to be created, if its kind can be."""
        if "create" not in info.verbs:
            raise errors.method_not_supported(info, "create")
        clean = self._decode(ctx, info, body)
        self._address(info, namespace, clean)
        if info.custom is not None and info.custom.terminating:
            raise terminating(info, clean["metadata"].get("name", ""))
        return clean

    async def _drafted(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        obj: Object,
        attempt: int,
        manage: Callable[[Object], None] | None,
    ) -> Draft:
        core, size = self._core, ctx.body_bytes
        await core.apart(size, self._prepare_new, ctx, info, obj, manage)
        namespace, plan = obj["metadata"].get("namespace", ""), Plan()
        request = Request(ctx, info, "CREATE", namespace, obj["metadata"].get("name", ""), obj, None, plan)
        await self._mutate(request)
        await core.apart(size, self._judge_new, ctx, info, obj)
        await self._admission.validate(request)
        metadata = obj["metadata"]
        name = metadata["name"]
        if info.name == "services":
            await self._services.allocate(info, obj, None, plan, attempt)
        key = keys.object_key(info, namespace, name)
        self._guard_creation(info, namespace, name, key, plan)
        charge = self.ledger.charge(info, namespace, name, obj, None)
        if info is QUOTAS:
            await self.ledger.restructure(ctx, plan, namespace, key, removed=False)
        return await self._encoded(ctx, info, key, obj, plan, strategy_for(info), charge, whole=manage is not None)

    def _prepare_new(
        self, ctx: RequestContext, info: ResourceInfo, obj: Object, manage: Callable[[Object], None] | None
    ) -> None:
        """What comes before admission."""
        core, strategy, now = self._core, strategy_for(info), self._core.clock()
        stamp_new(obj, meta.uuid4(core.rng.getrandbits(128)), now, strategy)
        strategy.asked_by(obj, ctx.user)
        defaults.apply(info, obj)
        warn(ctx, owners.kept_once(obj["metadata"]))
        if manage is not None:
            manage(obj)
        else:
            managed.on_create(schema.node_of(info), obj, manager_of(ctx), now)

    def _judge_new(self, ctx: RequestContext, info: ResourceInfo, obj: Object) -> None:
        """What comes once admission has changed what it wanted. Raises ApiError 422."""
        strategy_for(info).on_create(obj, self._core.clock())
        if info.name == "services":
            self._services.settle(info, obj, None)
        refuse(info, obj, validation.create(info, obj))
        advise(ctx, advice.warnings(info, obj))

    def _guard_creation(self, info: ResourceInfo, namespace: str, name: str, key: bytes, plan: Plan) -> None:
        """The key is free, and what it will be in is there: its namespace, which is not ending, and its definition."""
        plan.guards.insert(0, free(info, name, key))
        if info.custom is not None:
            plan.guards.insert(0, self._catalog.exists(info, name))
        if info.namespaced:
            plan.guards.insert(0, namespace_guard(info, namespace, name))
        elif info.name == "namespaces":
            plan.ops.append(put(keys.namespace_phase(name), keys.ACTIVE))

    def _generate(self, prefix: str) -> str:
        return prefix[:_MAX_PREFIX] + "".join(self._core.rng.choices(_SUFFIX_ALPHABET, k=5))

    # --- change

    async def change(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        make: Make,
        *,
        subresource: str = "",
        manage: Callable[[Object, Object], None] | None = None,
    ) -> Stored:
        """Replace the object by `make(fresh decoded copy)`; None leaves it. The new object's resourceVersion, if any,
        must be the current one. Conflicts that the caller did not ask for are retried. The first try starts from what
        is known of the object, if anything is: what comes of it is believed only if it was written, or if the object
        turns out to be as it was known."""
        key = keys.object_key(info, namespace, name)
        wish = _Wish(ctx, info, name, make, subresource, manage)
        known = self._known.of(info, key)
        outcome: Stored | ApiError | None = None
        if known is not None:
            done, outcome = await self._from_known(wish, known)
            if done is not None:
                return done
        for attempt in range(_ATTEMPTS):
            current = await self._core.read(key, deadline=ctx.deadline)
            if current is None:
                raise errors.not_found(info, name)
            if known is not None and outcome is not None and current.revision == known.revision:
                if isinstance(outcome, ApiError):
                    raise outcome
                return outcome
            try:
                judged = await self._judged(wish, current, attempt)
                return judged if isinstance(judged, Stored) else await self._changed(wish, judged)
            except Stale:
                await asyncio.sleep(0)
        raise errors.conflict(info, name)

    async def _from_known(self, wish: _Wish, known: Stored) -> tuple[Stored | None, Stored | ApiError | None]:
        """(what was written, else None; what to answer if the object is as it was known). Raises what the store says
        of a commit, as nobody may know whether it took effect, and FenceLost."""
        try:
            judged = await self._judged(wish, known, 0)
        except Stale:
            return None, None
        except ApiError as e:  # whatever it is, nothing was to be written yet
            return None, e
        if isinstance(judged, Stored):
            return None, judged
        try:
            return await self._changed(wish, judged), None
        except Stale:
            return None, None
        except ApiError as e:
            if isinstance(e, FenceLost) or e.code not in _REFUSALS:
                raise
            return None, e

    async def _judged(self, wish: _Wish, current: Stored, attempt: int) -> _Change | Stored:
        """Everything up to the transaction; the object itself when it stays as it is."""
        ctx, info, subresource = wish.ctx, wish.info, wish.subresource
        # Stored in a version that is no longer the storage version: written even if unchanged.
        outdated = info.custom is not None and _outdated(info, current)
        current = await self._core.served(info, current)
        core, strategy, old = self._core, strategy_for(info), current.obj
        name, namespace = old["metadata"]["name"], old["metadata"].get("namespace", "")
        size = max(ctx.body_bytes, len(current.raw))
        new = await core.apart(size, _made, wish.make, current)
        if new is None:
            return current
        conditional = check_preconditions(info, current, name, new["metadata"])
        await core.apart(size, self._prepare_change, ctx, info, new, old, subresource, wish.manage)
        plan = Plan()
        request = Request(ctx, info, "UPDATE", namespace, name, new, old, plan, subresource)
        await self._mutate(request)
        await core.apart(size, self._judge_change, request)
        await self._admission.validate(request)
        if info.name == "services" and subresource == "":
            await self._services.allocate(info, new, old, plan, attempt)
        bump_generation(new, old, strategy)
        stale_key = core.encrypts(info) and current.key_id != core.codec.primary
        if unchanged_object(new, old) and not outdated and not stale_key:
            return current  # else it is written for the key's sake: that is how a key is rotated
        plan.guards.insert(0, Guard(unchanged(current.key, current.revision), gone_or_stale(info, name, conditional)))
        if finished(new, strategy):
            return _Change(current, plan, None)
        charge = self.ledger.charge(info, namespace, name, new, old, subresource)
        whole = wish.manage is not None
        draft = await self._encoded(ctx, info, current.key, new, plan, strategy, charge, whole=whole)
        return _Change(current, plan, draft)

    async def _changed(self, wish: _Wish, change: _Change) -> Stored:
        """Commit it."""
        ctx, info, current = wish.ctx, wish.info, change.current
        if change.draft is None:
            return await self._remove(ctx, info, current, change.plan)
        stored = self.written(ctx, change.draft, await self.store(ctx, change.draft), current)
        if not ctx.dry_run:
            self._known.wrote(stored)
            if info is QUOTAS and not wish.subresource:
                await self._count(ctx, current.obj["metadata"].get("namespace", ""), wish.name)
        return stored

    def _prepare_change(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        new: Object,
        old: Object,
        subresource: str,
        manage: Callable[[Object, Object], None] | None,
    ) -> None:
        """What comes before admission."""
        if old["metadata"].get("namespace"):
            new["metadata"].setdefault("namespace", old["metadata"]["namespace"])  # the URL says it as well
        merge_for_update(new, old, subresource, strategy_for(info), self._core.clock())
        if subresource not in ("status", "approval", "finalize"):
            defaults.apply(info, new)
        elif info.custom is not None:
            info.custom.default_status(new)
        warn(ctx, owners.kept_once(new["metadata"]))
        if manage is not None:
            manage(new, old)
        else:
            managed.on_update(schema.node_of(info), new, old, manager_of(ctx), subresource, self._core.clock())

    def _judge_change(self, request: Request) -> None:
        """What comes once admission has changed what it wanted. Raises ApiError 422."""
        info, new, old, subresource = request.info, request.obj or {}, request.old or {}, request.subresource
        if request.renewed:  # nobody reaches beyond what this write is for
            merge_for_update(new, old, subresource, strategy_for(info), self._core.clock())
        if info.name == "services" and subresource == "":
            self._services.settle(info, new, old)
        refuse(info, new, validation.update(info, new, old, subresource))
        if subresource not in ("status", "approval", "finalize"):
            advise(request.ctx, advice.warnings(info, new, old))

    async def _mutate(self, request: Request) -> None:
        """Admission may change the object, but not who owns what of it."""
        obj: Object = request.obj or {}
        entries = obj["metadata"].get("managedFields") or []
        await self._admission.mutate(request)
        managed.set_entries(obj, entries)
        warn(request.ctx, owners.kept_once(obj["metadata"], admitted=True))

    async def _count(self, ctx: RequestContext, namespace: str, name: str) -> None:
        """The quota is stored by now: whatever keeps it from being counted here, the first charge will count it."""
        with contextlib.suppress(ApiError):
            await self.ledger.recount(ctx, namespace, name)

    # --- shared ends

    async def _encoded(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        key: bytes,
        obj: Object,
        plan: Plan,
        strategy: Strategy,
        charge: Charge | None,
        *,
        whole: bool,
    ) -> Draft:
        """`whole`: what would be too long is not tried again without its managedFields."""
        core = self._core
        kept = obj if info.custom is None else await self._stored_form(info, obj)
        encrypt, limit = core.encrypts(info), core.config.max_object_bytes
        value, body, offset = core.codec.encode(key, kept, encrypt=encrypt, cause=ctx.cause_id)
        if len(body) > limit and not whole and len(body) - _owners_bytes(kept) <= limit:
            del kept["metadata"]["managedFields"]
            value, body, offset = core.codec.encode(key, kept, encrypt=encrypt, cause=ctx.cause_id)
        if len(body) > limit:
            raise errors.too_large(f"limit is {limit}")
        lease = await self._expiry.lease(strategy.ttl_s, ctx.deadline) if strategy.ttl_s and not ctx.dry_run else 0
        plan.ops.append(put(key, value, lease))
        if kept is not obj:  # the answer is what a read would show
            body, offset = body_of((await core.converter.read(info.custom, [orjson.loads(body)]))[0])
        return Draft(key, obj, plan, charge, body, offset, lease)

    async def store(self, ctx: RequestContext, draft: Draft) -> int:
        """The revision written. Raises Stale, and what a guard says."""
        try:
            return await self.finish(ctx, draft.plan, draft.charge)
        except ApiError as e:
            if draft.lease and e.message.endswith(LEASE_NOT_FOUND):  # a store restored from a snapshot: grant a new one
                self._expiry.forget()
                raise Stale from e
            raise

    @staticmethod
    def written(ctx: RequestContext, draft: Draft, revision: int, current: Stored | None = None) -> Stored:
        """What is answered. Of a dry run it has the revision it had; a new object has none."""
        shown = revision if not ctx.dry_run else current.revision if current is not None else 0
        raw = splice(draft.body, draft.offset, shown) if shown else draft.body
        obj = None
        if draft.cast and shown:  # what decoding would bring about, but for what objects of one mould share
            obj = {**draft.obj, "metadata": {"resourceVersion": str(shown), **draft.obj["metadata"]}}
        return Stored(draft.key, raw, revision, draft.obj["metadata"].get("uid", ""), obj, created=current is None)

    async def _stored_form(self, info: ResourceInfo, obj: Object) -> Object:
        """A custom object in its storage version."""
        if info.version == info.custom.storage:
            return obj
        stored = self._catalog.named(info.name).custom
        return (await self._core.converter.convert(stored, [orjson.loads(orjson.dumps(obj))]))[0]

    async def _remove(self, ctx: RequestContext, info: ResourceInfo, current: Stored, plan: Plan) -> Stored:
        """The last finalizer is gone: the update is the deletion."""
        plan.ops.append(delete(current.key))
        charge = await self.release(ctx, info, current.obj, plan)
        await self.finish(ctx, plan, charge)
        return current

    async def release(self, ctx: RequestContext, info: ResourceInfo, obj: Object, plan: Plan) -> Charge | None:
        """What the object held outside itself; the answer is what its quotas get back."""
        namespace, name = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        if info is QUOTAS:
            key = keys.object_key(info, namespace, name)
            await self.ledger.restructure(ctx, plan, namespace, key, removed=True)
        elif info.name == "services":
            self._services.release(obj, plan)
        elif info is IP_ADDRESSES:
            await self._services.renew(obj, plan)
        elif info.name == "namespaces":
            plan.ops.append(delete(keys.namespace_phase(name)))
        return self.ledger.charge(info, namespace, name, None, obj)

    async def finish(self, ctx: RequestContext, plan: Plan, charge: Charge | None) -> int:
        """Commit; a dry run is judged like any other and writes nothing."""
        return await self.ledger.commit(ctx, Plan(plan.guards, []) if ctx.dry_run else plan, charge)

    # --- input

    def _decode(self, ctx: RequestContext, info: ResourceInfo, body: Object, *, quiet: bool = False) -> Object:
        clean = self.decode(ctx, info, body, "" if quiet else ctx.field_validation)
        clean["kind"], clean["apiVersion"] = info.kind, info.api_version
        clean.setdefault("metadata", {})
        return clean

    def decode(self, ctx: RequestContext, info: ResourceInfo, body: Object, field_validation: str) -> Object:
        """The clean tree of a client's object; raises 400."""
        if not isinstance(body, dict):
            raise errors.bad_request(f"the object provided is not a {info.kind}")
        kind, version = body.get("kind"), body.get("apiVersion")
        if info.custom is not None:
            check_type(info, body)
        elif (kind and kind != info.kind) or (version and version != info.api_version):
            raise misplaced(info, str(kind or info.kind), str(version or info.api_version))
        if info.custom is not None:
            clean, warnings = info.custom.decode(body, field_validation, ctx.repeated)
        else:
            node = schema.node_for(info.group, info.version, info.kind)
            clean, warnings = typecheck.decode(node, body, info.version, info.kind, field_validation, ctx.repeated)
        ctx.warnings.extend(warnings)
        return clean

    def _address(self, info: ResourceInfo, namespace: str, obj: Object) -> None:
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        check_namespace(info, namespace, metadata)


def _made(make: Make, current: Stored) -> Object | None:
    return make(current.fresh())


def _outdated(info: ResourceInfo, stored: Stored) -> bool:
    return bool(stored.obj["apiVersion"] != f"{info.group}/{info.custom.storage}")


def _owners_bytes(obj: Object) -> int:
    return len(orjson.dumps(obj["metadata"].get("managedFields"))) if "managedFields" in obj["metadata"] else 0
