"""Who may read the DNS sockets, and when: the Holder against Proxies that take their time to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.network.dns_handover import Holder, borrowed
from cluster.network.dns_serve import bind

READY = asyncio.Event()
READY.set()


class Readers:
    """Notes who reads the sockets; never may two."""

    def __init__(self) -> None:
        self.now: list[str] = []
        self.most = 0

    def start(self, name: str) -> None:
        self.now.append(name)
        self.most = max(self.most, len(self.now))

    def stop(self, name: str) -> None:
        if name in self.now:
            self.now.remove(name)

    async def stand_in(self) -> None:
        self.start("machine")

    def stand_back(self) -> None:
        self.stop("machine")


@contextlib.asynccontextmanager
async def holder(path: Path, readers: Readers, end_s: float) -> AsyncIterator[None]:
    sockets = await bind("127.0.0.1", 0)
    task = asyncio.create_task(Holder(path, sockets, readers.stand_in, readers.stand_back, end_s=end_s).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for one in sockets:
            one.close()


async def proxy(path: Path, readers: Readers, name: str, stops: asyncio.Event) -> None:
    """Serves until told to go, and then until `stops`."""
    async with borrowed(str(path), READY) as (_, reader):
        readers.start(name)
        await reader.read(1)
        await stops.wait()
        readers.stop(name)


async def reads(readers: Readers, names: list[str]) -> None:
    async with asyncio.timeout(20):
        while readers.now != names:
            await asyncio.sleep(0.01)


async def test_a_newer_proxy_waits_until_the_older_has_stopped(tmp_path: Path) -> None:
    path, readers = tmp_path / "dns.sock", Readers()
    slow, quick = asyncio.Event(), asyncio.Event()
    quick.set()
    async with holder(path, readers, 60), asyncio.TaskGroup() as group:
        await reads(readers, ["machine"])
        group.create_task(proxy(path, readers, "first", slow))
        await reads(readers, ["first"])
        second = group.create_task(proxy(path, readers, "second", quick))
        await asyncio.sleep(0.3)
        assert readers.now == ["first"]
        slow.set()
        await reads(readers, ["second"])
        second.cancel()
        readers.stop("second")
        await reads(readers, ["machine"])
    assert readers.most == 1


async def test_a_proxy_that_never_stops_does_not_keep_the_sockets(tmp_path: Path) -> None:
    path, readers = tmp_path / "dns.sock", Readers()
    never = asyncio.Event()
    async with holder(path, readers, 0.1), asyncio.TaskGroup() as group:
        frozen = group.create_task(proxy(path, readers, "frozen", never))
        await reads(readers, ["frozen"])
        second = group.create_task(proxy(path, readers, "second", never))
        await reads(readers, ["frozen", "second"])
        frozen.cancel()
        second.cancel()


async def test_the_socket_is_for_its_owner_alone_and_the_process_keeps_its_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[int] = []
    umask = os.umask

    def noted(mask: int) -> int:
        masks.append(mask)
        return umask(mask)

    monkeypatch.setattr(os, "umask", noted)
    path, readers = tmp_path / "dns.sock", Readers()
    async with holder(path, readers, 1):
        await reads(readers, ["machine"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert masks == []
