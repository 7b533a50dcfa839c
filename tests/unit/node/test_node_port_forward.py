"""port-forward over one WebSocket, in both of its ways, against an echo server that stands for the pod."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cluster.api.errors import ApiError
from cluster.api.spdy import DICTIONARY, Data, GoAway, Opened, Ping, Reset, SpdyConnection, SpdyError
from cluster.node import port_forward
from cluster.node.port_forward import SPDY, ports_of

Pod = dict[int, int]  # port of the pod -> real port here


class Client:
    """The client's side of SPDY: what kubectl sends, and what came back, by stream."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.replied: set[int] = set()
        self._buffer = b""

    def open(self, stream: int, **headers: str) -> bytes:
        words = [w.encode() for pair in headers.items() for w in pair]
        plain = struct.pack(">I", len(headers)) + b"".join(struct.pack(">I", len(w)) + w for w in words)
        block = self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return control(1, struct.pack(">IIH", stream, 0, 0) + block)

    def receive(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            length = second & 0xFFFFFF
            if len(self._buffer) < 8 + length:
                return
            body, self._buffer = self._buffer[8 : 8 + length], self._buffer[8 + length :]
            if first & 0x80000000:
                if first & 0xFFFF == 2:
                    self.replied.add(struct.unpack_from(">I", body)[0])
                continue
            self.data[first] = self.data.get(first, b"") + body
            if second >> 24 & 1:
                self.ended.add(first)


def control(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(body)) + body


def data(stream: int, body: bytes, *, fin: bool = False) -> bytes:
    return struct.pack(">II", stream, (1 if fin else 0) << 24 | len(body)) + body


def test_the_dictionary_is_the_drafts() -> None:
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


@given(st.lists(st.integers(1, 200)))
def test_frames_come_in_any_pieces(cuts: list[int]) -> None:
    client = Client()
    sent = (
        client.open(1, streamtype="error", port="80", requestid="0")
        + client.open(3, StreamType="data", port="80", requestid="0")
        + data(3, b"hello", fin=True)
        + control(6, struct.pack(">I", 7))
        + control(4, b"\0\0\0\0")
        + control(3, struct.pack(">II", 3, 5))
        + control(7, struct.pack(">II", 3, 0))
    )
    server, events = SpdyConnection(), []
    for cut in cuts:
        events += server.receive(sent[:cut])
        sent = sent[cut:]
    events += server.receive(sent)
    headers = {"streamtype": "error", "port": "80", "requestid": "0"}
    assert events == [
        Opened(1, headers, False),
        Opened(3, {**headers, "streamtype": "data"}, False),
        Data(3, b"hello", True),
        Ping(7),
        Reset(3),
        GoAway(),
    ]


def test_nonsense_ends_the_connection() -> None:
    for nonsense in (b"\x80\x02\0\1\0\0\0\0", b"\0\0\0\1\0\xff\xff\xff", control(1, b"\0" * 12), control(6, b"")):
        with pytest.raises(SpdyError):
            SpdyConnection().receive(nonsense)


def test_ports_are_between_1_and_65535_and_at_least_one() -> None:
    assert ports_of(["80", "443,22"]) == [80, 443, 22]
    for wrong in ([], ["0"], ["65536"], ["x"]):
        with pytest.raises(ApiError) as caught:
            ports_of(wrong)
        assert caught.value.code == 400


@contextlib.asynccontextmanager
async def forwarding(ports: list[int], protocol: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket to a server whose pod echoes on port 7 and refuses everything else."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.write(b"bye")
        writer.close()

    pod = await asyncio.start_server(echo, "127.0.0.1", 0)

    async def dial(port: int) -> port_forward.Connection:
        if port != 7:
            raise OSError("connection refused")
        return await asyncio.open_connection(*pod.sockets[0].getsockname())

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=port_forward.PROTOCOLS, max_msg_size=0)
        await socket.prepare(request)
        await port_forward.serve(socket, dial, ports)
        return socket

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            async with session.ws_connect(url, protocols=(protocol,), max_msg_size=0) as socket:
                assert socket.protocol == protocol
                yield socket
    finally:
        await runner.cleanup()
        pod.close()
        await pod.wait_closed()


async def test_spdy_carries_many_connections() -> None:
    body = bytes(range(256)) * 2000
    async with forwarding([], SPDY) as socket:
        client = Client()
        for number in range(3):
            for offset, kind in ((1, "error"), (3, "data")):
                opening = client.open(4 * number + offset, streamtype=kind, port="7", requestid=str(number))
                await socket.send_bytes(opening)
            stream = 4 * number + 3
            for start in range(0, len(body), 30000):
                await socket.send_bytes(data(stream, body[start : start + 30000]))
            await socket.send_bytes(data(stream, b"", fin=True))
        async with asyncio.timeout(30):
            while len(client.ended) < 6:
                client.receive(await socket.receive_bytes())
        assert client.replied == {1, 3, 5, 7, 9, 11}
        assert all(client.data[4 * n + 3] == body + b"bye" for n in range(3))
        assert all(client.data[4 * n + 1] == b"" for n in range(3))


async def test_a_port_that_refuses_says_so_on_its_error_stream_and_hurts_nobody() -> None:
    async with forwarding([], SPDY) as socket:
        client = Client()
        for stream, kind, port in ((1, "error", "9"), (3, "data", "9"), (5, "error", "7"), (7, "data", "7")):
            await socket.send_bytes(client.open(stream, streamtype=kind, port=port, requestid=port))
        await socket.send_bytes(data(7, b"x", fin=True))
        async with asyncio.timeout(30):
            while len(client.ended) < 4:
                client.receive(await socket.receive_bytes())
        assert client.data[1] == b"error forwarding port 9 to pod: connection refused"
        assert client.data[7] == b"xbye"


async def test_channels_begin_with_their_port() -> None:
    async with forwarding([7, 9], "v4.channel.k8s.io") as socket:
        await socket.send_bytes(b"\0ping")
        got: dict[int, bytes] = {}
        async with asyncio.timeout(30):
            while len(got.get(0, b"")) < 6 or len(got.get(3, b"")) < 3:
                message = await socket.receive_bytes()
                got[message[0]] = got.get(message[0], b"") + message[1:]
        assert got[0] == struct.pack("<H", 7) + b"ping" and got[1] == struct.pack("<H", 7)
        assert got[2] == struct.pack("<H", 9)
        assert got[3] == struct.pack("<H", 9) + b"error forwarding port 9 to pod: connection refused"
