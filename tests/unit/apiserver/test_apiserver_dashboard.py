"""The web page's files, and watches by WebSocket with a token among the subprotocols, as the page makes them."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import WSMsgType

from tests.support.apiserver_harness import edge

FILES = Path(__file__).parents[3] / "cluster" / "dashboard"
CM = "/api/v1/namespaces/default/configmaps"
BEARER = "base64url.bearer.authorization.k8s.io."


def offered(token: str) -> tuple[str, str]:
    return BEARER + base64.urlsafe_b64encode(token.encode()).decode().rstrip("="), "watch.sk8.io"


@pytest.fixture
async def server(pki, tmp_path):
    tokens = tmp_path / "tokens.csv"
    tokens.write_text("s3cret?,root,1,system:masters\nweak,mallory,2\n")
    async with edge(pki, token_auth_file=str(tokens)) as running:
        yield running


def watch(server, token: str, query: str = "", cert: str = ""):
    url = f"{server.url}{CM}?watch=1{query}"
    return server.session.ws_connect(
        url, ssl=server.pki.client_context(cert), protocols=offered(token) if token else ()
    )


async def test_anybody_gets_the_page_and_it_may_load_nothing_from_elsewhere(server):
    got = await server.call("GET", "/dashboard/", cert="")
    assert (got.status, got.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = got.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    again = await server.call("GET", "/dashboard/", cert="", headers={"If-None-Match": got.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


async def test_without_its_slash_the_page_is_where_its_files_are(server):
    got = await server.call("GET", "/dashboard", cert="")
    assert (got.status, got.body[:15]) == (200, b"<!doctype html>")  # the client followed


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/dashboard/", 405), ("GET", "/dashboard/nothing.js", 404), ("GET", "/dashboard/..%2fdashboard.py", 404),
     ("GET", "/dashboards", 401), ("GET", "/api/v1/pods", 401)],
)  # fmt: skip
async def test_nothing_else_is_public(server, method, path, status):
    got = await server.call(method, path, cert="")
    assert got.status in (status, 400 if "%2f" in path else status)


async def test_every_file_that_the_page_names_is_served(server):
    named = set()
    for path in FILES.iterdir():
        text = path.read_text()
        named |= set(re.findall(r'from "\./([\w.]+)"', text)) if path.suffix == ".js" else set()
        named |= set(re.findall(r'(?:src|href)="([\w.]+)"', text)) if path.suffix == ".html" else set()
    assert {"main.js", "style.css", "watch.js"} <= named
    for name in sorted(named):
        assert (await server.call("GET", f"/dashboard/{name}", cert="")).status == 200, name


def test_nothing_is_inline_and_no_text_becomes_markup():
    html = (FILES / "index.html").read_text()
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", html)
    for path in FILES.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), path


async def test_a_watch_by_websocket_is_one_event_a_message(server):
    version = (await server.call("GET", CM)).json["metadata"]["resourceVersion"]
    async with watch(server, "s3cret?", f"&resourceVersion={version}") as ws:
        assert ws.protocol == "watch.sk8.io"
        for name in ("one", "two"):
            await server.create(CM, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}})
            message = await ws.receive(60)
            assert message.type is WSMsgType.TEXT
            event = orjson.loads(message.data)
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", name)


async def test_a_watch_by_websocket_ends_with_its_error(pki):
    async with edge(pki, window_events=2) as server:
        start = (await server.call("GET", CM)).json["metadata"]["resourceVersion"]
        for n in range(8):
            await server.create(CM, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": f"cm-{n}"}})
        async with watch(server, "", f"&resourceVersion={start}", cert="admin") as ws:
            assert ws.protocol is None  # a certificate needs no subprotocol
            assert orjson.loads((await ws.receive(60)).data)["object"]["code"] == 410
            assert (await ws.receive(60)).type is WSMsgType.CLOSE


async def test_a_watch_by_websocket_ends_when_its_time_is_over(server):
    async with watch(server, "s3cret?", "&timeoutSeconds=1") as ws:
        assert {m.type async for m in ws} <= {WSMsgType.TEXT} and ws.close_code == 1000


@pytest.mark.parametrize(("token", "status"), [("wrong", 401), ("weak", 403)])
async def test_a_websocket_is_refused_before_it_is_one(server, token, status):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await watch(server, token)
    assert refused.value.status == status


async def test_a_token_that_is_no_base64_is_401(server):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await server.session.ws_connect(
            f"{server.url}{CM}?watch=1", ssl=server.pki.client_context(), protocols=(BEARER + "!", "watch.sk8.io")
        )
    assert refused.value.status == 401
