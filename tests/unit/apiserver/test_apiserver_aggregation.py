"""A group that another API server answers for: availability, proxying with the caller's identity, upgrades, discovery
and OpenAPI."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest
import yarl
from aiohttp import web
from multidict import CIMultiDict

from cluster.api import errors
from cluster.apiserver import upgrades
from tests.support.apiserver_harness import Edge, Pki, edge
from tests.support.stand_in import listening

Object = dict[str, Any]
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
NAME = "v1alpha1.wardle.example.com"
FLUNDERS = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders"


class Remote:
    """An API server of one resource; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.broken = False
        self.port = 0
        self.openapi: dict[str, Object] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.broken:
            return web.Response(status=500)
        if request.path.startswith("/openapi/"):
            found = self.openapi.get(request.path)
            return web.json_response(found) if found is not None else web.Response(status=404)
        if request.path == "/apis/wardle.example.com/v1alpha1":
            flunders = {
                "name": "flunders",
                "singularName": "flunder",
                "namespaced": True,
                "kind": "Flunder",
                "verbs": ["get", "list", "create"],
                "shortNames": ["fl"],
            }
            listing = {"kind": "APIResourceList", "groupVersion": "wardle.example.com/v1alpha1"}
            return web.json_response({**listing, "resources": [flunders]})
        self.asked.append(request)
        if request.query.get("watch") and "Upgrade" in request.headers:
            return await self.echo(request)
        body = await request.json() if request.body_exists else None
        return web.json_response({"kind": "FlunderList", "query": request.query_string, "body": body}, status=200)

    @staticmethod
    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("v1.example.com",))
        await socket.prepare(request)
        async for message in socket:
            if message.data == "end":
                await socket.close(code=4000)
                break
            await socket.send_str(message.data)
        return socket


@pytest.fixture
async def remote(pki: Pki) -> AsyncIterator[Remote]:
    made = Remote()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    async with listening(app, pki.server_context()) as port:
        made.port = port
        yield made


@pytest.fixture
async def world(pki: Pki, remote: Remote) -> AsyncIterator[Edge]:
    async def resolve(namespace: str, name: str) -> str:
        if name == "absent":
            raise errors.service_unavailable(f'service "{name}" not found in namespace "{namespace}"')
        return "127.0.0.1"

    async with edge(pki) as running:
        running.server._aggregator._resolve = resolve
        yield running


def api_service(remote: Remote, **spec: Any) -> Object:
    base = {
        "group": "wardle.example.com",
        "version": "v1alpha1",
        "groupPriorityMinimum": 1000,
        "versionPriority": 15,
        "insecureSkipTLSVerify": True,
        "service": {"namespace": "default", "name": "api", "port": remote.port},
    }
    return {"metadata": {"name": NAME}, "spec": {**base, **spec}}


async def available(world: Edge, name: str, status: str) -> Object:
    async with asyncio.timeout(60):
        while True:
            got = (await world.call("GET", f"{SERVICES}/{name}")).json
            for c in (got.get("status") or {}).get("conditions") or ():
                if c["type"] == "Available" and c["status"] == status:
                    return dict(c)
            await asyncio.sleep(0.02)


async def test_a_request_is_passed_on_with_the_callers_identity(world: Edge, remote: Remote) -> None:
    assert (await world.call("GET", FLUNDERS)).status == 404
    await world.create(SERVICES, api_service(remote))
    assert (await available(world, NAME, "True"))["reason"] == "Passed"
    headers = {"X-Remote-User": "forged", "X-Remote-Group": "system:masters"}
    got = await world.call("GET", FLUNDERS + "?limit=3&labelSelector=a%3Db", headers=headers)
    assert got.status == 200 and got.json["query"] == "limit=3&labelSelector=a%3Db"
    sent = remote.asked[-1]
    assert sent.headers.getall("X-Remote-User") == ["admin"]
    assert sent.headers.getall("X-Remote-Group") == ["system:masters", "system:authenticated"]
    assert "Authorization" not in sent.headers
    subject = dict(x[0] for x in sent.transport.get_extra_info("peercert")["subject"])  # type: ignore[union-attr]
    assert subject["commonName"] == "front-proxy-client"
    posted = await world.call("POST", FLUNDERS, {"kind": "Flunder"})
    assert posted.json["body"] == {"kind": "Flunder"}
    assert (await world.call("GET", FLUNDERS, cert="alice")).status == 403


async def test_discovery_shows_the_other_servers_resources(world: Edge, remote: Remote) -> None:
    await world.create(SERVICES, api_service(remote))
    await available(world, NAME, "True")
    groups = (await world.call("GET", "/apis")).json["groups"]
    assert "wardle.example.com" in [g["name"] for g in groups]
    listing = (await world.call("GET", "/apis/wardle.example.com/v1alpha1")).json
    assert listing["resources"][0]["shortNames"] == ["fl"]


async def dialled(world: Edge, path: str, **options: Any) -> Any:
    url = yarl.URL(world.url + path, encoded=True)
    return await world.session.ws_connect(url, ssl=world.pki.client_context("admin"), **options)


async def test_a_websocket_passes_through(world: Edge, remote: Remote) -> None:
    await world.create(SERVICES, api_service(remote))
    await available(world, NAME, "True")
    secret = "base64url.bearer.authorization.k8s.io.c2VjcmV0"
    headers = {"X-Remote-User": "forged"}
    socket = await dialled(world, FLUNDERS + "?watch=1", protocols=(secret, "v1.example.com"), headers=headers)
    large = "x" * 300_000
    for text in ("a", large):
        await socket.send_str(text)
        assert await socket.receive_str() == text
    await socket.send_str("end")
    assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE and socket.close_code == 4000
    await socket.close()
    sent = remote.asked[-1]
    assert socket.protocol == "v1.example.com" and sent.headers["Sec-WebSocket-Protocol"] == "v1.example.com"
    assert sent.headers.getall("X-Remote-User") == ["admin"] and "Authorization" not in sent.headers


async def test_an_upgrade_that_the_other_server_refuses(world: Edge, remote: Remote) -> None:
    await world.create(SERVICES, api_service(remote))
    await available(world, NAME, "True")
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    got = await world.call("POST", FLUNDERS + "/f/exec?command=ls", headers=headers)
    assert (got.status, got.json["query"]) == (200, "command=ls")
    assert remote.asked[-1].headers["Upgrade"] == "SPDY/3.1"


async def test_any_protocol_passes_through(world: Edge, pki: Pki) -> None:
    """A server that speaks at once, in bytes that are no HTTP, and closes when told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"Upgrade: SPDY/3.1" in head:
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n\x80hello"
            )
            writer.write(await reader.readexactly(4))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=pki.server_context())
    remote = Remote()
    remote.port = listener.sockets[0].getsockname()[1]
    async with listener:
        await world.create(SERVICES, api_service(remote))
        await available(world, NAME, "True")
        context = world.pki.client_context("admin")
        reader, writer = await asyncio.open_connection("localhost", yarl.URL(world.url).port, ssl=context)
        head = f"POST {FLUNDERS}/f/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(b"\x00\x01\x02\x03")
        assert await reader.read() == b"\x80hello\x00\x01\x02\x03"
        writer.close()


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (403, {}, b"no, and no again"),
        (204, {}, b""),
        (304, {"Content-Length": "9"}, b""),
        (403, {"Content-Length": "2"}, b"no"),
    ],
)
async def test_the_whole_of_a_refusal(status: int, headers: dict[str, str], expected: bytes) -> None:
    reader = asyncio.StreamReader()
    upstream = upgrades.Upstream(status, CIMultiDict(headers), reader, cast(asyncio.StreamWriter, None))
    reading = asyncio.create_task(upgrades.refusal(upstream))
    await asyncio.sleep(0)
    for part in (b"no, ", b"and no again"):
        reader.feed_data(part)
        await asyncio.sleep(0)
    if not headers and status == 403:
        reader.feed_eof()  # else the connection may stay open
    async with asyncio.timeout(60):
        assert await reading == expected


def test_a_name_cannot_bring_headers_of_its_own() -> None:
    with pytest.raises(errors.ApiError, match="holds a line end"):
        upgrades.head_of("GET", "/", CIMultiDict({"X-Remote-User": "a\r\nX-Remote-Group: system:masters"}))


V3 = "/openapi/v3/apis/wardle.example.com/v1alpha1"
FLUNDER = "com.example.wardle.v1alpha1.Flunder"
META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def described() -> dict[str, Object]:
    """Of a server that says of ObjectMeta something else than we, and more than its APIService's group version."""
    ok = {"description": "OK", "schema": {"$ref": f"#/definitions/{FLUNDER}"}}
    get = {"parameters": [{"$ref": "#/parameters/pretty"}], "responses": {"200": ok}}
    metadata = {"$ref": f"#/definitions/{META}"}
    v2 = {
        "swagger": "2.0",
        "paths": {"/apis/wardle.example.com/v1alpha1/flunders": {"get": get}, "/apis/other/v1/x": {"get": get}},
        "definitions": {
            FLUNDER: {"type": "object", "properties": {"metadata": metadata}},
            META: {"type": "object", "description": "theirs"},
            "unused": {"type": "object"},
        },
        "parameters": {"pretty": {"name": "pretty", "in": "query", "type": "string"}},
    }
    index = {"paths": {V3.removeprefix("/openapi/v3/"): {"serverRelativeURL": V3 + "?hash=A1"}}}
    return {"/openapi/v2": v2, "/openapi/v3": index, V3: {"openapi": "3.0.0", "theirs": True}}


async def index_until(world: Edge, shown: bool) -> Object:
    async with asyncio.timeout(60):
        while True:
            paths = (await world.call("GET", "/openapi/v3")).json["paths"]
            if (V3.removeprefix("/openapi/v3/") in paths) is shown:
                return dict(paths)
            await asyncio.sleep(0.02)


async def test_openapi_shows_the_other_server(world: Edge, remote: Remote) -> None:
    remote.openapi = described()
    own = (await world.call("GET", "/openapi/v2")).json
    await world.create(SERVICES, api_service(remote))
    paths = await index_until(world, shown=True)
    assert paths[V3.removeprefix("/openapi/v3/")] == {"serverRelativeURL": V3 + "?hash=A1"} and "apis/apps/v1" in paths
    assert (await world.call("GET", V3)).json == {"openapi": "3.0.0", "theirs": True}
    spec = (await world.call("GET", "/openapi/v2")).json
    assert set(spec["paths"]) - set(own["paths"]) == {"/apis/wardle.example.com/v1alpha1/flunders"}
    assert set(spec["definitions"]) - set(own["definitions"]) == {FLUNDER, f"{META}_v2"}
    assert spec["definitions"][META] == own["definitions"][META]
    assert spec["definitions"][FLUNDER]["properties"]["metadata"] == {"$ref": f"#/definitions/{META}_v2"}
    got = spec["paths"]["/apis/wardle.example.com/v1alpha1/flunders"]["get"]
    assert got["parameters"] == [{"name": "pretty", "in": "query", "type": "string"}]
    assert (await world.call("DELETE", f"{SERVICES}/{NAME}")).status == 200
    await index_until(world, shown=False)
    assert (await world.call("GET", V3)).status == 404
    assert (await world.call("GET", "/openapi/v2")).json == own
    assert "wardle.example.com" not in [g["name"] for g in (await world.call("GET", "/apis")).json["groups"]]


async def test_openapi_skips_a_server_that_does_not_answer_or_makes_no_sense(world: Edge, remote: Remote) -> None:
    own = (await world.call("GET", "/openapi/v2")).json
    remote.openapi = {**described(), "/openapi/v2": {"paths": {V3.removeprefix("/openapi/v3"): {"get": 7}}}}
    await world.create(SERVICES, api_service(remote))
    await index_until(world, shown=True)
    assert (await world.call("GET", "/openapi/v2")).json == own
    remote.broken = True
    merge = {"Content-Type": "application/merge-patch+json"}
    touched = await world.call("PATCH", f"{SERVICES}/{NAME}", {"spec": {"versionPriority": 16}}, headers=merge)
    assert touched.status == 200
    await index_until(world, shown=False)
    assert (await world.call("GET", V3)).status == 404


async def test_a_server_that_does_not_answer_is_503(world: Edge, remote: Remote) -> None:
    remote.broken = True
    await world.create(SERVICES, api_service(remote))
    condition = await available(world, NAME, "False")
    assert condition["reason"] == "FailedDiscoveryCheck" and "bad status" in condition["message"]
    got = await world.call("GET", FLUNDERS)
    assert (got.status, got.json["reason"]) == (503, "ServiceUnavailable")
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    table = (await world.call("GET", f"{SERVICES}/{NAME}", headers=headers)).json
    assert table["rows"][0]["cells"][:3] == [NAME, "default/api", "False (FailedDiscoveryCheck)"]


async def test_a_service_that_is_not_there(world: Edge, remote: Remote) -> None:
    await world.create(SERVICES, api_service(remote, service={"namespace": "default", "name": "absent"}))
    assert (await available(world, NAME, "False"))["reason"] == "ServiceNotFound"


async def test_what_is_served_here_has_local_api_services(world: Edge) -> None:
    assert (await available(world, "v1.apps", "True"))["reason"] == "Local"
    assert (await available(world, "v1.", "True"))["reason"] == "Local"
    auth = (
        await world.call("GET", "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication")
    ).json
    assert auth["data"]["requestheader-allowed-names"] == '["front-proxy-client"]'
    assert ssl.PEM_cert_to_DER_cert(auth["data"]["client-ca-file"])


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"version": "v2"}, "metadata.name"),
        ({"groupPriorityMinimum": 0}, "spec.groupPriorityMinimum"),
        ({"caBundle": "YQ=="}, "may not be true if caBundle is present"),
        ({"service": {"namespace": "default"}}, "spec.service.name: Required value"),
    ],
)
async def test_what_is_refused(world: Edge, remote: Remote, spec: Object, fault: str) -> None:
    got = await world.call("POST", SERVICES, api_service(remote, **spec))
    assert got.status == 422 and fault in got.json["message"]
