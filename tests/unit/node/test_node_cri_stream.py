"""The client's side of exec and attach, against streaming servers that do not do what they should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cluster.node.cri import stream
from cluster.node.cri.stream import CriSession
from cluster.node.runtime import RuntimeFailure


class Server:
    """Reads a request, answers with `answer`, and holds the connection until the client lets go of it."""

    def __init__(self) -> None:
        self.answer = b""
        self.url = ""
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked.set()
            writer.write(self.answer)
            while await reader.read(1024):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.let_go.set()
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    made.url = f"http://{host}:{port}/exec/token"
    yield made
    listening.close()


async def connect(url: str) -> CriSession:
    return await CriSession.connect(url, stdin=False, stdout=True, stderr=True, tty=False)


async def test_a_server_that_never_answers_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_CONNECT_S", 0.2)
    async with asyncio.timeout(60):
        with pytest.raises(RuntimeFailure, match=r"did not answer within 0\.2 s"):
            await connect(server.url)


async def test_a_cancelled_connect_lets_go_of_its_connection(server: Server) -> None:
    async with asyncio.timeout(60):
        task = asyncio.create_task(connect(server.url))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.let_go.wait()


@pytest.mark.parametrize(
    ("answer", "told"),
    [(b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404 Not Found"), (b"what?\r\n\r\n", "answered"), (b"x" * 99999, "")],
)
async def test_a_refusal_is_told_and_lets_go_of_its_connection(server: Server, answer: bytes, told: str) -> None:
    server.answer = answer
    async with asyncio.timeout(60):
        with pytest.raises(RuntimeFailure, match=f"the runtime's streaming server.*{told}"):
            await connect(server.url)
        await server.let_go.wait()
