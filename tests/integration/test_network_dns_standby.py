"""DNS while the Proxy is killed again and again: real processes, one pair of sockets, a client that never stops."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dnslib import DNSRecord

from cluster.network.dns_standby import DnsStandby
from tests.support.dns_proxy_process import config

NAME = "web.default.svc.cluster.local"
ROUNDS = 8


class Resolver(threading.Thread):
    """Asks without pause and without ever asking twice: what is lost shows as None after a generous wait."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._go = True
        self.outcomes: dict[str, int] = {}
        self.asked = 0

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.connect(("127.0.0.1", self._port))
            while self._go:
                self.asked += 1
                outcome = self._ask(client, self.asked % 65536)
                self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    @staticmethod
    def _ask(client: socket.socket, ident: int) -> str:
        question = DNSRecord.question(NAME)
        question.header.id = ident
        client.send(question.pack())
        try:
            while True:
                answer = DNSRecord.parse(client.recv(4096))
                if answer.header.id == ident:  # an answer given twice has an earlier id
                    return str(answer.short()) or f"rcode {answer.header.rcode}"
        except TimeoutError:
            return "lost"

    def stop(self) -> dict[str, int]:
        self._go = False
        self.join(30)
        return self.outcomes


@pytest.fixture
async def standby(tmp_path: Path) -> AsyncIterator[DnsStandby]:
    (tmp_path / "zone").write_bytes(b"names of an earlier boot")
    standby = DnsStandby(config(str(tmp_path / "dns.sock"), str(tmp_path / "zone")))
    task = asyncio.create_task(standby.run())
    async with asyncio.timeout(10):
        while not (tmp_path / "dns.sock").exists():
            await asyncio.sleep(0.01)
    yield standby
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)


async def proxy(tmp_path: Path, *names: str) -> asyncio.subprocess.Process:
    """Serving."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.dns_proxy_process", str(tmp_path / "dns.sock"), str(tmp_path / "zone"),
        *names, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"serving\n"
    return process


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


async def stands_in(standby: DnsStandby, wanted: bool) -> None:
    async with asyncio.timeout(20):
        while bool(standby.health()["standing_in"]) is not wanted:
            await asyncio.sleep(0.01)


async def saved(tmp_path: Path) -> None:
    """The zone's file is there: written soon after the Proxy knows its names."""
    async with asyncio.timeout(20):
        while not (tmp_path / "zone").exists():
            await asyncio.sleep(0.01)


async def test_no_lookup_is_lost_or_denied_while_proxies_are_killed(standby: DnsStandby, tmp_path: Path) -> None:
    process = await proxy(tmp_path, "web")
    await saved(tmp_path)
    resolver = Resolver(standby.port)
    resolver.start()
    try:
        for _ in range(ROUNDS):
            await asyncio.sleep(0.1)
            await kill(process)
            await stands_in(standby, True)
            before = resolver.asked
            process = await proxy(tmp_path, "web")
            await stands_in(standby, False)
            assert resolver.asked > before, "nobody answered while the proxy was away"
    finally:
        outcomes = await asyncio.to_thread(resolver.stop)
        await kill(process)
    assert set(outcomes) == {"10.96.0.20"}, outcomes
    assert standby.answered > 0


async def test_before_the_first_proxy_names_fail_softly_and_what_a_reboot_left_is_not_believed(
    standby: DnsStandby, tmp_path: Path
) -> None:
    resolver = Resolver(standby.port)
    resolver.start()
    await asyncio.sleep(0.2)
    assert set(await asyncio.to_thread(resolver.stop)) == {"rcode 2"}


async def test_tcp_is_answered_by_whoever_is_there(standby: DnsStandby, tmp_path: Path) -> None:
    async def ask() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", standby.port)
        packed = bytes(DNSRecord.question(NAME).pack())
        writer.write(struct.pack("!H", len(packed)) + packed)
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        answer = DNSRecord.parse(await reader.readexactly(size))
        writer.close()
        await writer.wait_closed()
        return str(answer.short())

    process = await proxy(tmp_path, "web")
    await saved(tmp_path)
    assert await ask() == "10.96.0.20"
    answered = standby.answered
    await kill(process)
    await stands_in(standby, True)
    assert await ask() == "10.96.0.20"
    assert standby.answered == answered + 1


async def test_when_sk8_machine_starts_again_the_proxy_serves_its_new_sockets(tmp_path: Path) -> None:
    async def machine() -> tuple[DnsStandby, asyncio.Task[None]]:
        standby = DnsStandby(config(str(tmp_path / "dns.sock"), str(tmp_path / "zone")))
        return standby, asyncio.create_task(standby.run())

    standby, task = await machine()
    process = await proxy(tmp_path, "web")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    standby, task = await machine()
    try:
        began = time.monotonic()
        while standby.port == 0 or standby.health()["standing_in"]:
            assert time.monotonic() - began < 30
            await asyncio.sleep(0.01)
        resolver = Resolver(standby.port)
        resolver.start()
        await asyncio.sleep(0.1)
        assert set(await asyncio.to_thread(resolver.stop)) == {"10.96.0.20"}
        await saved(tmp_path)  # though no name changed since the new sk8-machine removed the copy
        await kill(process)
        await stands_in(standby, True)
        resolver = Resolver(standby.port)
        resolver.start()
        await asyncio.sleep(0.1)
        assert set(await asyncio.to_thread(resolver.stop)) == {"10.96.0.20"}
    finally:
        if process.returncode is None:
            await kill(process)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
