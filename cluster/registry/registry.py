"""The registry: one code path for every read and write of API objects, whoever makes it.

IO only through the injected Store; no clock, randomness or thread of its own. Authorization, admission, validation and
managed fields are inside, so a controller in process passes the same rules as a client over HTTPS.

    Registry ─┬─ Reader   get, list, watch
              ├─ Writer   create, update, modify, patch      (admission, validation, allocation, managed fields)
              ├─ BatchCreator  create_all                    (the same way each, few transactions for all)
              ├─ Deleter  delete                             (grace, finalizers, propagation)
              ├─ GroupDeleter  delete_collection, controllers' (the same way each, few transactions for all)
              ├─ Binder   bind                               (one transaction for a batch of pods)
             └─ Evictor  create pods/eviction               (a deletion that a disruption budget may refuse)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from cluster.api import errors, schema, scheme, typecheck
from cluster.api.errors import ApiError
from cluster.api.faults import Hit, no_fault
from cluster.api.scheme import ResourceInfo
from cluster.api.selectors import FieldSelector, LabelSelector
from cluster.registry import keys, patching, scale, viewing
from cluster.registry.admission import Admission, Request
from cluster.registry.admission.webhooks import WebhookDispatcher
from cluster.registry.batches import BatchCreator, Created
from cluster.registry.binding import Binder, Bound, PodKey, held_back, within
from cluster.registry.catalog import Catalog
from cluster.registry.context import RequestContext
from cluster.registry.conversion import Converter
from cluster.registry.core import Away, Core, Plan
from cluster.registry.deletion import Deleter
from cluster.registry.eviction import Evictor
from cluster.registry.group_deletes import GroupDeleter
from cluster.registry.known import LookUp
from cluster.registry.quota_count import QUOTAS
from cluster.registry.reading import Filter, Reader, check_fields
from cluster.registry.store import Store
from cluster.registry.types import Authorizer, Binding, DeleteOptions, RegistryConfig, Stored, StoredList, WatchEvent
from cluster.registry.writing import Writer

Object = dict[str, Any]
Outcomes = list[ApiError | None]
_DELETED_AT_ONCE = 256


class Registry:
    """All methods raise ApiError. `authorizer` None trusts the caller (bootstrap and tests). `hit`: fault points
    before_commit and after_commit of every write, about the keys it writes."""

    def __init__(
        self,
        store: Store,
        config: RegistryConfig,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        authorizer: Authorizer | None = None,
        hit: Hit = no_fault,
    ) -> None:
        self._core = Core(store, config, clock, rng, authorizer, hit)
        self._admission = admission = Admission(self._core)
        self.catalog = Catalog(self._core)
        admission.policies.find_kind = self._find_kind
        admission.equivalents.find = self.catalog.find
        self._reader = Reader(self._core)
        self._writer = Writer(self._core, admission, self.catalog)
        self._batches = BatchCreator(self._writer, admission)
        self._deleter = Deleter(self._core, self._writer, admission)
        self._group_deleter = GroupDeleter(self._core, self._writer, self._deleter, admission)
        self._binder = Binder(self._core)
        self._patcher = patching.Patcher(self._core, self._writer)
        self._evictor = Evictor(self._core, self._reader, self._patcher, self._deleter)

    @property
    def config(self) -> RegistryConfig:
        return self._core.config

    @property
    def store(self) -> Store:
        return self._core.store

    async def cluster_ip(self, namespace: str, name: str) -> str:
        """Where a Service named by a webhook or an APIService is reached; raises ApiError 503."""
        key = keys.object_key(scheme.SCHEME.named("services"), namespace, name)
        stored = await self._core.read(key)
        if stored is None:
            raise errors.service_unavailable(f'service "{name}" not found in namespace "{namespace}"')
        spec = stored.obj.get("spec") or {}
        if spec.get("type") == "ExternalName":
            return str(spec.get("externalName") or "")
        address = spec.get("clusterIP")
        if not address or address == "None":
            raise errors.service_unavailable(f'service "{namespace}/{name}" has no cluster IP')
        return str(address)

    def start_from(self, look_up: LookUp) -> None:
        """Where the newest state of objects is known without asking the store, though perhaps not the last one:
        updates and patches start from there."""
        self._writer.start_from(look_up)

    def run_long_work(self, away: Away) -> None:
        """Where work on long objects is to be done: `away(work, *args)`, while the loop serves others."""
        self._core.away = away

    @property
    def converter(self) -> Converter:
        return self._core.converter

    async def _find_kind(self, group: str, version: str, kind: str) -> ResourceInfo | None:
        """Of a policy's parameters; asks the store before it says that there is none."""
        found = self.catalog.for_kind(group, version, kind)
        if found is None and "." in group:
            await self.catalog.fresh()
            found = self.catalog.for_kind(group, version, kind)
        return found

    @property
    def webhooks(self) -> WebhookDispatcher:
        """Where the process's webhook client is put in (`.call`)."""
        return self._admission.webhooks

    async def run(self) -> None:
        """Follow what admission decides by; a registry that is not run reads it for each request."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._admission.view.run())
            group.create_task(self.catalog.run())

    # --- reads

    async def get(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, *, subresource: str = ""
    ) -> Stored:
        await self._core.authorize(ctx, "get", info, namespace, name, subresource)
        stored = await self._reader.get(scheme.SCHEME.hub(info), namespace, name, deadline=ctx.deadline)
        stored = await self._core.served(info, viewing.shown(info, stored))
        return scaled(info, stored) if scale.is_scale(info, subresource) else stored

    async def list(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str = "",
        *,
        label_selector: LabelSelector | None = None,
        field_selector: FieldSelector | None = None,
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
        resource_version_match: str = "",
    ) -> StoredList:
        await self._core.authorize(ctx, "list", info, namespace, field_selector=str(field_selector or ""))
        hub, field_selector = scheme.SCHEME.hub(info), viewing.hub_fields(info, field_selector)
        check_fields(hub, field_selector)
        where = Filter(label_selector, field_selector)
        options = (limit, continue_token, resource_version, resource_version_match)
        found = await self._reader.list(hub, namespace, where, *options, deadline=ctx.deadline)
        if info.custom is not None:
            found.items = await self._core.converter.served(info.custom, found.items)
        return viewing.shown_list(info, found)

    async def watch(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str = "",
        *,
        revision: int,
        label_selector: LabelSelector | None = None,
        field_selector: FieldSelector | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `revision`, without end; 0 begins with the present state as ADDED. 410 when it is compacted."""
        await self._core.authorize(ctx, "watch", info, namespace, field_selector=str(field_selector or ""))
        hub, field_selector = scheme.SCHEME.hub(info), viewing.hub_fields(info, field_selector)
        check_fields(hub, field_selector)
        where = Filter(label_selector, field_selector)
        async with aclosing(self._reader.watch(hub, namespace, revision, where)) as events:
            async for event in events:
                if info.custom is not None and event.type != "BOOKMARK":
                    event = WatchEvent(event.type, await self._core.served(info, event.stored))
                yield viewing.shown_event(info, event)

    # --- writes

    async def create(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        obj: Object,
        *,
        subresource: str = "",
        name: str = "",
    ) -> Stored:
        """`obj` is read, never changed. With subresource binding or eviction, `name` is the pod."""
        await self._core.authorize(ctx, "create", info, namespace, name, subresource)
        if not subresource:
            hub = scheme.SCHEME.hub(info)
            stored = await self._writer.create(ctx, hub, namespace, viewing.incoming(ctx, info, obj))
            return viewing.shown(info, stored)
        if info.name == "pods" and subresource == "binding":
            return await self._bind_one(ctx, info, namespace, name, obj)
        if info.name == "pods" and subresource == "eviction":
            return await self._evict(ctx, info, namespace, name, obj)
        raise errors.method_not_supported(info, "create")

    async def create_all(self, ctx: RequestContext, info: ResourceInfo, objects: Sequence[Object]) -> Created:
        """Create many objects, with few transactions where nothing is against it; one outcome each, in order. Each is
        decoded, admitted and validated like one created alone. Raises FenceLost, and 403 of any of their namespaces."""
        for namespace in dict.fromkeys(obj["metadata"].get("namespace", "") for obj in objects):
            await self._core.authorize(ctx, "create", info, namespace)
        hub = scheme.SCHEME.hub(info)
        made = await self._batches.create(ctx, hub, [viewing.incoming(ctx, info, obj) for obj in objects])
        return [one if isinstance(one, ApiError) else viewing.shown(info, one) for one in made]

    async def update(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        obj: Object,
        *,
        subresource: str = "",
    ) -> Stored:
        await self._core.authorize(ctx, "update", info, namespace, name, subresource)
        hub, obj = scheme.SCHEME.hub(info), viewing.incoming(ctx, info, obj)
        return viewing.shown(info, await self._patcher.replace(ctx, hub, namespace, name, obj, subresource))

    async def modify(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        fn: Callable[[Object], Object | None],
        *,
        subresource: str = "",
    ) -> Stored:
        """Write `fn(a fresh copy)`, again from a new read when someone else was faster; None leaves the object."""
        await self._core.authorize(ctx, "update", info, namespace, name, subresource)
        return await self._patcher.modify(ctx, info, namespace, name, fn, subresource)

    async def patch(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        media_type: str,
        body: Any,
        *,
        subresource: str = "",
        force: bool = False,
    ) -> Stored:
        """`body` is bytes or decoded. An apply patch creates what is missing."""
        await self._core.authorize(ctx, "patch", info, namespace, name, subresource)
        if info.view_of:
            stored = await viewing.patched(
                self._patcher, ctx, info, namespace, name, media_type, body, subresource, force
            )
            return viewing.shown(info, stored)
        return await self._patcher.patch(ctx, info, namespace, name, media_type, body, subresource, force)

    async def recount_quota(self, ctx: RequestContext, namespace: str, name: str) -> None:
        """Bring a ResourceQuota's status in line with what is stored (the resourcequota controller's work)."""
        await self._core.authorize(ctx, "update", QUOTAS, namespace, name, "status")
        await self._writer.ledger.recount(ctx, namespace, name)

    # --- deletion

    async def delete(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        options: DeleteOptions,
        *,
        grouped: bool = False,
    ) -> Stored:
        """The object as it now is; with `.removed` set, as it last was. `grouped`: it may share a transaction, and so
        a resourceVersion, with others that are deleted at the same time."""
        await self._core.authorize(ctx, "delete", info, namespace, name)
        deleter = self._group_deleter if grouped else self._deleter
        stored = await deleter.delete(ctx, scheme.SCHEME.hub(info), namespace, name, options)
        return await self._core.served(info, viewing.shown(info, stored))

    async def delete_collection(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        options: DeleteOptions,
        *,
        label_selector: LabelSelector | None = None,
        field_selector: FieldSelector | None = None,
    ) -> StoredList:
        """Delete what a list at one revision shows; objects that vanish meanwhile are no error."""
        await self._core.authorize(ctx, "deletecollection", info, namespace)
        if "deletecollection" not in info.verbs:
            raise errors.method_not_supported(info, "deletecollection")
        hub, field_selector = scheme.SCHEME.hub(info), viewing.hub_fields(info, field_selector)
        check_fields(hub, field_selector)
        found = await self._reader.list(hub, namespace, Filter(label_selector, field_selector), 0, "", "", "")
        out = StoredList([], found.revision)
        for start in range(0, len(found.items), _DELETED_AT_ONCE):
            some = found.items[start : start + _DELETED_AT_ONCE]
            asked = (self._group_deleter.delete(ctx, hub, *_named(one), options) for one in some)
            for gone in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(gone, Stored):
                    out.items.append(await self._core.served(info, viewing.shown(info, gone)))
                elif not (isinstance(gone, ApiError) and gone.reason == "NotFound"):
                    raise gone
        return out

    # --- pods

    async def take_turn(self, ctx: RequestContext, holder: str) -> tuple[int, str]:
        """From now on nobody binds under an older turn. Its revision, which the caller's picture of the pods has to
        reach before it decides, and who had the last turn."""
        await self._core.authorize(ctx, "create", scheme.SCHEME.named("pods"), "", subresource="binding")
        return await self._binder.take_turn(ctx, holder)

    async def bind(
        self,
        ctx: RequestContext,
        bindings: Sequence[Binding],
        known: Mapping[PodKey, Stored] | None = None,
        *,
        together: bool = False,
        turn: int = 0,
        bound: Bound | None = None,
    ) -> Outcomes:
        """Assign pods to nodes; one outcome each, in order. `together`: all of them or none. Raises FenceLost when the
        caller no longer leads, or another has taken a turn since `turn` (0: whoever's it is). `known`: pods as the
        caller's watch showed them, which spares reading them; they may be out of date. `bound` is told of the pods of a
        batch as they were written."""
        known = known or {}
        ctx = ctx.with_fence(*ctx.fence, *within(turn))
        pods = scheme.SCHEME.named("pods")
        for namespace in dict.fromkeys(b.namespace for b in bindings):
            await self._core.authorize(ctx, "create", pods, namespace, subresource="binding")
        if await self._admission.quiet():
            return await self._binder.bind(ctx, bindings, known, together=together, bound=bound)
        refused = [await self._refused(ctx, pods, b) for b in bindings]
        if together and any(refused):
            return held_back(bindings, refused)
        admitted = [b for b, why in zip(bindings, refused, strict=True) if why is None]
        outcomes = iter(await self._binder.bind(ctx, admitted, known, together=together) if admitted else [])
        return [why if why is not None else next(outcomes) for why in refused]

    async def _refused(self, ctx: RequestContext, info: ResourceInfo, b: Binding) -> ApiError | None:
        """What policies and webhooks have against a binding."""
        metadata = {"name": b.name, "namespace": b.namespace, **({"uid": b.uid} if b.uid else {})}
        target = {"kind": "Node", "name": b.node}
        obj: Object = {"kind": "Binding", "apiVersion": "v1", "metadata": metadata, "target": target}
        try:
            await self._admission.intercept(
                Request(ctx, info, "CREATE", b.namespace, b.name, obj, None, Plan(), "binding")
            )
        except ApiError as e:
            return e
        return None

    async def connect(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, subresource: str, options: Object
    ) -> None:
        """What policies and webhooks say of a connection (exec, attach, port-forward, proxy), which the edge makes."""
        if not await self._admission.quiet():
            request = Request(ctx, info, "CONNECT", namespace, name, options, None, Plan(), subresource)
            await self._admission.intercept(request)

    async def _bind_one(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, body: Object
    ) -> Stored:
        clean = self._decode_as(ctx, info, "binding", body)
        target, metadata = clean.get("target") or {}, clean.get("metadata") or {}
        if target.get("kind") not in (None, "", "Node"):
            kind = target["kind"]
            cause = errors.Cause(
                "FieldValueNotSupported", f'Unsupported value: "{kind}": supported values: "Node", ""', "target.kind"
            )
            raise errors.invalid("Binding", "", name, [cause])
        binding = Binding(namespace, name or metadata.get("name", ""), metadata.get("uid", ""), target.get("name", ""))
        outcome = await self._refused(ctx, info, binding) or (await self._binder.bind(ctx, [binding], {}))[0]
        if outcome is not None:
            raise outcome
        return await self._reader.get(info, namespace, binding.name)

    async def _evict(self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, body: Object) -> Stored:
        clean = self._decode_as(ctx, info, "eviction", body)
        if not await self._admission.quiet():
            clean |= {"kind": "Eviction", "apiVersion": "policy/v1"}
            request = Request(ctx, info, "CREATE", namespace, name, clean, None, Plan(), "eviction")
            await self._admission.intercept(request)
        options = DeleteOptions.from_dict(clean.get("deleteOptions"))
        return await self._evictor.evict(ctx, info, namespace, name, options)

    @staticmethod
    def _decode_as(ctx: RequestContext, info: ResourceInfo, subresource: str, body: Object) -> Object:
        group, version, kind = scheme.subresource_kind(info, subresource)
        node = schema.node_for(group, version, kind)
        clean, warnings = typecheck.decode(node, body, version, kind, ctx.field_validation, ctx.repeated)
        ctx.warnings.extend(warnings)
        return clean


def scaled(info: ResourceInfo, stored: Stored) -> Stored:
    return Stored.of(stored.key, scale.of(info, stored.obj), stored.revision, stored.uid)


def _named(stored: Stored) -> tuple[str, str]:
    metadata = stored.obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
