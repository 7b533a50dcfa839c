"""Writes of the scale subresource: the object changes in its replicas, and so do their owners.

IO only through Writer. Who owns the replicas of the object is shown as who owns those of its Scale, the write is made
to the Scale like any other, server-side apply with its conflicts too, and the owners are carried back. Source:
k8s.io/apimachinery `util/managedfields/scalehandler.go`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.api import errors, fieldsets, managed, schema, typecheck
from cluster.api.fieldsets import FieldSet
from cluster.api.scheme import ResourceInfo
from cluster.registry import scale
from cluster.registry.context import RequestContext
from cluster.registry.core import Core
from cluster.registry.types import Stored
from cluster.registry.write_checks import manager_of, warn
from cluster.registry.writing import Make, Writer

Object = dict[str, Any]
Entries = list[Object]
_Written = tuple[Object, Entries] | None
_REPLICAS: FieldSet = {"f:spec": {"f:replicas": {}}}
_VERSION = "autoscaling/v1"


class Scaler:
    def __init__(self, core: Core, writer: Writer) -> None:
        self._core = core
        self._writer = writer
        self._node = schema.node_for("autoscaling", "v1", "Scale")

    async def change(self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, fn: Make) -> Stored:
        """`fn` makes the new Scale of the present one; None leaves it."""

        def write(before: Object) -> _Written:
            wish = fn(before)
            if wish is None:
                return None
            after = self.decode(ctx, wish)
            after.setdefault("metadata", {})
            managed.on_update(self._node, after, before, manager_of(ctx), "scale", self._core.clock())
            return after, after["metadata"].get("managedFields") or []

        return await self._write(ctx, info, namespace, name, write)

    async def apply(
        self, ctx: RequestContext, info: ResourceInfo, namespace: str, name: str, wish: Object, force: bool
    ) -> Stored:
        clean = self.decode(ctx, wish)
        clean.setdefault("metadata", {})

        def write(before: Object) -> _Written:
            now = self._core.clock()
            done = managed.apply(
                self._node, before, clean, ctx.field_manager, force=force, subresource="scale", now=now
            )
            metadata = {**done.obj["metadata"], "resourceVersion": clean["metadata"].get("resourceVersion")}
            return {**done.obj, "metadata": metadata}, done.entries

        return await self._write(ctx, info, namespace, name, write)

    async def _write(
        self,
        ctx: RequestContext,
        info: ResourceInfo,
        namespace: str,
        name: str,
        write: Callable[[Object], _Written],
    ) -> Stored:
        entries: Entries = []

        def make(current: Object) -> Object | None:
            before, theirs = scale.of(info, current), current["metadata"].get("managedFields") or []
            before["metadata"]["managedFields"] = _of_scale(info, theirs)
            written = write(before)
            if written is None:
                return None
            after, owners = written
            _check(info, name, before, after)
            wanted = after["metadata"].get("resourceVersion")
            current["metadata"].pop("resourceVersion", None)
            if wanted and wanted != before["metadata"].get("resourceVersion"):
                current["metadata"]["resourceVersion"] = wanted
            scale.into(info, after, current)
            entries[:] = _of_object(info, theirs, owners)
            return current

        def own(new: Object, old: Object) -> None:
            managed.set_entries(new, managed.in_order(entries))

        stored = await self._writer.change(ctx, info, namespace, name, make, subresource="scale", manage=own)
        return Stored.of(stored.key, scale.of(info, stored.obj), stored.revision, stored.uid)

    def decode(self, ctx: RequestContext, body: Any) -> Object:
        clean, warnings = typecheck.decode(self._node, body, "v1", "Scale", ctx.field_validation)
        for text in warnings:  # once, however often the write is tried
            warn(ctx, text)
        clean.update(apiVersion=_VERSION, kind="Scale")
        return clean


def _check(info: ResourceInfo, name: str, before: Object, after: Object) -> None:
    replicas = (after.get("spec") or {}).get("replicas", 0)
    if replicas < 0:
        why = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise errors.invalid("Scale", "autoscaling", name, [errors.Cause("FieldValueInvalid", why, "spec.replicas")])
    uid, present = after["metadata"].get("uid"), before["metadata"].get("uid")
    if uid and uid != present:
        resource = f"{info.plural}/scale" + (f".{info.group}" if info.group else "")
        raise errors.conflict(resource, name, errors.other_uid(uid, present))


def _of_scale(info: ResourceInfo, entries: Entries) -> Entries:
    """The entries of an object that own its replicas, as entries of its Scale."""
    path = scale.replicas_path(info)
    return [
        {**e, "apiVersion": _VERSION, "fieldsV1": _REPLICAS}
        for e in entries
        if fieldsets.intersection(e.get("fieldsV1") or {}, path)
    ]


def _of_object(info: ResourceInfo, entries: Entries, owners: Entries) -> Entries:
    """The object's entries, once its replicas belong to those who have them in the Scale."""
    path, out = scale.replicas_path(info), []
    left = {_who(o): o for o in owners if fieldsets.intersection(o["fieldsV1"], _REPLICAS)}
    for e in entries:
        fields = e.get("fieldsV1") or {}
        if not fieldsets.intersection(fields, path) or left.pop(_who(e), None) is not None:
            out.append(e)
        elif kept := fieldsets.difference(fields, path):
            out.append({**e, "fieldsV1": kept})
    return out + [{**o, "apiVersion": info.api_version, "fieldsV1": path} for o in left.values()]


def _who(entry: Object) -> tuple[str, str, str]:
    return entry.get("manager", ""), entry.get("operation", ""), entry.get("subresource", "")
