"""Answers that are sent as one piece, as they are on the wire."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from cluster.apiserver.whole import WholeResponse

FIELDS = [("Content-Type", "application/json"), ("Warning", '299 - "é"')]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if WholeResponse.fits(request, 201):
            return WholeResponse(201, FIELDS, b'{"a":1}')
        return web.Response(status=201, body=b"aiohttp's")

    http = web.Server(answer, access_log=None)
    listener = await asyncio.get_running_loop().create_server(http, "127.0.0.1", 0)
    yield int(listener.sockets[0].getsockname()[1])
    listener.close()
    await http.shutdown(1.0)


async def exchange(port: int, *requests: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(requests))
    got = await reader.read()
    writer.close()
    return got


def request(method: str = "GET", version: str = "1.1", connection: str = "close") -> bytes:
    return f"{method} / HTTP/{version}\r\nHost: x\r\nConnection: {connection}\r\n\r\n".encode()


async def test_a_connection_serves_one_after_the_other_and_closes_when_asked(port: int) -> None:
    kept, closed, after = (await exchange(port, request(connection="keep-alive"), request())).split(b'{"a":1}')
    head, *lines = kept.decode().split("\r\n")
    assert head == "HTTP/1.1 201 Created" and lines[-2:] == ["", ""]
    fields = dict(line.split(": ", 1) for line in lines[:-2])
    date = email.utils.parsedate_to_datetime(fields.pop("Date"))
    assert abs(date.timestamp() - time.time()) < 600
    assert fields == {**dict(FIELDS), "Content-Length": "7"}
    assert b"\r\nConnection: close\r\n" in closed and after == b""


@pytest.mark.parametrize("asked", [request("HEAD"), request(version="1.0")])
async def test_what_it_does_not_speak_is_left_to_aiohttp(port: int, asked: bytes) -> None:
    got = await exchange(port, asked)
    assert got.split(b"\r\n", 1)[0].endswith(b"201 Created") and b'{"a":1}' not in got
    assert got.endswith(b"\r\n\r\n") is asked.startswith(b"HEAD")


class Unread:
    """A request whose client takes nothing until `taken`; `written` is what was sent to it."""

    keep_alive = True

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.taken = asyncio.Event()

    @property
    def writer(self) -> Unread:
        return self

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def drain(self) -> None:
        await self.taken.wait()


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "\r\n\r\n<html>", "a\0", "\x1b[2J"])
async def test_a_field_cannot_end_the_head_nor_hide_in_it(value: str) -> None:
    unread = Unread()
    with pytest.raises(ValueError, match="control characters"):
        await WholeResponse(200, [("Warning", value)], b"").prepare(unread)  # type: ignore[arg-type]
    assert unread.written == []


async def test_the_next_request_waits_until_the_answer_is_taken() -> None:
    """Or a client that sends on and reads nothing would fill the server's memory with answers."""
    unread = Unread()
    answer = asyncio.create_task(WholeResponse(200, FIELDS, b"{}").prepare(unread))  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        while not unread.written:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not answer.done()
    unread.taken.set()
    await answer
