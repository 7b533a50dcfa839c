"""Update, modify and patch, in terms of `Writer.change`: how the new object comes from the old one.

IO only through Core. A patch is applied to a fresh read and, on a conflict that the client did not ask for, again to a
newer one. Server-side apply creates what is missing and keeps the applier's field set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

from cluster.api import errors, fieldwalks, last_applied, managed, patch, schema, scheme, selectors, typecheck
from cluster.api.scheme import ResourceInfo
from cluster.registry import duplicates, json_input, keys, patch_errors, scale, yaml_input
from cluster.registry.context import RequestContext
from cluster.registry.core import Core
from cluster.registry.scaling import Scaler
from cluster.registry.strategies import strategy_for
from cluster.registry.types import Stored
from cluster.registry.writing import Make, Writer

Object = dict[str, Any]

_MAX_FAULTS = 100


def covers(budget: Object, pod: Object) -> bool:
    """Whether a PodDisruptionBudget speaks of the pod."""
    selector = selectors.from_label_selector((budget.get("spec") or {}).get("selector"))
    return selector.matches(pod["metadata"].get("labels"))


class Patcher:
    def __init__(self, core: Core, writer: Writer) -> None:
        self._core = core
        self._writer = writer
        self._scaler = Scaler(core, writer)

    async def replace(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, body: Object, subresource: str
    ) -> Stored:
        """PUT: the body as it is."""
        if scale.is_scale(info, subresource):
            return await self._scaler.change(ctx, info, namespace, name, lambda _: body)
        self._check_target(info, namespace, name, body)
        if body["metadata"].get("resourceVersion") == "0":  # as good as none
            body = _anew(body)
        strategy = strategy_for(info)

        def make(current: Object) -> Object:
            if not strategy.unconditional and not body["metadata"].get("resourceVersion"):
                why = "Invalid value: 0: must be specified for an update"
                cause = errors.Cause("FieldValueInvalid", why, "metadata.resourceVersion")
                raise errors.invalid(info.plural, info.group, name, [cause])
            return self._clean(ctx, info, body)

        try:
            return await self._writer.change(ctx, info, namespace, name, make, subresource=subresource)
        except errors.ApiError as e:
            if not _is_missing(e, info):
                raise
            if uid := body["metadata"].get("uid"):
                why = errors.other_uid(uid, "", keys.object_key(info, namespace, name))
                raise errors.conflict(info, name, why) from e
            if not strategy.upsert or subresource:
                raise
        return await self._upsert(ctx, info, namespace, name, body, make)

    async def _upsert(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, body: Object, make: Make
    ) -> Stored:
        """Created, as it is not there; or changed by `make`, if by now it is."""
        await self._core.authorize(ctx, "create", info, namespace, name)
        try:
            return await self._writer.create(ctx, info, namespace, _anew(body))
        except errors.ApiError as e:
            if e.reason != "AlreadyExists":
                raise
        return await self._writer.change(ctx, info, namespace, name, make)

    async def modify(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, fn: Make, subresource: str
    ) -> Stored:
        if scale.is_scale(info, subresource):
            return await self._scaler.change(ctx, info, namespace, name, fn)

        def make(current: Object) -> Object | None:
            revision = current["metadata"].get("resourceVersion")
            new = fn(current)
            if new is None:
                return None
            clean = self._clean(ctx, info, new)
            if clean["metadata"].get("resourceVersion") == revision:
                clean["metadata"].pop("resourceVersion", None)  # the read was ours: a conflict is ours to retry
            return clean

        return await self._writer.change(ctx, info, namespace, name, make, subresource=subresource)

    async def patch(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        media_type: str,
        body: Any,
        subresource: str,
        force: bool,
    ) -> Stored:
        media_type = media_type.split(";")[0].strip()
        accepted = patch.MEDIA_TYPES if info.custom is None else patch.CUSTOM_MEDIA_TYPES
        if media_type not in accepted:
            raise errors.unsupported_media_type(accepted)
        wish, repeated = parse_body(body, media_type)
        ctx = replace(ctx, repeated=repeated or ctx.repeated)
        if media_type == patch.APPLY_PATCH:
            return await self._apply(ctx, info, namespace, name, wish, subresource, force)
        apply = patch_function(info, media_type, wish, subresource)
        if scale.is_scale(info, subresource):

            def rescaled(before: Object) -> Object:
                patched = apply(before)
                with patch_errors.fitting(media_type, wish, patched):
                    return self._scaler.decode(ctx, patched)

            return await self._scaler.change(ctx, info, namespace, name, rescaled)

        def make(current: Object) -> Object:
            revision = current["metadata"].get("resourceVersion")
            patched = apply(current)
            if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
                raise errors.bad_request("error decoding patch: the result is not an object")
            self._check_target(info, namespace, name, patched)
            with patch_errors.fitting(media_type, wish, patched):
                clean = self._clean(ctx, info, patched)
            if clean["metadata"].get("resourceVersion") == revision and not _names_revision(wish, media_type):
                clean["metadata"].pop("resourceVersion", None)
            return clean

        return await self._writer.change(ctx, info, namespace, name, make, subresource=subresource)

    # --- server-side apply

    async def _apply(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        wish: Any,
        subresource: str,
        force: bool,
    ) -> Stored:
        manager = ctx.field_manager
        if not manager:
            cause = errors.Cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager")
            raise errors.invalid("PatchOptions", "meta.k8s.io", "", [cause])
        if scale.is_scale(info, subresource):
            return await self._scaler.apply(ctx, info, namespace, name, wish, force)
        applied = await self._core.apart(ctx.body_bytes, self._applied, ctx, info, namespace, name, wish)
        clean = _own_part(info, applied, subresource)
        ctx = replace(ctx, repeated=())  # judged
        node = schema.node_of(info)
        try:
            return await self._apply_existing(ctx, info, namespace, name, clean, subresource, force)
        except errors.ApiError as e:
            if subresource or not _is_missing(e, info):
                raise
        if clean["metadata"].get("resourceVersion") or clean["metadata"].get("uid"):
            raise errors.conflict(info, name, "uid mismatch: the object to apply does not exist")

        def own(obj: Object) -> None:
            managed.on_apply_create(node, obj, clean, manager, self._core.clock())

        try:
            await self._core.authorize(ctx, "create", info, namespace, name)
            return await self._writer.create(ctx, info, namespace, clean, manage=own)
        except errors.ApiError as e:
            if e.reason != "AlreadyExists":
                raise
        return await self._apply_existing(ctx, info, namespace, name, clean, subresource, force)

    def _applied(self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, wish: Any) -> Object:
        if not isinstance(wish, dict) or not wish.get("apiVersion") or not wish.get("kind"):
            raise errors.bad_request("error decoding patch: an apply patch needs apiVersion and kind")
        metadata = wish.get("metadata")
        if isinstance(metadata, dict) and metadata.get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        noting = replace(ctx, field_validation="Warn", repeated=(), warnings=[])
        clean = self._clean(noting, info, wish)
        _check_typed(info, namespace, name, clean, noting.warnings)
        _check_repeated(ctx)
        clean["metadata"].setdefault("name", name)
        if info.namespaced:
            clean["metadata"].setdefault("namespace", namespace)
        self._check_target(info, namespace, name, clean)
        return clean

    async def _apply_existing(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        clean: Object,
        subresource: str,
        force: bool,
    ) -> Stored:
        node = schema.node_of(info)
        entries: list[Object] = []

        def make(current: Object) -> Object:
            wanted = clean["metadata"].get("resourceVersion")
            current["metadata"].pop("resourceVersion", None)
            now = self._core.clock()
            applied = managed.apply(
                node, current, clean, ctx.field_manager, force=force, subresource=subresource, now=now
            )
            entries[:] = applied.entries
            merged: Object
            if info.custom is not None:
                merged = info.custom.decode(applied.obj, "")[0]
            else:
                merged = typecheck.prune(node, applied.obj)[0]
            if wanted:
                merged["metadata"]["resourceVersion"] = wanted
            if ctx.field_manager == last_applied.MANAGER:
                last_applied.follow(merged, clean)
            return merged

        def own(new: Object, old: Object) -> None:
            new["metadata"]["managedFields"] = list(entries)

        return await self._writer.change(ctx, info, namespace, name, make, subresource=subresource, manage=own)

    # --- input

    def _clean(self, ctx: RequestContext, info: ResourceInfo, body: Object) -> Object:
        ctx.warnings.clear()  # a retry decodes again
        clean = self._writer.decode(ctx, info, body, ctx.field_validation)
        clean["kind"], clean["apiVersion"] = info.kind, info.api_version
        clean.setdefault("metadata", {})
        return clean

    @staticmethod
    def _check_target(info: ResourceInfo, namespace: str, name: str, body: Any) -> None:
        metadata = body.get("metadata") if isinstance(body, dict) else None
        if not isinstance(metadata, dict):
            raise errors.bad_request("the object provided has no metadata")
        given = metadata.get("name")
        if given != name:
            raise errors.bad_request(
                f"the name of the object ({given or ''}) does not match the name on the URL ({name})"
            )
        if info.namespaced and metadata.get("namespace", namespace) != namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )


def _anew(body: Object) -> Object:
    """`body` without the revision that it was read at."""
    return {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "resourceVersion"}}


def _is_missing(failure: errors.ApiError, info: ResourceInfo) -> bool:
    """Whether the object itself is not there (and not, say, its namespace)."""
    return failure.reason == "NotFound" and (failure.details or {}).get("kind") == info.plural


def patch_function(info: ResourceInfo, media_type: str, wish: Any, subresource: str) -> Callable[[Object], Object]:
    """What a JSON, merge or strategic merge patch does to an object of `info`. Raises ApiError 400."""
    if media_type == patch.JSON_PATCH:
        return lambda obj: patch.json_patch(obj, wish)
    if not isinstance(wish, dict):
        raise errors.bad_request("error decoding patch: it is not an object")
    if media_type == patch.MERGE_PATCH:
        return lambda obj: patch.merge_patch(obj, wish)
    node = schema.node_for(*scheme.subresource_kind(info, subresource))
    return lambda obj: patch.strategic_merge_patch(node, obj, wish)


def _own_part(info: ResourceInfo, clean: Object, subresource: str) -> Object:
    """What an apply can own: a write of the object never its status, a write of status nothing else (the reset fields
    of Kubernetes' strategies), so that a whole object that was read before can be applied again."""
    strategy = strategy_for(info)
    if not strategy.has_status:
        return clean
    if subresource != "status":
        return {k: v for k, v in clean.items() if k != "status"}
    kept = {k: v for k, v in clean.items() if k in ("apiVersion", "kind", "metadata", "status")}
    if strategy.custom:
        identity = ("name", "namespace", "uid", "resourceVersion")
        kept["metadata"] = {k: v for k, v in clean["metadata"].items() if k in identity}
    return kept


def parse_body(body: Any, media_type: str) -> tuple[Any, tuple[str, ...]]:
    """JSON, or YAML for an apply patch, and what it says twice; what is decoded already passes."""
    if not isinstance(body, bytes | bytearray | memoryview | str):
        return body, ()
    raw = body.encode() if isinstance(body, str) else bytes(body)
    try:
        found = json_input.load(raw)
    except json_input.BadJson as e:
        if media_type != patch.APPLY_PATCH:
            raise errors.bad_request(f"error decoding patch: {e}") from e
    else:
        return found, tuple(f'duplicate field "{path}"' for path in duplicates.duplicate_fields(raw, found))
    try:
        found, again = yaml_input.load_noting(raw)
    except yaml_input.BadYaml as e:
        raise errors.bad_request(f"error decoding YAML: {e}") from e
    return found, tuple(again)


def _check_typed(info: ResourceInfo, namespace: str, name: str, clean: Object, warnings: list[str]) -> None:
    """An apply patch cannot own fields that its kind does not have, nor an item twice, whatever fieldValidation says.
    Raises 400."""
    unknown = [w.removeprefix('unknown field "').removesuffix('"') for w in warnings]
    faults = [f".{path}: field not declared in schema" for path in unknown]
    faults = faults or list(islice(fieldwalks.duplicates(schema.node_of(info), clean), _MAX_FAULTS))
    if faults:
        listed = faults[0] if len(faults) == 1 else "errors:\n  " + "\n  ".join(faults)
        of = f"{namespace}/{name}; {info.api_version}, Kind={info.kind}"
        raise errors.bad_request(f"failed to create typed patch object ({of}): {listed}")


def _check_repeated(ctx: RequestContext) -> None:
    """Raises 400 for an apply patch that says something twice, or warns of it, as fieldValidation asks."""
    if ctx.repeated and ctx.field_validation == "Strict":
        listed = "\n  ".join(ctx.repeated)
        why = "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  "
        raise errors.bad_request(why + listed)
    if ctx.field_validation == "Warn":
        ctx.warnings.extend(ctx.repeated)


def _names_revision(wish: Any, media_type: str) -> bool:
    """Whether the patch itself asks for a resourceVersion, which makes a conflict the client's."""
    if media_type == patch.JSON_PATCH:
        return any(isinstance(op, dict) and op.get("path") == "/metadata/resourceVersion" for op in wish)
    metadata = wish.get("metadata") if isinstance(wish, dict) else None
    return isinstance(metadata, dict) and bool(metadata.get("resourceVersion"))
