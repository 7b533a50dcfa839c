"""Calls to an engine that answers about one container and not about another: bounded, and in nobody's way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cluster.node import docker_calls
from cluster.node.docker_calls import DockerCalls
from cluster.node.docker_exec import DockerExec
from cluster.node.docker_http import DockerHttp
from cluster.node.runtime import UNANSWERED, RuntimeFailure


@contextlib.asynccontextmanager
async def engine(path: Path) -> AsyncIterator[str]:
    """Knows any container, and says nothing about "stuck"."""
    freed = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.match_info["id"] == "stuck":
            await freed.wait()
        return web.json_response({"Id": request.match_info["id"]})

    app = web.Application()
    app.router.add_route("*", "/v1.41/containers/{id}/{what}", answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield str(path)
    finally:
        freed.set()
        await runner.cleanup()


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[str]:
    async with engine(tmp_path / "engine.sock") as path:
        yield path


def inspect(container: str) -> Any:
    return lambda api: api.inspect_container(container)


async def test_a_call_without_an_answer_ends_in_time_and_says_so(socket: str) -> None:
    calls = DockerCalls(socket, 8)
    with pytest.raises(
        RuntimeFailure, match="context deadline exceeded: the container engine gave no answer"
    ) as caught:
        await calls.call(inspect("stuck"), about="stuck", limit_s=1)
    assert caught.value.reason == UNANSWERED
    calls.close()


async def test_one_stuck_container_takes_no_turn_from_the_others(socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: eight calls about one container took all the threads there were, for two minutes each."""
    monkeypatch.setattr(docker_calls, "_TURN_S", 0.05)
    calls = DockerCalls(socket, 1)
    waiting = [asyncio.create_task(calls.call(inspect("stuck"), about="stuck", limit_s=3600)) for _ in range(2)]
    async with asyncio.timeout(60):
        assert (await calls.call(inspect("well"), about="well"))["Id"] == "well"
        while len(calls._owed) == 0 or calls._owed["stuck"] < 2:
            await asyncio.sleep(0.01)
    with pytest.raises(RuntimeFailure, match="has not answered earlier calls about stuck") as caught:
        await calls.call(inspect("stuck"), about="stuck")
    assert caught.value.reason == UNANSWERED
    assert (await calls.call(inspect("well"), about="well"))["Id"] == "well"
    for task in waiting:
        task.cancel()  # their threads go on until the engine answers
    calls.close()


async def test_what_goes_past_the_package_is_bounded_too(socket: str) -> None:
    http = DockerHttp(socket)
    for asking in (
        http.json("GET", "/containers/stuck/json", limit_s=0.2),
        DockerExec(http, socket).result("stuck", ["true"], 0.2),
    ):
        with pytest.raises((RuntimeFailure, TimeoutError)):
            await asking
    assert await http.json("GET", "/containers/well/json") == {"Id": "well"}
    await http.close()


async def test_an_engine_that_is_not_there_is_no_missed_answer(tmp_path: Path) -> None:
    calls = DockerCalls(str(tmp_path / "nobody.sock"), 8)
    with pytest.raises(RuntimeFailure, match="does not answer at") as caught:
        await calls.call(inspect("any"), about="any")
    assert caught.value.reason == ""
    calls.close()
