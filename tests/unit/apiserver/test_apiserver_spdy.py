"""exec and port-forward of a client that speaks plain SPDY/3.1, through a stand-in kubelet that speaks WebSocket."""

import asyncio
import contextlib
import json
import ssl
from collections import defaultdict

import pytest
from aiohttp import WSMsgType, web

from cluster.api.spdy import Data, GoAway, Ping, Reset, SpdyConnection
from cluster.apiserver import spdy
from tests.support.apiserver_harness import edge, pod_on_kubelet
from tests.support.eventually import until
from tests.support.stand_in import listening

PODS = "/api/v1/namespaces/default/pods"
EXITED = {
    "metadata": {},
    "status": "Failure",
    "message": "command terminated with non-zero exit code: exit status 3",
    "reason": "NonZeroExitCode",
    "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
}


@contextlib.asynccontextmanager
async def kubelet(pki):
    """A `cat` that exits with 3 at the end of its input, and an echo. Gives its port and what it was told."""
    told: list[bytes | str] = []

    async def cat(request: web.Request) -> web.StreamResponse:
        told.append(request.path_qs)
        ws = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"), max_msg_size=0)
        await ws.prepare(request)
        await ws.send_bytes(b"\x02ready")
        if request.query.get("command") == "deaf":  # ends with its input unread
            await asyncio.sleep(0.3)
            await ws.send_bytes(b"\x01" + b"o" * 1_000_000)
            await ws.send_bytes(b"\x03" + json.dumps(EXITED).encode())
            await ws.close()
            told.append("closed")
            return ws
        async for message in ws:
            if message.data[:1] == b"\x00":
                await ws.send_bytes(b"\x01" + message.data[1:])
                continue
            told.append(message.data)
            if message.data == b"\xff\x00":
                await ws.send_bytes(b"\x03" + json.dumps(EXITED).encode())
                await ws.close()
        told.append("closed")
        return ws

    async def echo(request: web.Request) -> web.StreamResponse:
        told.append(request.path_qs)
        ws = web.WebSocketResponse(protocols=("SPDY/3.1+portforward.k8s.io",))
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data)
        told.append("closed")
        return ws

    app = web.Application()
    app.router.add_get("/exec/{ns}/{pod}/{c}", cat)
    app.router.add_get("/attach/{ns}/{pod}/{c}", cat)
    app.router.add_get("/portForward/{ns}/{pod}", echo)
    async with listening(app, pki.server_context()) as port:
        yield port, told


@pytest.fixture
async def world(pki):
    async with kubelet(pki) as (port, told), edge(pki) as server:
        await pod_on_kubelet(server, port)
        yield server, told


class Client:
    """Streams by name; what came on them, and whether it was all."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: str) -> None:
        self.reader, self.writer, self.protocol = reader, writer, protocol
        self.spdy = SpdyConnection()
        self.streams: dict[str, int] = {}
        self.came: dict[str, bytes] = defaultdict(bytes)
        self.ended: set[str] = set()
        self.events: list[object] = []

    def open(self, *names: str) -> None:
        for name in names:
            self.streams[name] = 2 * len(self.streams) + 1
            self.writer.write(self.spdy.open(self.streams[name], {"streamtype": name}))

    def say(self, name: str, data: bytes, *, fin: bool = False) -> None:
        self.writer.write(self.spdy.data(self.streams[name], data, fin=fin))

    async def read(self, until) -> None:
        """Read on until `until()` or the server closes."""
        names = {stream: name for name, stream in self.streams.items()}
        async with asyncio.timeout(60):
            while not until() and (data := await self.reader.read(65536)):
                for event in self.spdy.receive(data):
                    self.events.append(event)
                    if isinstance(event, Data):
                        self.came[names[event.stream]] += event.data
                        if event.fin:
                            self.ended.add(names[event.stream])
        assert until()

    async def finish(self) -> None:
        """Until the server has said goodbye, and closed once we have."""
        await self.read(lambda: any(isinstance(e, GoAway) for e in self.events))
        assert self.ended == set(self.streams)
        self.writer.close()


async def answer(server, path: str, *protocols: str, method: str = "POST", cert: str = "admin"):
    """The answer's status and headers, and the connection."""
    host, port = server.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=server.pki.client_context(cert))
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
    lines += [f"X-Stream-Protocol-Version: {p}" for p in protocols]
    lines += ["Content-Length: 0"] if method == "POST" else []
    writer.write("\r\n".join([*lines, "\r\n"]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, reader, writer


@contextlib.asynccontextmanager
async def upgraded(server, path: str, *protocols: str, method: str = "POST"):
    status, headers, reader, writer = await answer(server, path, *protocols, method=method)
    assert (status, headers["upgrade"], headers["connection"]) == (101, "spdy/3.1", "upgrade")
    assert "transfer-encoding" not in headers and "content-length" not in headers
    try:
        yield Client(reader, writer, headers["x-stream-protocol-version"])
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@pytest.mark.parametrize(("method", "what"), [("POST", "exec"), ("GET", "exec"), ("POST", "attach")])
async def test_input_output_and_exit_code(world, method, what):
    server, told = world
    query = "stdin=true&stdout=true&stderr=true" + ("&command=cat" if what == "exec" else "")
    offered = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
    async with upgraded(server, f"{PODS}/p/{what}?{query}", *offered, method=method) as client:
        assert client.protocol == "v4.channel.k8s.io"
        client.open("error", "stdin", "stdout", "stderr")
        big = b"0123456789abcdef" * 100_000
        client.say("stdin", big)
        await client.read(lambda: len(client.came["stdout"]) == len(big))
        assert client.came["stdout"] == big
        client.writer.write(client.spdy.pong(7))  # a ping and its answer look the same
        client.say("stdin", b"", fin=True)
        await client.finish()
    assert client.came["stderr"] == b"ready"
    assert json.loads(client.came["error"]) == EXITED
    assert Ping(7) in client.events
    assert told[:2] == [f"/{what}/default/p/c?{query}", b"\xff\x00"]


@pytest.mark.parametrize("protocol", ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
async def test_older_protocols_are_told_the_failure_as_text(world, protocol):
    server, _ = world
    async with upgraded(server, f"{PODS}/p/exec?stdin=true&stdout=true&command=cat", protocol) as client:
        assert client.protocol == protocol
        client.open("error", "stdin", "stdout")
        client.say("stdin", b"bye", fin=True)
        await client.finish()
    assert client.came == {"stdout": b"bye", "error": EXITED["message"].encode(), "stdin": b""}


async def test_output_waits_for_its_streams_and_a_terminal_has_a_size(world):
    server, told = world
    query = "stdin=true&stdout=true&stderr=true&tty=true&command=cat"
    async with upgraded(server, f"{PODS}/p/exec?{query}", "v4.channel.k8s.io") as client:
        client.open("error", "stdin", "resize")
        client.say("resize", b'{"Width":80,"Hei')
        client.say("resize", b'ght":24}\n{"Width":81,"Height":25}\n')
        client.say("stdin", b"early")
        await until(lambda: told[1:] == [b'\x04{"Width":80,"Height":24}', b'\x04{"Width":81,"Height":25}'])
        client.open("stdout")
        await client.read(lambda: client.came["stdout"] == b"early")
        client.say("stdin", b"", fin=True)
        await client.finish()


async def test_a_command_that_ends_while_its_input_is_coming(world):
    server, told = world
    query = "stdin=true&stdout=true&stderr=true&command=deaf"
    async with upgraded(server, f"{PODS}/p/exec?{query}", "v4.channel.k8s.io") as client:
        client.open("error", "stdin", "stdout", "stderr")

        async def feed() -> None:
            while True:
                client.say("stdin", b"z" * 32768)
                await client.writer.drain()

        feeding = asyncio.create_task(feed())
        await client.finish()
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    assert (len(client.came["stdout"]), json.loads(client.came["error"])) == (1_000_000, EXITED)
    await until(lambda: told[-1] == "closed")


async def test_a_client_that_leaves_closes_the_kubelets_side(world):
    server, told = world
    async with upgraded(server, f"{PODS}/p/exec?stdout=true&command=cat", "v4.channel.k8s.io") as client:
        client.open("error", "stdout", "nonsense")
        await client.read(lambda: Reset(client.streams["nonsense"]) in client.events)
    await until(lambda: told[-1] == "closed")


async def test_a_client_that_opens_no_streams_is_not_waited_for_for_ever(world, monkeypatch):
    server, told = world
    monkeypatch.setattr(spdy, "_STREAMS_S", 0.05)
    async with upgraded(server, f"{PODS}/p/exec?stdout=true&command=cat", "v4.channel.k8s.io") as client:
        async with asyncio.timeout(60):
            assert await client.reader.read() == b""
    await until(lambda: told[-1] == "closed")


async def test_a_client_that_speaks_something_else_is_cut_off(world):
    server, told = world
    async with upgraded(server, f"{PODS}/p/exec?stdout=true&command=cat", "v4.channel.k8s.io") as client:
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n\xff\xff\xff\xff")
        async with asyncio.timeout(60):
            assert await client.reader.read() == b""
    await until(lambda: told[-1] == "closed")


async def test_port_forward_carries_the_connection_as_it_is(world):
    server, told = world
    async with upgraded(server, f"{PODS}/p/portforward", "portforward.k8s.io") as client:
        assert client.protocol == "portforward.k8s.io"
        client.writer.write(b"anything at all")
        async with asyncio.timeout(60):
            assert await client.reader.readexactly(15) == b"anything at all"
    await until(lambda: told == ["/portForward/default/p", "closed"])


@pytest.mark.parametrize(
    ("path", "protocols", "expected", "message"),
    [
        ("exec?stdout=true&command=x", (), 400, "X-Stream-Protocol-Version is required"),
        ("exec?stdout=true&command=x", ("v9.channel.k8s.io",), 403, "client supports [v9.channel.k8s.io]"),
        ("portforward", ("v4.channel.k8s.io",), 403, "server accepts [portforward.k8s.io]"),
        ("exec?stdout=true", ("v4.channel.k8s.io",), 400, "at least one command"),
        ("exec?command=x", ("v4.channel.k8s.io",), 400, "at least one of stdin, stdout, stderr"),
        ("exec?command=x&stdout=true&container=z", ("v4.channel.k8s.io",), 400, "container z is not valid for pod p"),
    ],
)
async def test_refusals(world, path, protocols, expected, message):
    server, told = world
    status, headers, reader, writer = await answer(server, f"{PODS}/p/{path}", *protocols)
    body = json.loads(await reader.readexactly(int(headers["content-length"])))
    writer.close()
    assert (status, body["kind"], told) == (expected, "Status", [])
    assert message in body["message"]
    if expected == 403:
        accepted = headers["x-accepted-stream-protocol-versions"]
        served = "portforward.k8s.io" if path == "portforward" else "v4.channel.k8s.io, v3.channel.k8s.io, "
        assert accepted.startswith(served)
    assert ("x-accepted-stream-protocol-versions" in headers) == (expected == 403)


async def test_who_may_not_create_pods_exec_is_forbidden(world):
    server, told = world
    server.pki.issue("nobody", "nobody")
    path = f"{PODS}/p/exec?stdout=true&command=x"
    status, _, _, writer = await answer(server, path, "v4.channel.k8s.io", cert="nobody")
    writer.close()
    assert (status, told) == (403, [])
