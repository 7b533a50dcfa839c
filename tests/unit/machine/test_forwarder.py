"""The API forwarder: the choice as a table, and the shell against real sockets."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.machine import pki
from cluster.machine.config import ClusterConfig
from cluster.machine.forwarder import Backends, Endpoint, Forwarder, ForwarderConfig
from tests.support.eventually import until

A, B, C = ("10.0.0.1", 1), ("10.0.0.2", 1), ("10.0.0.3", 1)


def backends(*up: Endpoint, prefer: Endpoint | None = None) -> Backends:
    made = Backends.of(ForwarderConfig(("127.0.0.1", 0), (A, B, C), Path("ca"), prefer))
    for endpoint in up:
        made = made.probed(endpoint, True)
    return made


def test_those_that_are_up_come_first_in_turn() -> None:
    first, state = backends(A, B).choose()
    second, state = state.choose()
    third, _ = state.choose()
    assert (first, second, third) == ([A, B, C], [B, A, C], [A, B, C])


def test_the_own_machine_is_preferred_while_it_is_up() -> None:
    state = backends(A, B, C, prefer=B)
    for _ in range(4):
        order, state = state.choose()
        assert order[0] == B
    assert state.failed(B).choose()[0][-1] == B


def test_nothing_up_still_tries_everything() -> None:
    assert backends().choose()[0] == [A, B, C]


def test_one_bad_probe_is_forgiven_two_are_not() -> None:
    state = backends(A).probed(A, False)
    assert state.is_up(A)
    assert not state.probed(A, False).is_up(A)
    assert state.probed(A, True).probed(A, False).is_up(A)


def test_a_failed_connection_counts_at_once_and_a_good_probe_mends_it() -> None:
    state = backends(A).failed(A)
    assert not state.is_up(A)
    assert state.probed(A, True).is_up(A)


def test_connections_move_only_where_there_is_somewhere_to_go() -> None:
    assert backends(A, B, C).given_up() == []
    assert backends(A, B).given_up() == [C]
    assert backends(A).failed(A).given_up() == []
    assert backends(A).failed(A).probed(B, True).given_up() == [A, C]


class Api:
    """A TLS server that says ready to /readyz and its name to everything else."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.ready = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if line.startswith(b"GET /readyz"):
                    await reader.readuntil(b"\r\n\r\n")
                    status = b"200 OK" if self.ready else b"503 Service Unavailable"
                    writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")
                else:
                    writer.write(self.name + line)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def certificate(directory: Path) -> ssl.SSLContext:
    now = dt.datetime.now(dt.UTC)
    ca = pki.new_ca("test", now)
    config = ClusterConfig.local()
    pair = pki.issue(ca, pki.requirement("apiserver", config.machines[0], config), now)
    for name, data in (("ca.crt", ca.cert), ("cert", pair.cert), ("key", pair.key)):
        (directory / name).write_bytes(data)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "cert", directory / "key")
    return context


@asynccontextmanager
async def running(tmp_path: Path, *apis: Api) -> AsyncIterator[tuple[Forwarder, Endpoint]]:
    context = certificate(tmp_path)
    servers = [await asyncio.start_server(api.serve, "127.0.0.1", 0, ssl=context) for api in apis]
    probe = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    listen: Endpoint = ("127.0.0.1", probe.sockets[0].getsockname()[1])
    probe.close()
    ends = tuple(("127.0.0.1", int(s.sockets[0].getsockname()[1])) for s in servers)
    forwarder = Forwarder(ForwarderConfig(listen, ends, tmp_path / "ca.crt", prefer=ends[0], interval_s=0.02))
    task = asyncio.create_task(forwarder.run())
    try:
        await until(lambda: len(forwarder.health()["up"]) == len(apis))  # type: ignore[arg-type]
        yield forwarder, listen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for server in servers:
            server.close()


async def ask(listen: Endpoint, tmp_path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    return await asyncio.open_connection(*listen, ssl=client, server_hostname="kubernetes")


async def test_bytes_go_to_the_preferred_backend_and_back(tmp_path: Path) -> None:
    async with running(tmp_path, Api(b"one "), Api(b"two ")) as (forwarder, listen):
        reader, writer = await ask(listen, tmp_path)
        writer.write(b"hello\n")
        assert await reader.readline() == b"one hello\n"
        assert forwarder.health()["open"] == 1
        writer.close()


async def test_connections_are_dropped_when_a_backend_goes_bad_and_the_next_goes_elsewhere(tmp_path: Path) -> None:
    """A watch on a dead machine must reconnect at once."""
    one = Api(b"one ")
    async with running(tmp_path, one, Api(b"two ")) as (_, listen):
        reader, writer = await ask(listen, tmp_path)
        writer.write(b"watch\n")
        assert await reader.readline() == b"one watch\n"
        one.ready = False
        async with asyncio.timeout(30):
            with pytest.raises((OSError, EOFError)):
                await reader.readexactly(1)
        writer.close()
        reader, writer = await ask(listen, tmp_path)
        writer.write(b"again\n")
        assert await reader.readline() == b"two again\n"
        writer.close()


async def test_connections_to_the_only_backend_outlive_its_slow_minutes(tmp_path: Path) -> None:
    one = Api(b"one ")
    async with running(tmp_path, one) as (forwarder, listen):
        reader, writer = await ask(listen, tmp_path)
        one.ready = False
        await until(lambda: not forwarder.health()["ok"])
        writer.write(b"create\n")
        assert await reader.readline() == b"one create\n"
        writer.close()


async def test_a_server_with_another_authority_is_never_up(tmp_path: Path) -> None:
    context = certificate(tmp_path)
    server = await asyncio.start_server(Api(b"evil ").serve, "127.0.0.1", 0, ssl=context)
    (tmp_path / "ca.crt").write_bytes(pki.new_ca("other", dt.datetime.now(dt.UTC)).cert)
    end = ("127.0.0.1", int(server.sockets[0].getsockname()[1]))
    forwarder = Forwarder(ForwarderConfig(("127.0.0.1", 0), (end,), tmp_path / "ca.crt", interval_s=0.02))
    task = asyncio.create_task(forwarder.run())
    await asyncio.sleep(0.3)
    assert forwarder.health()["up"] == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
