"""Connecting to a port of a pod from inside its network namespace, where its localhost is.

IO: a short-lived thread enters the namespace and makes the socket there; a socket stays where it was made, so it is
connected on the loop like any other. Source: what CRI's PortForward asks of a runtime.
"""

from __future__ import annotations

import asyncio
import os
import socket

from cluster.node.cni import in_namespace

_CONNECT_S = 10.0


async def dial(netns: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To localhost:port, IPv4 first. `netns` "" is our own namespace. Raises OSError with both reasons."""
    reasons = []
    for family, host, name in ((socket.AF_INET, "127.0.0.1", "IPv4"), (socket.AF_INET6, "::1", "IPv6")):
        try:
            made = await asyncio.to_thread(_socket_in, netns, family)
        except OSError as err:
            reasons.append(f"{name}: {err}")
            continue
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(made, (host, port))
                return await asyncio.open_connection(sock=made)
        except (OSError, TimeoutError) as err:
            made.close()
            reasons.append(f"{name}: dial {host}:{port}: {_why(err)}")
    raise OSError(f"failed to connect to localhost:{port} inside the pod's network namespace, {', '.join(reasons)}")


def _why(err: OSError | TimeoutError) -> str:
    """asyncio's own text would name the address again."""
    return os.strerror(err.errno).lower() if err.errno else "i/o timeout"


def _socket_in(netns: str, family: socket.AddressFamily) -> socket.socket:
    made: list[socket.socket] = []

    def make() -> None:
        made.append(socket.socket(family, socket.SOCK_STREAM))

    if netns:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            in_namespace(fd, make)
        finally:
            os.close(fd)
    else:
        make()
    made[0].setblocking(False)
    return made[0]
