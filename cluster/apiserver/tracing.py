"""A request's spans, named as kube-apiserver names them. IO only through the tracer.

    GET /api/v1/namespaces/{:namespace}/pods/{:name}      the request, from its authenticated user to its answer
      Get | List | Create | Update | Patch | Delete       what its handler does, in it what the store is asked

A `traceparent` header of the groups system:masters and system:monitoring is the parent; of anybody else it is only a
link, so that no stranger decides what is recorded. Source: apiserver/pkg/endpoints/filters/traces.go, handlers/*.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from cluster.api.tracing import Tracer
from cluster.apiserver.call import Call
from cluster.apiserver.requestinfo import RequestInfo
from cluster.apiserver.router import Answer, Handler
from cluster.apiserver.storeerrors import translated
from cluster.registry.context import UserInfo

_TRUSTED = frozenset({"system:masters", "system:monitoring"})
_HANDLERS = {
    "get": "Get",
    "list": "List",
    "create": "Create",
    "update": "Update",
    "patch": "Patch",
    "delete": "Delete",
    "deletecollection": "Delete",
}


def span_name(method: str, info: RequestInfo) -> str:
    """Names of objects are left out: there must not be more names of spans than kinds of requests."""
    if not info.is_resource:
        return method
    parts = [info.prefix, info.group, info.version]
    parts += ["namespaces", "{:namespace}"] if info.namespace else []
    parts += [info.resource, "{:name}" if info.name else "", info.subresource]
    return f"{method} /" + "/".join(part for part in parts if part)


async def traced(
    tracer: Tracer,
    request: web.BaseRequest,
    info: RequestInfo,
    user: UserInfo,
    audit_id: str,
    serve: Callable[[], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """The answer of `serve`, which runs inside the request's span."""
    given = request.headers.get("traceparent", "")
    trusted = not _TRUSTED.isdisjoint(user.groups)
    attributes: dict[str, str | int | bool] = {
        "http.method": request.method, "http.target": request.path_qs, "audit-id": audit_id,
        "user_agent.original": request.headers.get("User-Agent", ""),
    }  # fmt: skip
    with tracer.span(
        span_name(request.method, info),
        kind="server",
        parent=given if trusted else "none",
        link="" if trusted else given,
        attributes=attributes,
    ) as span:
        try:
            response = await serve()
        except Exception as e:
            span.note("http.status_code", translated(e).code)
            raise
        span.note("http.status_code", response.status)
        return response


def handler(tracer: Tracer, inner: Handler, info: RequestInfo) -> Handler:
    """`inner` in a span of its own."""
    name = _HANDLERS.get(info.verb)
    if name is None or info.long_running:
        return inner

    async def run(call: Call) -> Answer:
        with tracer.span(name, attributes={"audit-id": call.audit_id, "resource": info.resource}):
            return await inner(call)

    return run
