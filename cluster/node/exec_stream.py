"""exec and attach over WebSocket, as Kubernetes' remotecommand subprotocols.

IO: one WebSocket, one engine session. What its messages mean says cluster/api/remotecommand.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMsgType, web

from cluster.api.remotecommand import CLOSE, ERROR, RESIZE, STDIN, Dialect
from cluster.node.runtime import RuntimeFailure, Session

log = logging.getLogger(__name__)
_CHUNK = 32 * 1024
CLOSE_S = 2.0


def status_of(exit_code: int) -> dict[str, Any]:
    """The last words on the error channel for a command that ended."""
    if exit_code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {exit_code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(exit_code)}]},
    }


def failure(message: str) -> dict[str, Any]:
    return {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}


@dataclass(frozen=True, slots=True)
class _Client:
    """The other end, in its subprotocol."""

    socket: web.WebSocketResponse
    dialect: Dialect

    async def send(self, channel: int, data: bytes) -> None:
        message = self.dialect.encode(channel, data)
        if isinstance(message, str):
            await self.socket.send_str(message)
        else:
            await self.socket.send_bytes(message)

    async def send_status(self, status: dict[str, Any]) -> None:
        if self.dialect.status:
            await self.send(ERROR, json.dumps(status).encode())
        elif status["status"] != "Success":
            await self.send(ERROR, status["message"].encode())


async def serve(socket: web.WebSocketResponse, session: Session, *, stdin: bool) -> None:
    """Pump until the command's output ends or the client goes; the status goes out last.

    Input may be stuck at a command that does not read it; the command's end sets the pump free, and closing the socket
    reads away what the client still sends until it answers (at most CLOSE_S, the socket's timeout).
    """
    client = _Client(socket, Dialect.of(socket.ws_protocol))
    incoming = asyncio.get_running_loop().create_task(_pump_in(client, session, stdin=stdin))
    outgoing = asyncio.get_running_loop().create_task(_pump_out(client, session))
    try:
        await asyncio.wait([incoming, outgoing], return_when=asyncio.FIRST_COMPLETED)
        if not outgoing.done():
            return  # the client is gone; closing the session hangs the command up
        await outgoing
        await _end(incoming)  # nobody else may be reading the socket when it is closed
        try:
            status = status_of(await session.exit_code())
        except RuntimeFailure as err:
            status = failure(str(err))
        await client.send_status(status)
    except ConnectionError as err:
        log.debug("exec: the client went away: %s", err)
    finally:
        await _end(incoming, outgoing)
        await session.close()
        await _bounded(socket.close())


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _bounded(closing: Awaitable[bool]) -> None:
    """A client that does not even take our close frame is left."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * CLOSE_S):
            await closing


async def _pump_out(client: _Client, session: Session) -> None:
    async for stream, data in session.read():
        for start in range(0, len(data), _CHUNK):
            await client.send(stream, data[start : start + _CHUNK])


async def _pump_in(client: _Client, session: Session, *, stdin: bool) -> None:
    """Returns when the client closes the socket."""
    async for message in client.socket:
        if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
            continue
        data = message.data if isinstance(message.data, bytes) else message.data.encode()
        if not data:
            continue
        try:
            channel, payload = client.dialect.decode(data)
        except ValueError as err:
            log.debug("exec: a message that is none of %s was dropped: %s", client.socket.ws_protocol, err)
            continue
        if channel == STDIN and stdin and payload:
            await session.write(payload)
        elif channel == RESIZE:
            await _resize(session, payload)
        elif channel == CLOSE and payload[:1] == bytes([STDIN]):
            await session.close_stdin()


async def _resize(session: Session, payload: bytes) -> None:
    try:
        size = json.loads(payload)
        await session.resize(int(size["Height"]), int(size["Width"]))
    except (ValueError, KeyError, TypeError, RuntimeFailure) as err:
        log.debug("exec: resize ignored: %s", err)
