"""Connections pass admission before they are made: webhooks and policies see them as operation CONNECT.

IO only through the registry. Source: k8s.io/apiserver `endpoints/handlers.ConnectResource`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cluster.apiserver.call import Call
from cluster.apiserver.requestinfo import flag, multi
from cluster.registry.registry import Registry

Object = dict[str, Any]
_KINDS = {
    ("pods", "exec"): "PodExecOptions",
    ("pods", "attach"): "PodAttachOptions",
    ("pods", "portforward"): "PodPortForwardOptions",
    ("pods", "proxy"): "PodProxyOptions",
    ("services", "proxy"): "ServiceProxyOptions",
    ("nodes", "proxy"): "NodeProxyOptions",
}
_STREAMS = ("stdin", "stdout", "stderr", "tty")


def admitted(
    registry: Registry, handler: Callable[[Call], Awaitable[web.StreamResponse]]
) -> Callable[[Call], Awaitable[web.StreamResponse]]:
    """`handler`, behind admission."""

    async def connect(call: Call) -> web.StreamResponse:
        asked = call.info
        await registry.connect(
            call.context(), call.kind, call.namespace, asked.name, asked.subresource, options_of(call)
        )
        return await handler(call)

    return connect


def options_of(call: Call) -> Object:
    """The connection's options as the kind that Kubernetes decodes its query into."""
    kind = _KINDS[call.kind.plural, call.info.subresource]
    out: Object = {"kind": kind, "apiVersion": "v1"}
    if kind in ("PodExecOptions", "PodAttachOptions"):
        out |= {s: True for s in _STREAMS if flag(call.params, s)}
        if call.params.get("container"):
            out["container"] = call.params["container"]
        command = multi(call.request.path_qs, "command")
        if kind == "PodExecOptions" and command:
            out["command"] = command
    elif kind == "PodPortForwardOptions":
        ports = [int(p) for p in multi(call.request.path_qs, "ports") if p.isdigit()]
        if ports:
            out["ports"] = ports
    return out
