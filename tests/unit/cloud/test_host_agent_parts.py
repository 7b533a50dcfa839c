"""What runs beside the host agent, and fails: it is said, and starts again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cloud import host_agent
from cluster.cloud.host_agent import HostAgent
from cluster.machine import identity
from cluster.machine.config import ClusterConfig


class Failing:
    """Raises at first, then runs until cancelled."""

    def __init__(self) -> None:
        self.starts = 0
        self.again = asyncio.Event()

    async def run(self) -> None:
        self.starts += 1
        if self.starts == 1:
            raise RuntimeError("no resolver")
        self.again.set()
        await asyncio.Event().wait()


async def test_a_part_beside_that_fails_is_logged_and_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = replace(
        ClusterConfig.local(),
        prefix="sk8u",
        base_dir=str(tmp_path / "base"),
        run_dir=str(tmp_path / "run"),
        api_port=port,
    )
    config.run.mkdir()
    identity.Authority(config).create()
    monkeypatch.setattr(HostAgent, "_prepare_host", lambda _: None)  # mounts and links are root's
    monkeypatch.setattr(host_agent, "_RESTART_S", 0.0)
    part = Failing()
    agent = asyncio.create_task(HostAgent(config, [part]).run())
    with caplog.at_level(logging.ERROR, "cluster.cloud.host_agent"):
        async with asyncio.timeout(60):
            await part.again.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(60):
        await agent
    assert part.starts == 2
    assert "no resolver" in caplog.text and "Failing.run failed; it starts again" in caplog.text
