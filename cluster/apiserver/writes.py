"""CREATE, UPDATE, PATCH, DELETE, DELETECOLLECTION: from HTTP to the registry and back. Awaits the registry.

Nothing is decided here: what a write may do is the registry's business. This file reads options where Kubernetes allows
them (query and body) and picks the status code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from cluster.api import errors, schema, typecheck
from cluster.api.patch import CUSTOM_MEDIA_TYPES
from cluster.api.selectors import parse_field_selector, parse_label_selector
from cluster.apiserver import negotiate, views
from cluster.apiserver import options as request_options
from cluster.apiserver.call import Call, Reply, read_object, read_patch
from cluster.apiserver.requestinfo import flag
from cluster.registry.context import RequestContext
from cluster.registry.patching import parse_body
from cluster.registry.registry import Registry
from cluster.registry.types import DeleteOptions, Stored

APPLY_YAML = "application/apply-patch+yaml"
_RETURNED_WHEN_DELETED = frozenset({"pods", "services"})
PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY_YAML,
)


class WriteServer:
    """Serves the mutating verbs."""

    def __init__(self, registry: Registry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock

    async def create(self, call: Call) -> Reply:
        body = await (call.review() if call.info.subresource else call.object())
        ctx = _with_dry_run(call.context(), body if call.info.subresource == "eviction" else {})
        stored = await self._registry.create(
            ctx, call.kind, call.namespace, body, subresource=call.info.subresource, name=call.info.name
        )
        if call.info.subresource:
            return Reply(
                201, obj={"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
            )
        return self._object(call, stored, 201)

    async def update(self, call: Call) -> Reply:
        info = call.info
        body = await call.object()
        metadata = body.get("metadata")
        named = metadata.get("name") if isinstance(metadata, dict) else None
        if named and named != info.name:
            raise errors.bad_request(
                f"the name of the object ({named}) does not match the name on the URL ({info.name})"
            )
        stored = await self._registry.update(
            call.context(), call.kind, call.namespace, info.name, body, subresource=info.subresource
        )
        return self._object(call, stored, 201 if stored.created else 200)

    async def patch(self, call: Call) -> Reply:
        media = negotiate.content_type(call.headers.get("Content-Type", ""))
        accepted = PATCH_TYPES if call.kind.custom is None else CUSTOM_MEDIA_TYPES
        if media not in accepted:
            raise errors.unsupported_media_type(accepted)
        apply = media == APPLY_YAML
        force = flag(call.params, "force")
        if force and not apply:
            cause = errors.Cause("FieldValueForbidden", "Forbidden: may not be specified for non-apply patch", "force")
            raise errors.invalid("PatchOptions", "meta.k8s.io", "", [cause])
        info = call.info
        body: Any = await call.body()
        if apply:
            body, call.repeated = await read_patch(body, parse_body, media)
        stored = await self._registry.patch(
            call.context(default_manager=not apply),
            call.kind,
            call.namespace,
            info.name,
            media,
            body,
            subresource=info.subresource,
            force=force,
        )
        return self._object(call, stored, 201 if stored.created else 200)

    async def delete(self, call: Call) -> Reply:
        options, ctx = await self._delete_options(call)
        info = call.kind
        stored = await self._registry.delete(ctx, info, call.namespace, call.info.name, options)
        if not stored.removed or info.name in _RETURNED_WHEN_DELETED:
            return self._object(call, stored, 200)
        details: dict[str, Any] = {"name": call.info.name, "kind": info.plural}
        if info.group:
            details["group"] = info.group
        if stored.uid:
            details["uid"] = stored.uid
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return Reply(obj=status)

    async def delete_collection(self, call: Call) -> Reply:
        options, ctx = await self._delete_options(call)
        params = call.params
        labels, fields = params.get("labelSelector", ""), params.get("fieldSelector", "")
        try:
            label_selector = parse_label_selector(labels) if labels else None
            field_selector = parse_field_selector(fields) if fields else None
        except ValueError as e:
            raise errors.bad_request(str(e)) from e
        request_options.whole_number(params, "limit")
        deleted = await self._registry.delete_collection(
            ctx, call.kind, call.namespace, options, label_selector=label_selector, field_selector=field_selector
        )
        meta = views.list_meta(deleted.revision, "", 0)
        items = views.stored_forms(call.kind, deleted.items)
        return Reply(raw=await views.list_view(call.accept, call.kind, items, meta, self._clock(), "Metadata"))

    async def _delete_options(self, call: Call) -> tuple[DeleteOptions, RequestContext]:
        """The body wins over the query, as in Kubernetes."""
        raw = await call.body()
        body: dict[str, Any] = {}
        if raw.strip():
            media = negotiate.content_type(call.headers.get("Content-Type", ""))
            body = await read_object(raw, media, "DeleteOptions")
            if body.get("kind") not in (None, "", "DeleteOptions"):
                raise errors.bad_request(f"the body of a delete must be DeleteOptions, not {body['kind']}")
            node = schema.node_for("policy", "v1", "Eviction").fields["deleteOptions"]
            body = typecheck.decode(node, body, "v1", "DeleteOptions")[0]
        else:
            for key in ("propagationPolicy", "orphanDependents", "gracePeriodSeconds"):
                if key in call.params:
                    body[key] = call.params[key]
            if "orphanDependents" in body:
                body["orphanDependents"] = flag(call.params, "orphanDependents")
        grace = body.get("gracePeriodSeconds")
        if grace is not None:
            try:
                body["gracePeriodSeconds"] = int(grace)
            except (TypeError, ValueError):
                raise errors.bad_request(f'gracePeriodSeconds: Invalid value: "{grace}": must be an integer') from None
        return DeleteOptions.from_dict(body), _with_dry_run(call.context(), body)

    def _object(self, call: Call, stored: Stored, code: int) -> Reply:
        if not call.accept.transform:
            return Reply(code, raw=stored.raw)
        include = views.include_of(call.params.get("includeObject", ""))
        return Reply(code, raw=self._view(call, stored, include))

    def _view(self, call: Call, stored: Stored, include: str) -> bytes:
        raw = views.stored_form(call.kind, stored.raw)
        return views.object_view(call.accept, call.kind, raw, self._clock(), include)


def _with_dry_run(ctx: RequestContext, body: dict[str, Any]) -> RequestContext:
    """DeleteOptions (also those inside an Eviction) may ask for a dry run in the body."""
    options = body.get("deleteOptions") or body
    asked = options.get("dryRun") or []
    if asked not in ([], ["All"]):
        why = f'Unsupported value: {orjson.dumps(asked).decode()}: supported values: "All"'
        cause = errors.Cause("FieldValueNotSupported", why, "dryRun")
        raise errors.invalid("DeleteOptions", "meta.k8s.io", "", [cause])
    return replace(ctx, dry_run=True) if asked else ctx
