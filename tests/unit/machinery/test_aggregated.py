"""Asking an aggregated API server: over TLS with the front proxy's certificate, in the component's name."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cluster.api.errors import ApiError
from cluster.machinery.aggregated import AggregatedApis, FrontProxy
from cluster.registry.context import UserInfo
from tests.support.apiserver_harness import Pki
from tests.support.stand_in import listening

USER = UserInfo("system:kube-controller-manager", groups=("system:authenticated",))


async def _answer(request: web.Request) -> web.Response:
    if request.path.endswith("/none"):
        return web.json_response({"kind": "Status", "reason": "NotFound", "message": "no such metric"}, status=404)
    if request.path.endswith("/text"):
        return web.Response(text="hello")
    peer = request.transport.get_extra_info("peercert") if request.transport else None
    names = dict(pair for part in peer["subject"] for pair in part) if peer else {}
    seen = {"user": request.headers["X-Remote-User"], "groups": request.headers.getall("X-Remote-Group")}
    return web.json_response({**seen, "query": dict(request.query), "by": names.get("commonName")})


async def _resolve(namespace: str, name: str) -> str:
    assert (namespace, name) == ("monitoring", "adapter")
    return "127.0.0.1"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[AggregatedApis, int, Pki]]:
    pki = Pki(tmp_path)
    app = web.Application()
    app.router.add_get("/{path:.*}", _answer)
    async with listening(app, pki.server_context()) as port:
        apis = AggregatedApis(_resolve, FrontProxy(pki.path("front-proxy.crt"), pki.path("front-proxy.key")), USER)
        yield apis, port, pki
        await apis.close()


def service(port: int, **spec: Any) -> dict[str, Any]:
    return {"spec": {"service": {"namespace": "monitoring", "name": "adapter", "port": port}, **spec}}


async def test_it_asks_in_its_own_name(served: tuple[AggregatedApis, int, Pki]) -> None:
    apis, port, _ = served
    got = await apis.get(service(port, insecureSkipTLSVerify=True), "/apis/x/v1/y", {"labelSelector": "a=b,c in (d)"})
    assert got == {
        "user": "system:kube-controller-manager",
        "groups": ["system:authenticated"],
        "query": {"labelSelector": "a=b,c in (d)"},
        "by": "front-proxy-client",
    }


async def test_what_the_server_refuses_or_gets_wrong_is_an_api_error(served: tuple[AggregatedApis, int, Pki]) -> None:
    apis, port, pki = served
    loose = service(port, insecureSkipTLSVerify=True)
    with pytest.raises(ApiError, match="no such metric") as caught:
        await apis.get(loose, "/apis/none", {})
    assert caught.value.code == 404
    with pytest.raises(ApiError, match="and no JSON"):
        await apis.get(loose, "/apis/text", {})
    bundle = base64.b64encode(Path(pki.path("ca.crt")).read_bytes()).decode()
    with pytest.raises(ApiError) as caught:  # its certificate is for another name
        await apis.get(service(port, caBundle=bundle), "/apis/x", {})
    assert caught.value.code == 503
