"""A request's objects in another version of their resource, for webhooks and policies whose rules name that version.

IO only through the conversion webhook of a definition. Source: matchPolicy of admissionregistration.k8s.io/v1,
k8s.io/apiserver pkg/admission/plugin/webhook/generic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson

from cluster.api import conversion, scheme
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.registry.admission.request import Request
from cluster.registry.core import Core

Object = dict[str, Any]
# (group, version, plural) -> that resource, if it is served
FindResource = Callable[[str, str, str], Awaitable[ResourceInfo | None]]


async def builtin_resource(group: str, version: str, plural: str) -> ResourceInfo | None:
    return SCHEME.resource(group, version, plural)


def is_own_kind(request: Request) -> bool:
    """Whether the request's object is one of its resource, and not a Scale, a Binding or options of a connection."""
    return scheme.subresource_kind(request.info, request.subresource)[2] == request.info.kind


class Equivalents:
    """`find` is set by who knows of definitions (`Registry`)."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.find: FindResource = builtin_resource

    async def seen(self, request: Request, version: str) -> Request:
        """The request with its objects in `version`; itself when they are. Raises ApiError when they cannot be
        converted."""
        other = await self._other(request, version)
        if other is None:
            return request
        return replace(request, obj=await self._to(other, request.obj), old=await self._to(other, request.old))

    async def own(self, request: Request, version: str, obj: Object) -> Object:
        """What a webhook or a policy made of the object it saw in `version`, in the version of the request."""
        other = await self._other(request, version)
        if other is None:
            return obj
        if other.view_of:
            return conversion.to_hub(other, obj, request.info)
        return await self._to(request.info, obj) or obj

    async def shown(self, request: Request, version: str) -> ResourceInfo:
        """The resource whose object `seen` gives."""
        return await self._other(request, version) or request.info

    async def _other(self, request: Request, version: str) -> ResourceInfo | None:
        info = request.info
        if version == info.version or not is_own_kind(request):
            return None
        return await self.find(info.group, version, info.plural)

    async def _to(self, info: ResourceInfo, obj: Object | None) -> Object | None:
        if obj is None:
            return None
        if info.custom is None:
            return conversion.to_view(info, obj)
        copy = orjson.loads(orjson.dumps(obj))  # conversion works in place
        return (await self._core.converter.convert(info.custom, [copy]))[0]
