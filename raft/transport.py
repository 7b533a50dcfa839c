"""Framed connections over TCP with mutual TLS. IO on the event loop.

A connection reads frames into ``on_frame`` and counts what it will not take; whoever breaks a rule is told once and
cut off, and nothing else changes. Writing never blocks: ``writable`` turns false above a buffer limit, and callers
drop, wait (``drain``) or fall back accordingly.

Roles are the O (organization) of the peer's certificate, signed by the one CA of the group.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from raft.config import PEER_ROLE, TlsFiles
from raft.errors import Invalid, StoreError, TooLarge, Unavailable
from raft.wire import HEADER, HELLO_FRAME_BYTES, MAX_FRAME_BYTES, Hello, decode_answer, frame, pack, unpack

WRITE_HIGH_BYTES = 4 << 20
WRITE_LOW_BYTES = 1 << 20
HANDSHAKE_S = 5.0
DEAD_S = 3


def server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _set_up(context, files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Addresses are IPs that move with machines: it is the CA and the role that say who answers, not the name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _set_up(context, files)


def _set_up(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)
    return context


def role_of(transport: asyncio.BaseTransport) -> tuple[str, ...]:
    """Organizations of the peer's certificate; empty without TLS."""
    certificate = transport.get_extra_info("peercert") or {}
    subject = cast(tuple[tuple[tuple[str, str], ...], ...], certificate.get("subject", ()))
    return tuple(value for name in subject for kind, value in name if kind == "organizationName")


def notice_silence(sock: Any) -> None:
    """A machine that lost its power sends no FIN: the kernel gives up on it after DEAD_S, whether or not we write."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, DEAD_S)


class Connection(asyncio.Protocol):
    """One connection after (and during) its handshake. Set ``on_frame`` before frames may come."""

    def __init__(self) -> None:
        self.on_frame: Callable[[Any], None] | None = None
        self.on_closed: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.on_bad_frame: Callable[[StoreError], None] | None = None
        self.max_frame_bytes = HELLO_FRAME_BYTES
        self.writable = True
        self.closed = False
        self.peer = ""
        self.bytes_received = 0
        self.bytes_sent = 0
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._drained = asyncio.Event()
        self._drained.set()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        notice_silence(transport.get_extra_info("socket"))
        name = transport.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.writable = False
        self._drained.set()
        if self.on_closed is not None:
            self.on_closed()

    def pause_writing(self) -> None:
        self.writable = False
        self._drained.clear()

    def resume_writing(self) -> None:
        self.writable = True
        self._drained.set()
        if self.on_writable is not None:
            self.on_writable()

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        try:
            while end - at >= 4 and not self.closed:
                size = HEADER.unpack_from(buffer, at)[0]
                if size > self.max_frame_bytes:
                    raise TooLarge(size, self.max_frame_bytes)
                if end - at - 4 < size:
                    break
                with memoryview(buffer) as view, view[at + 4 : at + 4 + size] as body:
                    value = unpack(body)
                at += 4 + size
                if self.on_frame is not None:
                    self.on_frame(value)
        except StoreError as error:
            self.refuse(error)
        if at:
            del buffer[:at]

    # --- sending

    def send(self, value: Any) -> None:
        self.send_bytes(frame(pack(value)))

    def send_bytes(self, data: bytes) -> None:
        """Whole frames, made by wire.frame or wire.frames_of."""
        if self._transport is not None and not self.closed:
            self.bytes_sent += len(data)
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until more may be written. Raises Unavailable if the connection is gone."""
        await self._drained.wait()
        if self.closed:
            raise Unavailable(f"the connection to {self.peer} is gone")

    def refuse(self, error: StoreError) -> None:
        """Tell the other side what it did wrong, and end."""
        if self.closed:
            return
        if self.on_bad_frame is not None:
            self.on_bad_frame(error)
        self.send(["error", error.code, str(error)])
        self.close()

    def close(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.close()
        self.closed = True

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.closed = True

    def roles(self) -> tuple[str, ...]:
        return role_of(self._transport) if self._transport is not None else ()

    @property
    def encrypted(self) -> bool:
        return self._transport is not None and self._transport.get_extra_info("ssl_object") is not None


class Listener:
    """Accepts connections of one role; ``accept(connection, hello)`` gets those whose handshake is right.

    ``accept`` raises StoreError to refuse; it must set ``on_frame``.
    """

    def __init__(
        self,
        accept: Callable[[Connection, Hello], None],
        *,
        role: str,
        purposes: tuple[str, ...],
        cluster_id: str,
        member_id: int,
        on_refused: Callable[[str], None],
        max_connections: int,
    ) -> None:
        self._accept = accept
        self._role = role
        self._purposes = purposes
        self._cluster_id = cluster_id
        self._answer = Hello("", cluster_id, member_id)
        self._on_refused = on_refused
        self._max = max_connections
        self._server: asyncio.Server | None = None
        self.connections: dict[int, Connection] = {}
        self._past_received = 0
        self._past_sent = 0

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        handshake_s = None if tls is None else HANDSHAKE_S
        self._server = await loop.create_server(
            self._connection, host, port, ssl=tls, ssl_handshake_timeout=handshake_s
        )

    def _connection(self) -> Connection:
        return _Accepted(self)

    def made(self, connection: Connection) -> None:
        if len(self.connections) >= self._max:
            connection.abort()
            self._on_refused("too_many_connections")
            return
        self.connections[id(connection)] = connection
        connection.on_frame = lambda value: self._hello(connection, value)
        connection.on_bad_frame = lambda error: self._on_refused(error.code)
        timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, self._too_slow, connection)
        connection.on_closed = timer.cancel

    def _too_slow(self, connection: Connection) -> None:
        if connection.max_frame_bytes == HELLO_FRAME_BYTES:
            connection.refuse(Invalid("the handshake is missing"))

    def lost(self, connection: Connection) -> None:
        if self.connections.pop(id(connection), None) is not None:
            self._past_received += connection.bytes_received
            self._past_sent += connection.bytes_sent

    def traffic_bytes(self) -> tuple[int, int]:
        """(received, sent) on all connections there ever were."""
        now = self.connections.values()
        received = sum(connection.bytes_received for connection in now)
        return self._past_received + received, self._past_sent + sum(connection.bytes_sent for connection in now)

    def _hello(self, connection: Connection, value: Any) -> None:
        hello = Hello.decode(value)
        if connection.encrypted and self._role not in connection.roles():
            held = ", ".join(connection.roles()) or "none"
            raise Invalid(f"certificate of role {held}: this port needs {self._role}")
        if hello.purpose not in self._purposes:
            raise Invalid(f"purpose {hello.purpose!r} is not served here: {', '.join(self._purposes)}")
        if hello.cluster_id not in ("", self._cluster_id) or (self._role == PEER_ROLE and not hello.cluster_id):
            raise Invalid(f"this member belongs to cluster {self._cluster_id}, not to {hello.cluster_id!r}")
        self._accept(connection, hello)
        connection.max_frame_bytes = MAX_FRAME_BYTES
        answer = self._answer.encode()
        connection.send([answer[0], answer[1], answer[3], answer[4]])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections.values()):
            connection.close()


class _Accepted(Connection):
    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.lost(self)
        super().connection_lost(exc)


async def dial(
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    hello: Hello,
    roles: tuple[str, ...],
    timeout_s: float = HANDSHAKE_S,
) -> tuple[Connection, str, int]:
    """Connect and shake hands; who answers (cluster id, member id). ``roles``: those the answerer may have.

    Raises Unavailable (nobody there) or Invalid (somebody else there). Who dials speaks first: set ``on_frame`` before.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[str, int]] = loop.create_future()
    connection = Connection()

    def first(value: Any) -> None:
        if answered.done():
            return
        try:
            if connection.encrypted and not set(roles) & set(connection.roles()):
                raise Invalid(f"{host}:{port} has a certificate of role {connection.roles()}, not {roles}")
            answered.set_result(decode_answer(value))
            connection.max_frame_bytes = MAX_FRAME_BYTES
        except StoreError as error:
            answered.set_exception(error)

    def gone() -> None:
        if not answered.done():
            answered.set_exception(Unavailable(f"{host}:{port} closed the connection during the handshake"))

    connection.on_frame, connection.on_closed = first, gone
    try:
        async with asyncio.timeout(timeout_s):
            await loop.create_connection(lambda: connection, host, port, ssl=tls)
            connection.send(hello.encode())
            cluster_id, member_id = await answered
    except (OSError, TimeoutError) as error:
        connection.abort()
        raise Unavailable(f"cannot reach {host}:{port}: {str(error) or 'timed out'}") from error
    except BaseException:
        connection.abort()
        raise
    finally:
        if not answered.cancel() and not answered.cancelled():  # the connection may end later: nobody waits by then
            answered.exception()  # seen, whatever was raised instead
    if hello.cluster_id and cluster_id != hello.cluster_id:
        connection.abort()
        raise Invalid(f"{host}:{port} belongs to cluster {cluster_id}, not to {hello.cluster_id}")
    return connection, cluster_id, member_id
