"""Calls to an engine that answers about one container and not about another: bounded, and in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cluster.node import docker_calls
from cluster.node.docker_calls import DockerCalls
from cluster.node.docker_exec import DockerExec
from cluster.node.docker_http import DockerHttp
from cluster.node.docker_runtime import DockerRuntime
from cluster.node.runtime import UNANSWERED, RuntimeFailure


class Engine:
    """Knows any container, and says nothing about "stuck" until it is freed."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.freed = asyncio.Event()
        self.pulls = 0

    async def pull(self, request: web.Request) -> web.Response:
        self.pulls += 1
        await self.freed.wait()
        return web.json_response({"error": "no such registry"})

    async def answer(self, request: web.Request) -> web.Response:
        if request.match_info["id"] == "stuck":
            await self.freed.wait()
        return web.json_response({"Id": request.match_info["id"]})


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = Engine(str(tmp_path / "engine.sock"))
    app = web.Application()
    app.router.add_route("*", "/v1.41/containers/{id}/{what}", made.answer)
    app.router.add_post("/v1.41/images/create", made.pull)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, made.socket).start()
    try:
        yield made
    finally:
        made.freed.set()
        await runner.cleanup()


def inspect(container: str) -> Any:
    return lambda api: api.inspect_container(container)


async def test_a_call_without_an_answer_ends_in_time_and_says_so(engine: Engine) -> None:
    calls = DockerCalls(engine.socket, 8)
    with pytest.raises(
        RuntimeFailure, match="context deadline exceeded: the container engine gave no answer"
    ) as caught:
        await calls.call(inspect("stuck"), about="stuck", limit_s=1)
    assert caught.value.reason == UNANSWERED
    calls.close()


async def test_one_stuck_container_takes_no_turn_from_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: eight calls about one container took all the threads there were, for two minutes each."""
    monkeypatch.setattr(docker_calls, "_TURN_S", 0.05)
    calls = DockerCalls(engine.socket, 1)
    waiting = [asyncio.create_task(calls.call(inspect("stuck"), about="stuck", limit_s=3600)) for _ in range(2)]
    async with asyncio.timeout(60):
        assert (await calls.call(inspect("well"), about="well"))["Id"] == "well"
        while len(calls._owed) == 0 or calls._owed["stuck"] < 2:
            await asyncio.sleep(0.01)
    with pytest.raises(RuntimeFailure, match="has not answered earlier calls about stuck") as caught:
        await calls.call(inspect("stuck"), about="stuck")
    assert caught.value.reason == UNANSWERED
    assert (await calls.call(inspect("well"), about="well"))["Id"] == "well"
    engine.freed.set()
    assert [answer["Id"] for answer in await asyncio.gather(*waiting)] == ["stuck", "stuck"]
    calls.close()


async def test_pulls_that_wait_for_a_registry_take_no_thread_from_the_other_calls(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: with as many pulls as threads a kubelet could not look at a container, nor kill one."""
    monkeypatch.setattr(docker_calls, "_THREADS", 2)
    monkeypatch.setattr(docker_calls, "_TURN_S", 0.05)
    runtime = DockerRuntime("m1", socket_path=engine.socket)
    pulls = [asyncio.create_task(runtime.pull(f"image:{number}")) for number in range(4)]
    async with asyncio.timeout(60):
        while engine.pulls < 2:
            await asyncio.sleep(0.01)
        found = await runtime.inspect("well")
        assert found is not None and found.id == "well"
        engine.freed.set()
        said = await asyncio.gather(*pulls, return_exceptions=True)
    assert all("no such registry" in str(err) for err in said)
    await runtime.close()


async def test_what_goes_past_the_package_is_bounded_too(engine: Engine) -> None:
    http = DockerHttp(engine.socket)
    for asking in (
        http.json("GET", "/containers/stuck/json", limit_s=0.2),
        DockerExec(http, engine.socket).result("stuck", ["true"], 0.2),
    ):
        with pytest.raises((RuntimeFailure, TimeoutError)):
            await asking
    assert await http.json("GET", "/containers/well/json") == {"Id": "well"}
    await http.close()


async def test_an_engine_that_hangs_up_is_no_missed_answer(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    async with await asyncio.start_unix_server(lambda _, writer: writer.close(), path):
        calls = DockerCalls(path, 8)
        with pytest.raises(RuntimeFailure, match="does not answer at") as caught:
            await calls.call(inspect("any"), about="any")
        calls.close()
    assert caught.value.reason == ""
