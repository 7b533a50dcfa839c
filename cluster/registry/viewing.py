"""Reads and writes of kinds that show another kind's objects (`cluster.api.conversion`).

IO only through the registry's own parts. A view's object is checked against the view's schema, converted, and then
takes the way of its hub: defaults, admission, validation and storage know hubs alone. managedFields are the hub's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.api import conversion, errors, patch, schema, typecheck
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.api.selectors import FieldSelector
from cluster.registry.context import RequestContext
from cluster.registry.patching import Patcher, parse_body, patch_function
from cluster.registry.types import Stored, StoredList, WatchEvent
from cluster.registry.write_checks import misplaced

Object = dict[str, Any]


def shown(info: ResourceInfo, stored: Stored) -> Stored:
    """A stored object as `info` shows it; itself when `info` is its hub."""
    if not info.view_of:
        return stored
    obj = conversion.to_view(info, stored.obj)
    removed, created = stored.removed, stored.created
    return Stored.of(stored.key, obj, stored.revision, stored.uid, removed=removed, created=created)


def shown_list(info: ResourceInfo, found: StoredList) -> StoredList:
    return replace(found, items=[shown(info, s) for s in found.items]) if info.view_of else found


def shown_event(info: ResourceInfo, event: WatchEvent) -> WatchEvent:
    return replace(event, stored=shown(info, event.stored)) if info.view_of and event.type != "BOOKMARK" else event


def hub_fields(info: ResourceInfo, selector: FieldSelector | None) -> FieldSelector | None:
    """A view's field selector in the hub's words."""
    if selector is None or not info.view_of:
        return selector
    return FieldSelector(tuple(replace(t, path=conversion.hub_field(info, t.path)) for t in selector.terms))


def incoming(ctx: RequestContext, info: ResourceInfo, body: Object) -> Object:
    """A client's object as its hub stores it. Raises ApiError 400 and 422."""
    if not info.view_of:
        return body
    if isinstance(body, dict):
        kind, version = body.get("kind") or info.kind, body.get("apiVersion") or info.api_version
        if (kind, version) != (info.kind, info.api_version):
            raise misplaced(info, str(kind), str(version))
    node = schema.node_for(info.group, info.version, info.kind)
    clean, warnings = typecheck.decode(node, body, info.version, info.kind, ctx.field_validation, ctx.repeated)
    ctx.warnings.extend(warnings)
    if info.kind == "Event":
        _check_event(clean)
    return conversion.to_hub(info, clean, SCHEME.hub(info))


def _check_event(event: Object) -> None:
    """events.k8s.io/v1 asks for more than v1 (pkg/apis/core/validation/events.go)."""
    causes = [
        errors.Cause("FieldValueRequired", "Required value", field)
        for field in ("reportingController", "reportingInstance", "action", "reason", "eventTime")
        if not event.get(field)
    ]
    if event.get("type") not in ("Normal", "Warning"):
        causes.append(errors.Cause("FieldValueInvalid", f'Invalid value: "{event.get("type", "")}": ', "type"))
    if causes:
        raise errors.invalid("Event", "events.k8s.io", (event.get("metadata") or {}).get("name", ""), causes)


async def patched(
    patcher: Patcher,
    ctx: RequestContext,
    info: ResourceInfo,
    namespace: str,
    name: str,
    media_type: str,
    body: Any,
    subresource: str,
    force: bool,
) -> Stored:
    """A patch of a view is applied to what the view shows."""
    hub = SCHEME.hub(info)
    media_type = media_type.split(";")[0].strip()
    if media_type not in patch.MEDIA_TYPES:
        raise errors.unsupported_media_type(patch.MEDIA_TYPES)
    wish, repeated = parse_body(body, media_type)
    ctx = replace(ctx, repeated=repeated or ctx.repeated)
    if media_type == patch.APPLY_PATCH:
        clean = incoming(ctx, info, wish)
        return await patcher.patch(ctx, hub, namespace, name, media_type, clean, subresource, force)
    apply = patch_function(info, media_type, wish, subresource)

    def make(current: Object) -> Object:
        return incoming(ctx, info, apply(conversion.to_view(info, current)))

    return await patcher.modify(ctx, hub, namespace, name, make, subresource)
