"""Events (correlation and writing) and the HTTP client against a small server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import pytest
from aiohttp import web

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.machinery import events
from cluster.machinery.client import Binding, Obj
from cluster.machinery.events import Correlator, EventRecorder
from cluster.machinery.http_client import HttpClient, HttpConfig, _lines
from tests.support.controller_world import World
from tests.support.fake_clock import FakeClock

POD = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default", "uid": "u"}}
REF = {"kind": "Pod", "name": "p", "namespace": "default", "uid": "u"}


def test_the_same_event_is_counted_and_many_similar_ones_are_combined() -> None:
    c = Correlator("kubelet", "m1")
    first, again = (c.take(REF, "Normal", "Pulled", "x", t) for t in (1.0, 2.0))
    assert first is not None and again is not None
    assert (first.count, again.count) == (1, 2)
    assert first.event["metadata"]["name"] == again.event["metadata"]["name"]
    messages = [w.event["message"] for i in range(12) if (w := c.take(REF, "Normal", "Other", f"m{i}", 3.0))]
    assert messages[9] == "m9" and messages[10].startswith("(combined from similar events)")


def test_one_object_gets_25_and_then_one_in_five_minutes() -> None:
    c = Correlator("kubelet", "")
    taken = [c.take(REF, "Normal", "R", "m", 0.0) for _ in range(30)]
    assert sum(1 for t in taken if t is not None) == 25
    assert c.take(REF, "Normal", "R", "m", 299.0) is None
    assert c.take(REF, "Normal", "R", "m", 301.0) is not None


async def test_events_are_written_and_counted_in_the_api() -> None:
    async with World() as w:
        await w.namespace()
        recorder = EventRecorder(w.client, "kubelet", "m1", clock=FakeClock())
        for _ in range(3):
            recorder.event(POD, "Warning", "BackOff", "Back-off restarting failed container")
        await recorder.flush()
        (event,) = await w.items("events")
        assert event["count"] == 3 and event["involvedObject"]["uid"] == "u"
        assert event["source"] == {"component": "kubelet", "host": "m1"}
        await recorder.close()


async def test_events_that_gathered_are_created_with_one_transaction() -> None:
    async with World() as w:
        await w.namespace()
        recorder = EventRecorder(w.client, "kubelet", "m1", clock=FakeClock())
        for i in range(60):
            pod = POD | {"metadata": {"name": f"p{i}", "namespace": "default", "uid": f"u{i}"}}
            recorder.event(pod, "Normal", "Scheduled", "x")
        await recorder.flush()
        made = await w.items("events")
        assert len(made) == 60 and len({e["metadata"]["resourceVersion"] for e in made}) == 1


async def test_a_burst_of_events_is_written_behind_what_it_tells_of_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a rate, until so many wait that some would have to be dropped; the pauses are counted, not waited for."""
    pauses: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real_sleep(0)

    async with World() as w:
        await w.namespace()
        monkeypatch.setattr(events, "_CROWD", 300)
        recorder = EventRecorder(w.client, "scheduler", clock=FakeClock())
        for i in range(700):
            pod = POD | {"metadata": {"name": f"p{i}", "namespace": "default", "uid": f"u{i}"}}
            recorder.event(pod, "Normal", "Scheduled", "x")
        monkeypatch.setattr(asyncio, "sleep", sleep)
        await recorder.flush()
        monkeypatch.undo()
        assert len(await w.items("events")) == 700
    between = [s for s in pauses if s]
    assert between == [events._GATHER_S] * 3 + [events._AT_ONCE / events._PER_S] * 2


async def test_lines_are_found_however_chunks_cut_them() -> None:
    async def chunks() -> object:
        for chunk in (b'{"a"', b":1}\n", b"\n", b"{}\n{}\n{", b"}" + b"\n"):
            yield chunk

    assert [line async for line in _lines(chunks())] == [b'{"a":1}', b"{}", b"{}", b"{}"]  # type: ignore[arg-type]


class Server:
    """An HTTP server whose one handler the test gives."""

    def __init__(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", handler)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()


async def test_paths_bodies_and_status_errors() -> None:
    seen: list[tuple[str, str, Obj]] = []

    async def handler(request: web.Request) -> web.Response:
        body = orjson.loads(await request.read() or b"{}")
        seen.append((request.method, request.path_qs, body))
        if request.method == "DELETE":
            status = errors.not_found("pods", "x").status()
            return web.json_response(status, status=404)
        return web.json_response({"metadata": {"name": "x"}})

    async with Server(handler) as url, HttpClient(HttpConfig(server=url, field_manager="kubelet")) as client:
        await client.get("deployments.apps", "d", "ns")
        await client.create("pods", {"metadata": {"name": "x"}}, "ns")
        await client.patch("nodes", "n", {"a": 1}, subresource="status", kind="strategic")
        with pytest.raises(ApiError) as caught:
            await client.delete("pods", "x", "ns", uid="u", grace_period_s=0, propagation="Background")
        assert (caught.value.code, caught.value.reason) == (404, "NotFound")
        assert await client.bind([Binding("ns", "x", "u", "n1")]) == [None]
    assert [(m, p) for m, p, _ in seen] == [
        ("GET", "/apis/apps/v1/namespaces/ns/deployments/d"),
        ("POST", "/api/v1/namespaces/ns/pods?fieldManager=kubelet"),
        ("PATCH", "/api/v1/nodes/n/status?fieldManager=kubelet"),
        ("DELETE", "/api/v1/namespaces/ns/pods/x"),
        ("POST", "/api/v1/namespaces/ns/pods/x/binding?fieldManager=kubelet"),
    ]
    assert seen[3][2]["preconditions"] == {"uid": "u"} and seen[3][2]["gracePeriodSeconds"] == 0
    assert seen[4][2]["target"]["name"] == "n1"


async def test_lists_follow_pages_and_watches_take_large_lines() -> None:
    large = "x" * 3_000_000

    async def handler(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            token = request.query.get("continue", "")
            meta = {"resourceVersion": "7"} | ({} if token else {"continue": "more"})
            return web.json_response({"metadata": meta, "items": [{"metadata": {"name": token or "first"}}]})
        assert request.query["resourceVersion"] == "7"
        response = web.StreamResponse()
        await response.prepare(request)
        for event in (
            {"type": "ADDED", "object": {"metadata": {"name": "a"}, "data": large}},
            {"type": "ERROR", "object": errors.expired("too old").status()},
        ):
            await response.write(orjson.dumps(event) + b"\n")
        return response

    async with Server(handler) as url, HttpClient(HttpConfig(server=url)) as client:
        found = await client.list("pods")
        assert [o["metadata"]["name"] for o in found.items] == ["first", "more"]
        assert found.items[0]["kind"] == "Pod" and found.resource_version == "7"
        events = []
        with pytest.raises(ApiError) as caught:
            async for event in client.watch("pods", resource_version="7"):
                events.append(event)
        assert caught.value.code == 410
        assert len(events) == 1 and len(events[0].object["data"]) == 3_000_000


async def test_reads_are_repeated_and_writes_are_not() -> None:
    calls: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        calls.append(request.method)
        if len(calls) < 3:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"metadata": {"name": "x"}})

    async with Server(handler) as url, HttpClient(HttpConfig(server=url)) as client:
        await client.get("nodes", "x")
        assert calls == ["GET"] * 3
        calls.clear()
        with pytest.raises(ApiError) as caught:
            await client.create("nodes", {"metadata": {"name": "x"}})
        assert caught.value.code == 503 and calls == ["POST"]
    await asyncio.sleep(0)
