"""`sk8 machine remove` ends no pods by surprise and begins nothing it cannot end; a failed `add` costs no cluster."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cluster.cli import workers
from cluster.cli.output import CommandError, Output
from cluster.cli.workers import _add, _need_drained, _remove
from cluster.cloud.local import LocalProvider
from cluster.machine.config import ClusterConfig, save_cluster
from cluster.machine.workers import with_worker
from cluster.machinery.provider import ProviderError


def pod(name: str, phase: str = "Running", owner: str = "ReplicaSet") -> dict[str, Any]:
    owners = [{"kind": owner, "name": "o", "controller": True}]
    return {"metadata": {"namespace": "default", "name": name, "ownerReferences": owners}, "status": {"phase": phase}}


def test_pods_that_drain_would_move_are_named() -> None:
    with pytest.raises(CommandError, match=r"pods run on m4: default/a, default/b, default/c and 1 more$") as error:
        _need_drained("m4", [pod(name) for name in "abcd"])
    assert "sk8 node drain m4" in error.value.fix


def test_pods_that_are_over_or_belong_to_the_machine_are_not() -> None:
    _need_drained(
        "m4", [pod("d", owner="DaemonSet"), pod("s", owner="Node"), pod("j", "Succeeded"), pod("f", "Failed")]
    )
    bare = pod("bare")
    del bare["metadata"]["ownerReferences"]
    with pytest.raises(CommandError, match="default/bare"):
        _need_drained("m4", [bare])


# -- a host agent of an older release ----------------------------------------------------------------------------------
@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    made = replace(ClusterConfig.local(), base_dir=str(tmp_path / "base"), run_dir=str(tmp_path / "run"), api_port=1)
    for directory in (made.base, made.run):
        directory.mkdir()
    save_cluster(with_worker(made))
    return made


@pytest.fixture
async def stopped(config: ClusterConfig) -> AsyncIterator[list[str]]:
    """The machines that an agent was told to stop which knows of no worker that comes or goes."""
    told: list[str] = []

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"ok": True, "version": 1})

    async def stop(request: web.Request) -> web.Response:
        told.append(request.match_info["machine"])
        return web.json_response({"state": "off"})

    app = web.Application()
    app.router.add_get("/v1/health", health)
    app.router.add_get("/v1/machines", health)
    app.router.add_post("/v1/machines/{machine}/stop", stop)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(config.host_socket)).start()
    yield told
    await runner.cleanup()


async def test_an_older_host_agent_is_named_before_a_machine_is_stopped(
    config: ClusterConfig, stopped: list[str]
) -> None:
    """Regression: the machine was off, without a Node, and could not be removed: "Attempt to decode JSON"."""
    args = argparse.Namespace(base=config.base, name="m4", force=True)
    with pytest.raises(ProviderError, match=r"an older sk8.*: sk8 down --keep-data, then sk8 up") as error:
        await _remove(args, Output(quiet=True))
    assert stopped == [] and not error.value.retriable


async def test_a_route_that_an_older_host_agent_lacks(config: ClusterConfig, stopped: list[str]) -> None:
    provider = LocalProvider(config.host_socket)
    for call in (provider.add_machine(), provider.remove_machine("m4")):  # 405 and 404
        with pytest.raises(ProviderError, match="the host agent runs an older sk8"):
            await call


# -- advice ------------------------------------------------------------------------------------------------------------
class Boots:
    """A host agent whose new machine boots and is never heard of."""

    async def add_machine(self, name: str, *, zone: str) -> str:
        return name or "m4"

    async def start(self, name: str) -> None:
        return None


async def test_a_worker_that_does_not_come_up_is_no_reason_to_end_the_cluster(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it advised sk8 down."""
    monkeypatch.setattr(workers, "LocalProvider", lambda _: Boots())
    args = argparse.Namespace(base=config.base, name="", zone="", timeout=0, output="")
    with pytest.raises(CommandError, match="the time is up") as error:
        await _add(args, Output(quiet=True))
    assert error.value.fix.endswith("; sk8 machine remove m4 --force takes it away again")


async def test_an_interrupted_add_names_the_machine_that_there_is(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it advised sk8 down, and sk8 up, which goes on with nothing."""

    async def interrupted(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Boots, "start", interrupted)
    monkeypatch.setattr(workers, "LocalProvider", lambda _: Boots())
    args = argparse.Namespace(base=config.base, name="", zone="", timeout=0, output="")
    with pytest.raises(CommandError, match="machine m4 is made") as error:
        await _add(args, Output(quiet=True))
    assert "sk8 machine start m4" in error.value.fix and "sk8 machine remove m4" in error.value.fix
