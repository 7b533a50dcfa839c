"""Watches over HTTPS: start, events, bookmarks, transitions, ends."""

import asyncio
import contextlib

import orjson
import pytest

from tests.support.apiserver_harness import edge

CM = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **labels: str) -> dict:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}}


@pytest.fixture
async def server(pki):
    async with edge(pki) as running:
        yield running


class Stream:
    """The events of an open watch."""

    def __init__(self, response) -> None:
        self.response = response

    async def next(self, timeout: float = 5.0) -> dict:
        line = await asyncio.wait_for(self.response.content.readline(), timeout)
        if not line:
            raise EOFError
        return orjson.loads(line)

    async def name(self) -> tuple[str, str]:
        event = await self.next()
        return event["type"], event["object"]["metadata"]["name"]


@contextlib.asynccontextmanager
async def watch(server, query: str, path: str = CM, headers: dict | None = None):
    url = f"{server.url}{path}?watch=1&{query}"
    async with server.session.get(url, ssl=server.pki.client_context("admin"), headers=headers) as response:
        assert response.status == 200, await response.read()
        yield Stream(response)


async def revision(server) -> str:
    return (await server.call("GET", CM)).json["metadata"]["resourceVersion"]


async def test_events_after_a_list(server):
    start = await revision(server)
    await server.create(CM, config_map("early"))
    async with watch(server, f"resourceVersion={start}") as stream:
        assert await stream.name() == ("ADDED", "early")
        await server.create(CM, config_map("late"))
        assert await stream.name() == ("ADDED", "late")
        await server.call(
            "PATCH", f"{CM}/late", {"data": {"a": "1"}}, headers={"Content-Type": "application/merge-patch+json"}
        )
        assert await stream.name() == ("MODIFIED", "late")
        await server.call("DELETE", f"{CM}/late")
        event = await stream.next()
        assert event["type"] == "DELETED"
        assert event["object"]["data"] == {"a": "1"}
        assert int(event["object"]["metadata"]["resourceVersion"]) == server.store.revision
    await asyncio.sleep(0.05)
    assert server.server.health()["watches"] == 0


async def test_without_a_version_the_present_comes_first(server):
    await server.create(CM, config_map("a"))
    async with watch(server, "fieldSelector=metadata.name%3Da") as stream:
        assert await stream.name() == ("ADDED", "a")


async def test_send_initial_events_ends_with_a_bookmark(server):
    await server.create(CM, config_map("a", app="x"))
    query = "labelSelector=app%3Dx&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with watch(server, query) as stream:
        assert await stream.name() == ("ADDED", "a")
        mark = await stream.next()
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await server.create(CM, config_map("b", app="x"))
        assert await stream.name() == ("ADDED", "b")
    bad = await server.call("GET", f"{CM}?watch=1&sendInitialEvents=true")
    assert bad.status == 422


async def test_bookmarks_and_the_time_limit(pki):
    async with edge(pki, bookmark_period_s=0.05) as server:
        start = await revision(server)
        query = f"resourceVersion={start}&allowWatchBookmarks=true&timeoutSeconds=1"
        async with watch(server, query) as stream:
            assert (await stream.next())["type"] == "BOOKMARK"
            await server.create(
                "/api/v1/namespaces/default/secrets",
                {"metadata": {"name": "other"}, "kind": "Secret", "apiVersion": "v1"},
            )
            want = server.store.revision
            while True:
                mark = await stream.next()
                assert mark["type"] == "BOOKMARK"
                if int(mark["object"]["metadata"]["resourceVersion"]) >= want:
                    break
            with pytest.raises(EOFError):
                while True:
                    await stream.next()


async def test_too_old_is_an_error_event(pki):
    async with edge(pki, window_events=2) as server:
        start = await revision(server)
        for i in range(6):
            await server.create(CM, config_map(f"c{i}"))
        async with watch(server, f"resourceVersion={start}") as stream:
            event = await stream.next()
            assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
            assert event["object"]["message"].startswith(f"too old resource version: {start} (")


async def test_a_resource_has_the_window_it_was_given(pki):
    async with edge(pki, watch_cache_sizes=("configmaps#2",)) as server:
        start = await revision(server)
        for i in range(6):
            await server.create(CM, config_map(f"c{i}"))
        async with watch(server, f"resourceVersion={start}") as stream:
            assert (await stream.next())["object"]["reason"] == "Expired"
        capacities = (await server.call("GET", "/metrics")).body.decode()
        assert 'watch_cache_capacity{group="",resource="configmaps"} 2.0' in capacities
        assert 'watch_cache_capacity{group="apps",resource="deployments"} 4096.0' in capacities


async def test_selector_transitions(server):
    start = await revision(server)
    async with watch(server, f"resourceVersion={start}&labelSelector=app%3Dweb") as stream:
        await server.create(CM, config_map("x", app="db"))
        merge = {"Content-Type": "application/merge-patch+json"}
        await server.call("PATCH", f"{CM}/x", {"metadata": {"labels": {"app": "web"}}}, headers=merge)
        assert await stream.name() == ("ADDED", "x")
        await server.call("PATCH", f"{CM}/x", {"metadata": {"labels": {"app": "db"}}}, headers=merge)
        assert await stream.name() == ("DELETED", "x")


async def test_watch_as_table(server):
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    start = await revision(server)
    async with watch(server, f"resourceVersion={start}", headers=headers) as stream:
        await server.create(CM, config_map("a"))
        await server.create(CM, config_map("b"))
        first, second = await stream.next(), await stream.next()
        assert first["object"]["rows"][0]["cells"][0] == "a"
        assert [c["name"] for c in first["object"]["columnDefinitions"]] == ["Name", "Data", "Age"]
        assert second["object"]["columnDefinitions"] == []


async def test_lost_history_ends_watches_with_410(server):
    start = await revision(server)
    async with watch(server, f"resourceVersion={start}") as stream:
        feed = server.server._feed
        feed._loaded.clear()
        await feed._load()
        event = await stream.next()
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
        with pytest.raises(EOFError):
            await stream.next()


async def test_stop_ends_watches_and_fails_readiness(pki):
    async with edge(pki) as server:
        start = await revision(server)
        async with watch(server, f"resourceVersion={start}") as stream:
            stopping = asyncio.create_task(server.server._stop(None, _Http(), []))
            with pytest.raises(EOFError):
                await stream.next()
            await stopping
        assert server.server.health()["ready"] is False


class _Http:
    async def shutdown(self, timeout: float) -> None:
        return None
