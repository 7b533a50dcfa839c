"""port-forward and the proxy subresource through a stand-in kubelet and a stand-in pod; debug containers and resize."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError, web
from yarl import URL

from cluster.apiserver import proxying
from tests.support.apiserver_harness import Edge, edge
from tests.support.stand_in import listening

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"


async def _echo(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade"):
        ws = web.WebSocketResponse(protocols=("SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "chat"))
        await ws.prepare(request)
        await ws.send_str(request.path_qs)
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data[::-1])
        return ws
    if request.path == "/moved":
        return web.Response(status=302, headers={"Location": "/there"})
    if request.path == "/page":
        page = web.Response(
            text='<p><a href="/next?x=1">to</a> <a href="near">&amp; /far</a></p>', content_type="text/html"
        )
        page.enable_compression(web.ContentCoding.gzip)
        return page
    body = (await request.read()).decode()
    seen = {k.lower(): v for k, v in request.headers.items()}
    answer = {"method": request.method, "path": request.raw_path, "body": body, "headers": seen}
    return web.json_response(answer, headers={"X-Backend": "yes"}, status=418 if request.path == "/odd" else 200)


@contextlib.asynccontextmanager
async def backend(ssl_context: Any = None) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", _echo)
    async with listening(app, ssl_context) as port:
        yield port


@pytest.fixture
async def world(pki: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Edge, int]]:
    """Pod `p` on machine m1 whose address is loopback, which the proxy is told to dial for once."""
    async with backend(pki.server_context()) as kubelet, backend() as port, edge(pki) as server:
        node = await server.create("/api/v1/nodes", {"metadata": {"name": "m1"}})
        node["status"] = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet}},
        }
        await server.call("PUT", "/api/v1/nodes/m1/status", node)
        await server.create("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
        containers = [{"name": "c", "image": "x", "ports": [{"containerPort": port}]}]
        pod = await server.create(
            PODS, {"metadata": {"name": "p"}, "spec": {"nodeName": "m1", "containers": containers}}
        )
        pod["status"] = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
        await server.call("PUT", f"{PODS}/p/status", pod)
        monkeypatch.setattr(proxying, "proxyable", lambda address: address == "127.0.0.1")
        yield server, port


async def test_links_of_a_page_lead_through_the_proxy(world: Any) -> None:
    server, _ = world
    got = await server.call("GET", f"{PODS}/p/proxy/page")
    wanted = f'<p><a href="{PODS}/p/proxy/next?x=1">to</a> <a href="near">&amp; /far</a></p>'
    assert (got.status, got.body.decode()) == (200, wanted)


async def test_a_request_to_a_pod_and_back(world: Any) -> None:
    server, port = world
    got = await server.call("POST", f"{PODS}/p/proxy/a%2Fb/c?x=1", {"k": 1}, headers={"Authorization": "Bearer secret"})
    assert (got.status, got.headers["X-Backend"]) == (200, "yes")
    assert (got.json["method"], got.json["path"], got.json["body"]) == ("POST", "/a%2Fb/c?x=1", '{"k":1}')
    assert "authorization" not in got.json["headers"]
    assert got.json["headers"]["x-forwarded-uri"] == f"{PODS}/p/proxy/a%2Fb/c"
    odd = await server.call("GET", f"{PODS}/p:{port}/proxy/odd")
    assert odd.status == 418
    context = server.pki.client_context("admin")
    async with server.session.get(server.url + f"{PODS}/p/proxy/moved", ssl=context, allow_redirects=False) as r:
        assert (r.status, r.headers["Location"]) == (302, f"{PODS}/p/proxy/there")
    async with server.session.get(server.url + f"{PODS}/p/proxy", ssl=context, allow_redirects=False) as r:
        assert (r.status, r.headers["Location"]) == (301, f"{PODS}/p/proxy/")


async def test_a_web_socket_through_the_proxy(world: Any) -> None:
    server, _ = world
    url, context = f"{server.url}{PODS}/p/proxy/ws?q=2", server.pki.client_context("admin")
    async with server.session.ws_connect(url, ssl=context, protocols=("chat",)) as ws:
        assert ws.protocol == "chat"
        assert (await ws.receive()).data == "/ws?q=2"
        await ws.send_bytes(b"abc")
        assert (await ws.receive()).data == b"cba"


async def test_services_and_nodes(world: Any) -> None:
    server, port = world
    spec = {"selector": {"a": "b"}, "ports": [{"name": "web", "port": 80}]}
    await server.create(SERVICES, {"metadata": {"name": "s"}, "spec": spec})
    none = await server.call("GET", f"{SERVICES}/s/proxy/")
    assert (none.status, none.json["message"]) == (503, 'no endpoints available for service "s"')
    endpoints = {
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "web", "port": port}],
    }
    await server.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", endpoints)
    for name in ("s", "s:web", "s:80", "http:s:web"):
        assert (await server.call("GET", f"{SERVICES}/{name}/proxy/x")).json["path"] == "/x"
    assert (await server.call("GET", f"{SERVICES}/s:nope/proxy/x")).status == 503
    assert (await server.call("GET", "/api/v1/nodes/m1/proxy/metrics")).json["path"] == "/metrics"
    assert (await server.call("GET", f"/api/v1/nodes/m1:{port}/proxy/here")).json["path"] == "/here"
    assert (await server.call("GET", "/api/v1/nodes/none/proxy/")).status == 404


async def grant(server: Edge, user: str, *verbs: str) -> None:
    """These verbs on nodes/proxy; returns once the authorizer knows."""
    rbac, named = "/apis/rbac.authorization.k8s.io/v1", {"metadata": {"name": f"{user}-{'-'.join(verbs)}"}}
    rule = {"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": list(verbs)}
    await server.create(f"{rbac}/clusterroles", {**named, "rules": [rule]})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", **named["metadata"]}
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]
    await server.create(f"{rbac}/clusterrolebindings", {**named, "roleRef": role, "subjects": subjects})
    method = {"get": "GET", "create": "POST"}[verbs[0]]
    async with asyncio.timeout(60):
        while (await server.call(method, "/api/v1/nodes/m1/proxy/metrics", cert=user)).status == 403:
            await asyncio.sleep(0.02)


_RUNS = ("exec/default/p/c?command=id", "%65xec/default/p/c", "x/../exec/default/p/c", "/exec/default/p/c",
         "attach/default/p/c", "portForward/default/p", "run/default/p/c")  # fmt: skip


async def test_who_reads_a_kubelet_runs_no_commands_there(world: Any) -> None:
    """Kubernetes' verb is that of the method; a WebSocket is a GET, and the kubelet trusts whom we pass on."""
    server, port = world
    server.pki.issue("scraper", "scraper")
    await grant(server, "scraper", "get")
    context = server.pki.client_context("scraper")
    nodes = "/api/v1/nodes/m1"
    for path in _RUNS:
        got = await server.call("GET", f"{nodes}/proxy/{path}", cert="scraper")
        assert got.status == 403, path
        assert 'nodes "m1" is forbidden: User "scraper" cannot create resource "nodes/proxy"' in got.json["message"]
    url = URL(f"{server.url}{nodes}/proxy/exec/default/p/c", encoded=True)
    with pytest.raises(WSServerHandshakeError) as refused:
        await server.session.ws_connect(url, ssl=context)
    assert refused.value.status == 403
    for path in ("metrics", "containerLogs/default/p/exec", "pods"):
        assert (await server.call("GET", f"{nodes}/proxy/{path}", cert="scraper")).status == 200
    other = await server.call("GET", f"{nodes}:{port}/proxy/exec/x", cert="scraper")
    assert other.json["path"] == "/exec/x", "what listens there is no kubelet"
    await grant(server, "scraper", "create")
    async with asyncio.timeout(60), server.session.ws_connect(url, ssl=context, protocols=("chat",)) as ws:
        assert (await ws.receive()).data == "/exec/default/p/c"


async def test_our_own_addresses_are_never_dialled(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, port = world
    monkeypatch.undo()
    for path in (f"{PODS}/p/proxy/", f"/api/v1/nodes/m1:{port}/proxy/"):
        got = await server.call("GET", path)
        assert (got.status, got.json["message"]) == (400, "address not allowed")
    assert not proxying.proxyable("169.254.169.254")
    assert proxying.proxyable("10.244.0.7")
    assert (await server.call("GET", f"{PODS}/ftp:p:21/proxy/")).status == 400


async def test_port_forward_relays_bytes(world: Any) -> None:
    server, _ = world
    context = server.pki.client_context("admin")
    for protocol, query in (("SPDY/3.1+portforward.k8s.io", ""), ("v4.channel.k8s.io", "?ports=80&ports=81")):
        url = f"{server.url}{PODS}/p/portforward{query}"
        async with server.session.ws_connect(url, ssl=context, protocols=(protocol,)) as ws:
            assert ws.protocol == protocol
            assert (await ws.receive()).data == f"/portForward/default/p{query}"
            await ws.send_bytes(b"\x80\x03\x00\x01")
            assert (await ws.receive()).data == b"\x01\x00\x03\x80"
    plain = await server.call("GET", f"{PODS}/p/portforward?ports=80")
    assert plain.status == 400


async def test_a_debug_container_is_added_and_stays(world: Any) -> None:
    server, _ = world
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}

    async def debug(*containers: dict[str, Any]) -> Any:
        body = {"spec": {"ephemeralContainers": list(containers)}}
        return await server.call("PATCH", f"{PODS}/p/ephemeralcontainers", body, headers=strategic)

    got = await debug({"name": "d", "image": "busybox", "targetContainerName": "c", "stdin": True})
    assert got.status == 200, got.body
    made = got.json["spec"]["ephemeralContainers"][0]
    assert (made["name"], made["terminationMessagePath"]) == ("d", "/dev/termination-log")
    changed = await debug({"name": "d", "image": "other"})
    assert 'existing ephemeral containers "d" may not be changed' in changed.json["message"]
    clash = await debug({"name": "c", "image": "x"})
    assert "spec.ephemeralContainers" in clash.json["message"]
    target = await debug({"name": "e", "image": "x", "targetContainerName": "none"})
    assert 'targetContainerName: Not found: "none"' in target.json["message"]
    pod = (await server.call("GET", f"{PODS}/p")).json
    pod["spec"]["ephemeralContainers"] = []
    assert (await server.call("PUT", f"{PODS}/p", pod)).status == 422
    assert (await server.call("POST", PODS, {**pod, "metadata": {"name": "q"}})).status == 201
    pod["spec"]["ephemeralContainers"] = [{"name": "d", "image": "x"}]
    refused = await server.call("POST", PODS, {**pod, "metadata": {"name": "r"}})
    assert "spec.ephemeralContainers: Forbidden: cannot be set on create" in refused.json["message"]


async def test_resize_changes_amounts_alone(world: Any) -> None:
    server, _ = world
    pod = {"metadata": {"name": "z"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    made = await server.create(PODS, pod)
    container = made["spec"]["containers"][0]
    container["resources"]["requests"]["cpu"] = "200m"
    container["image"] = "y"
    got = await server.call("PUT", f"{PODS}/z/resize", made)
    assert got.status == 200, got.body
    resized = got.json["spec"]["containers"][0]
    assert (resized["resources"]["requests"]["cpu"], resized["image"]) == ("200m", "x")
    assert got.json["metadata"]["generation"] == made["metadata"]["generation"] + 1
    got.json["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "1Mi"}}
    got.json["spec"]["containers"][0]["resources"]["requests"]["memory"] = "1Mi"
    refused = await server.call("PUT", f"{PODS}/z/resize", got.json)
    assert "Pod QOS Class may not change as a result of resizing" in refused.json["message"]
