"""`sk8 hollow` that ends before its nodes are ready leaves none of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import hollow
from cluster.cli.main import main
from cluster.node.hollow import fleet as fleets


class Fleet:
    """Registers a node, then something happens; it is never ready."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.ready = asyncio.Event()
        self.nodes: set[str] = set()
        self._then = then

    async def run(self) -> None:
        self.nodes.add("hollow-0")
        self._then()
        await asyncio.Event().wait()

    async def remove(self) -> None:
        self.nodes.clear()


@pytest.fixture
def unhandled() -> Iterator[None]:
    """SIGTERM that the command does not handle fails the test and does not end the run."""

    def fail(*_: Any) -> None:
        raise RuntimeError("SIGTERM is not handled")

    before = signal.signal(signal.SIGTERM, fail)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def run(unhandled: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int | str, set[str]]]:
    """Runs the command: (its code or its error, the nodes it leaves)."""
    monkeypatch.setattr(hollow, "existing", lambda _: None)
    monkeypatch.setattr(hollow, "admin_http", lambda _: None)
    monkeypatch.setattr(hollow, "HttpClient", lambda _: contextlib.nullcontext())

    def run(then: Callable[[], None], *options: str) -> tuple[int | str, set[str]]:
        made: list[Fleet] = []

        def new(*_: Any, **__: Any) -> Fleet:
            made.append(Fleet(then))
            return made[0]

        monkeypatch.setattr(fleets, "HollowFleet", new)
        try:
            end: int | str = main(["hollow", "--nodes", "1", "--base", str(tmp_path), "-q", *options])
        except ValueError as err:
            end = str(err)
        return end, made[0].nodes

    return run


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    raise ValueError("no more nodes")


def test_interrupted_before_its_nodes_are_ready_it_removes_them(run: Callable[..., Any]) -> None:
    assert run(interrupt) == (0, set())
    assert run(interrupt, "--keep") == (0, {"hollow-0"})


def test_when_the_fleet_fails_its_nodes_go_too(run: Callable[..., Any]) -> None:
    assert run(fail) == ("no more nodes", set())
