"""Which of the engine's runtimes a pod asks for by its RuntimeClass.

IO through the object cache. Source: node.k8s.io/v1 RuntimeClass; no class is the engine's own default.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from cluster.node.object_cache import ObjectCache
from cluster.node.pod_env import ConfigError

Obj = dict[str, Any]
RESOURCE = "runtimeclasses.node.k8s.io"
HandlerOf = Callable[[Obj], Awaitable[str]]


def handlers(cache: ObjectCache) -> HandlerOf:
    """The handler of a pod's class, "" without one. Raises ConfigError when the class is not there, ApiError."""

    async def handler_of(pod: Obj) -> str:
        name = pod["spec"].get("runtimeClassName")
        if not name:
            return ""
        found = await cache.get(RESOURCE, "", name)
        if found is None:
            raise ConfigError(f'RuntimeClass.node.k8s.io "{name}" not found')
        return str(found["handler"])

    return handler_of


async def no_handlers(pod: Obj) -> str:
    """Of a hollow node: every class is there."""
    return ""
