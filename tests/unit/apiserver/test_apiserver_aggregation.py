"""A group that another API server answers for: availability, proxying with the caller's identity, discovery."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from apiserver_harness import Edge, Pki, edge

from cluster.api import errors

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

    async def handle(self, request: web.Request) -> web.Response:
        if self.broken:
            return web.Response(status=500)
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
        body = await request.json() if request.body_exists else None
        return web.json_response({"kind": "FlunderList", "query": request.query_string, "body": body}, status=200)


@pytest.fixture
async def remote(pki: Pki) -> AsyncIterator[Remote]:
    made = Remote()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=pki.server_context())
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


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
