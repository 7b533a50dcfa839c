"""exec against a stand-in engine whose command ends while its input is still coming."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from cluster.api.remotecommand import ERROR, WEBSOCKET_PROTOCOLS
from cluster.node import docker_stream, exec_stream
from cluster.node.docker_stream import StreamSession, upgrade

Engine = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def frame(data: bytes) -> bytes:
    return struct.pack(">BxxxI", 1, len(data)) + data


@contextlib.asynccontextmanager
async def kubelet(tmp_path: Path, engine: Engine, *, passes_eof: bool = True) -> AsyncIterator[str]:
    """A server with one exec, whose command is played by `engine`; gives its address."""
    path = str(tmp_path / "engine.sock")

    async def played(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
        try:
            await engine(reader, writer)
        finally:
            writer.close()

    async def resize(height: int, width: int) -> None:
        return

    async def exit_code() -> int:
        return 4

    async def serve(request: web.Request) -> web.StreamResponse:
        session = StreamSession(
            *await upgrade(path, "/exec"), tty=False, resize=resize, exit_code=exit_code, passes_eof=passes_eof
        )
        ws = web.WebSocketResponse(protocols=WEBSOCKET_PROTOCOLS, max_msg_size=0, timeout=exec_stream.CLOSE_S)
        await ws.prepare(request)
        await exec_stream.serve(ws, session, stdin=True)
        return ws

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app)
    async with await asyncio.start_unix_server(played, path):
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()


async def feed(ws: aiohttp.ClientWebSocketResponse) -> None:
    """A big file, sent until the socket takes no more."""
    with contextlib.suppress(ConnectionError):
        while not ws.closed:
            await ws.send_bytes(b"\0" + b"z" * 32768)


async def talk(url: str) -> tuple[bytes, str, int | None]:
    """(output, exit code, close code) of an exec that is fed without end."""
    output, code = b"", ""
    async with (
        asyncio.timeout(30),
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=("v5.channel.k8s.io",), max_msg_size=0) as ws,
    ):
        feeding = asyncio.create_task(feed(ws))
        async for message in ws:
            assert message.type is WSMsgType.BINARY
            if message.data[0] == ERROR:
                code = json.loads(message.data[1:])["details"]["causes"][0]["message"]
            else:
                output += message.data[1:]
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        return output, code, ws.close_code


@pytest.mark.parametrize("reads", [0, 3, 1_000_000])
@pytest.mark.parametrize("half", [False, True])
async def test_a_command_that_ends_before_its_input(tmp_path: Path, reads: int, half: bool) -> None:
    """The engine closes, or ends only its side, with input unread; the client that still sends gets all and a close."""

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reads:
            await reader.readexactly(reads)
        await asyncio.sleep(0.3)  # the input is stuck by now
        writer.write(frame(b"o" * 100_000))
        await writer.drain()
        if half:
            writer.write_eof()
            await over.wait()

    over = asyncio.Event()
    async with kubelet(tmp_path, engine) as url:
        try:
            assert await talk(url) == (b"o" * 100_000, "4", 1000)
        finally:
            over.set()


async def test_input_that_is_closed_but_not_the_output(tmp_path: Path) -> None:
    """A write that fails costs no output that comes later."""

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with writer.get_extra_info("socket").dup() as same:
            same.shutdown(socket.SHUT_RD)
        await asyncio.sleep(0.2)
        writer.write(frame(b"late"))

    async with kubelet(tmp_path, engine) as url:
        assert await talk(url) == (b"late", "4", 1000)


async def test_an_attachment_whose_input_ended_shows_what_comes_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regressions: `kubectl debug -i </dev/null` ended at once, as the engine detaches whoever ends its input; and once
    it was not told any more, `kubectl run --stdin --leave-stdin-open </dev/null` never ended."""
    monkeypatch.setattr(docker_stream, "LINGER_S", 0.5)

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.create_task(reader.read())
        await asyncio.wait([ended], timeout=0.3)
        if not ended.done():  # as dockerd: nothing more for a client whose input ended
            writer.write(b"\x01\0\0\0\0\0\0\x04late")
            await writer.drain()
        await ended

    assert await attached_without_input(tmp_path, engine) == b"late"


async def test_an_attachment_to_what_is_never_silent_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_stream, "LINGER_S", 3600)
    monkeypatch.setattr(docker_stream, "LINGER_MOST_S", 0.2)

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            writer.write(frame(b"."))
            await writer.drain()
            await asyncio.wait([ended], timeout=0.02)

    assert await attached_without_input(tmp_path, engine)


async def attached_without_input(tmp_path: Path, engine: Engine) -> bytes:
    """What a client is shown that closes its standard input at once, until the attachment ends."""
    said = b""
    async with (
        asyncio.timeout(60),
        kubelet(tmp_path, engine, passes_eof=False) as url,
        aiohttp.ClientSession() as http,
        http.ws_connect(url, protocols=WEBSOCKET_PROTOCOLS[:1]) as ws,
    ):
        await ws.send_bytes(b"\xff\0")  # v5
        async for message in ws:
            if message.type is aiohttp.WSMsgType.BINARY and message.data[:1] == b"\1":
                said += message.data[1:]
    return said


@pytest.mark.parametrize(
    ("protocols", "sent", "wanted"),
    [
        (("v4.channel.k8s.io",), b"\0hi", [b"\1got hi", b"\3" + json.dumps(exec_stream.status_of(4)).encode()]),
        (("channel.k8s.io",), b"\0hi", [b"\1got hi", b"\3" + exec_stream.status_of(4)["message"].encode()]),
        ((), b"\0hi", [b"\1got hi", b"\3" + exec_stream.status_of(4)["message"].encode()]),
        (
            ("v4.base64.channel.k8s.io",),
            "0" + base64.b64encode(b"hi").decode(),
            [
                "1" + base64.b64encode(b"got hi").decode(),
                "3" + base64.b64encode(json.dumps(exec_stream.status_of(4)).encode()).decode(),
            ],
        ),
        (
            ("base64.channel.k8s.io",),
            "0" + base64.b64encode(b"hi").decode(),
            [
                "1" + base64.b64encode(b"got hi").decode(),
                "3" + base64.b64encode(exec_stream.status_of(4)["message"].encode()).decode(),
            ],
        ),
    ],
)
async def test_every_subprotocol_has_its_own_messages(
    tmp_path: Path, protocols: tuple[str, ...], sent: bytes | str, wanted: list[bytes | str]
) -> None:
    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(b"got " + await reader.readexactly(2)))
        await writer.drain()

    async with (
        asyncio.timeout(30),
        kubelet(tmp_path, engine) as url,
        aiohttp.ClientSession() as http,
        http.ws_connect(url, protocols=protocols) as ws,
    ):
        assert ws.protocol == (protocols[0] if protocols else None)
        for message in ("9 is no channel", sent) if isinstance(sent, str) else (sent,):
            await (ws.send_str(message) if isinstance(message, str) else ws.send_bytes(message))
        assert [m.data async for m in ws] == wanted
