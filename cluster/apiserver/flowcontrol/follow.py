"""Follows the stored FlowSchemas and PriorityLevelConfigurations, and keeps them in order.

IO through the store's watch and the registry. Every API server does it: the mandatory objects are made again when they
are missing or were changed, and a FlowSchema's Dangling condition says whether its priority level exists. Both are
level-based and idempotent, so servers do not disturb each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from cluster.api import errors, meta
from cluster.api.scheme import ResourceInfo
from cluster.apiserver.flowcontrol.control import FlowControl
from cluster.registry import keys
from cluster.registry.bootstrap_flow import FLOW_SCHEMAS, MANDATORY, PRIORITY_LEVELS, flow_schemas, priority_levels
from cluster.registry.codec import Codec
from cluster.registry.context import internal_context
from cluster.registry.feed import Feed
from cluster.registry.registry import Registry
from cluster.registry.store import Store
from cluster.registry.types import Stored

log = logging.getLogger(__name__)

Object = dict[str, Any]

_RETRY_S = 1.0
_SCHEMA_PREFIX = keys.resource_prefix(FLOW_SCHEMAS)
_LEVEL_PREFIX = keys.resource_prefix(PRIORITY_LEVELS)


class FlowFollower:
    """`clock`: seconds since the epoch."""

    def __init__(self, control: FlowControl, store: Store, registry: Registry, clock: Callable[[], float]) -> None:
        self._control = control
        self._registry = registry
        self._clock = clock
        self._ctx = internal_context("kube-apiserver")
        self._feed = Feed(store, (_SCHEMA_PREFIX, _LEVEL_PREFIX), Codec(), self)
        self._objects: dict[bytes, dict[bytes, Object]] = {_SCHEMA_PREFIX: {}, _LEVEL_PREFIX: {}}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed.run())
            group.create_task(self._follow())

    # --- what the feed calls

    def reset(self, prefix: bytes) -> None:
        self._objects[prefix].clear()
        self._changed.set()

    def put(self, key: bytes, stored: Stored) -> None:
        self._of(key)[key] = stored.obj
        self._changed.set()

    def delete(self, key: bytes) -> None:
        self._of(key).pop(key, None)
        self._changed.set()

    def _of(self, key: bytes) -> dict[bytes, Object]:
        return self._objects[_SCHEMA_PREFIX if key.startswith(_SCHEMA_PREFIX) else _LEVEL_PREFIX]

    # --- what follows from it

    async def _follow(self) -> None:
        await self._feed.loaded.wait()
        while True:
            await self._changed.wait()
            self._changed.clear()
            schemas, levels = (list(self._objects[p].values()) for p in (_SCHEMA_PREFIX, _LEVEL_PREFIX))
            self._control.configure(schemas, levels)
            try:
                await self._keep_mandatory(PRIORITY_LEVELS, priority_levels(), levels)
                await self._keep_mandatory(FLOW_SCHEMAS, flow_schemas(), schemas)
                await self._tell(schemas, {level["metadata"]["name"] for level in levels})
            except errors.ApiError as e:
                log.warning("flow control's objects not in order yet: %s", e.message)
                self._changed.set()
                await asyncio.sleep(_RETRY_S)

    async def _keep_mandatory(self, info: ResourceInfo, wanted: list[Object], present: list[Object]) -> None:
        found = {o["metadata"]["name"]: o for o in present}
        for obj in wanted:
            name = obj["metadata"]["name"]
            if name not in MANDATORY:
                continue
            if name not in found:
                await _unless("AlreadyExists", self._registry.create(self._ctx, info, "", obj))
            elif not _contains(found[name]["spec"], obj["spec"]):
                await self._registry.modify(self._ctx, info, "", name, partial(_with_spec, obj["spec"]))

    async def _tell(self, schemas: list[Object], levels: set[str]) -> None:
        for schema in schemas:
            if dangling(schema, schema["spec"]["priorityLevelConfiguration"]["name"] in levels, "") is None:
                continue
            name, now = schema["metadata"]["name"], meta.rfc3339(self._clock())

            def mark(obj: Object, now: str = now) -> Object | None:
                return dangling(obj, obj["spec"]["priorityLevelConfiguration"]["name"] in levels, now)

            change = self._registry.modify(self._ctx, FLOW_SCHEMAS, "", name, mark, subresource="status")
            await _unless("NotFound", change)


def dangling(schema: Object, exists: bool, now: str) -> Object | None:
    """The FlowSchema with the condition it should have; None when it has it."""
    conditions = (schema.get("status") or {}).get("conditions") or []
    status = "False" if exists else "True"
    if any(c.get("type") == "Dangling" and c.get("status") == status for c in conditions):
        return None
    level = schema["spec"]["priorityLevelConfiguration"]["name"]
    said = "and it exists" if exists else "but there is no such object"
    condition = {
        "type": "Dangling",
        "status": status,
        "lastTransitionTime": now,
        "reason": "Found" if exists else "NotFound",
        "message": f'This FlowSchema references the PriorityLevelConfiguration object named "{level}" {said}',
    }
    others = [c for c in conditions if c.get("type") != "Dangling"]
    return {**schema, "status": {**(schema.get("status") or {}), "conditions": [*others, condition]}}


def _with_spec(spec: Object, obj: Object) -> Object:
    return {**obj, "spec": spec}


def _contains(present: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; defaults may have been added."""
    if isinstance(wanted, dict):
        return isinstance(present, dict) and all(_contains(present.get(k), v) for k, v in wanted.items())
    return bool(present == wanted)


async def _unless(reason: str, change: Any) -> None:
    try:
        await change
    except errors.ApiError as e:
        if e.reason != reason:
            raise
