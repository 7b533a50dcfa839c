"""TCP from one network namespace to another, between two processes: how much passes, and how long a byte takes there
and back.

    python -m benchmarks._traffic serve NAMESPACE PORT                              says `ready`, until killed
    python -m benchmarks._traffic ask NAMESPACE ADDRESS PORT SECONDS ROUND_TRIPS    one line of JSON

A connection's first byte says what it is for: S, everything that comes is counted, and the count is the answer; P,
every byte is sent back. Chunks are large, so that the interpreter is a small part of what is measured.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks._namespaces import enter

STREAM, PING = b"S", b"P"
_CHUNK = 256 << 10
_TIMEOUT_S = 10.0
_COUNT = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Answer:
    """`round_trips_us`: one connection, one byte each way at a time."""

    bytes_per_s: float
    round_trips_us: list[float]


@contextlib.contextmanager
def server(namespace: str, port: int) -> Iterator[None]:
    """A server on every address of the namespace. Raises RuntimeError when it does not come up."""
    with subprocess.Popen(_command("serve", namespace, port), stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError(f"no server of traffic in {namespace}")
            yield
        finally:
            process.kill()


def ask(namespace: str, address: str, port: int, *, seconds: float, round_trips: int) -> Answer:
    """Raises CalledProcessError or TimeoutExpired where nothing passes."""
    command = _command("ask", namespace, address, port, seconds, round_trips)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 4 * _TIMEOUT_S)
    return Answer(**json.loads(done.stdout))


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks._traffic", *map(str, arguments)]


def _serve(port: int) -> None:
    with socket.create_server(("0.0.0.0", port)) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):  # who asked has gone: the next one
                _answer(connection)


def _answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if connection.recv(1) == PING:
        while byte := connection.recv(1):
            connection.sendall(byte)
        return
    buffer, count = bytearray(_CHUNK), 0
    while got := connection.recv_into(buffer):
        count += got
    connection.sendall(_COUNT.pack(count))


def _connect(address: str, port: int, what: bytes) -> socket.socket:
    connection = socket.create_connection((address, port), _TIMEOUT_S)
    connection.settimeout(None)  # whoever waits for this process ends it; a time-out costs a poll for each send
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(what)
    return connection


def _stream(address: str, port: int, seconds: float) -> float:
    """Bytes a second, until the receiver has counted the last."""
    chunk = bytes(_CHUNK)
    with _connect(address, port, STREAM) as connection:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
        (count,) = _COUNT.unpack(connection.recv(_COUNT.size, socket.MSG_WAITALL))
        return float(count / (time.perf_counter() - began))


def _ping(address: str, port: int, round_trips: int) -> list[float]:
    took = []
    with _connect(address, port, PING) as connection:
        for _ in range(round_trips):
            before = time.perf_counter()
            connection.sendall(b"?")
            connection.recv(1)
            took.append((time.perf_counter() - before) * 1e6)
    return took


def main(mode: str, namespace: str, *rest: str) -> None:
    enter(namespace)
    if mode == "serve":
        _serve(int(rest[0]))
        return
    address, port, seconds, round_trips = rest[0], int(rest[1]), float(rest[2]), int(rest[3])
    rate = _stream(address, port, seconds)
    print(json.dumps({"bytes_per_s": rate, "round_trips_us": _ping(address, port, round_trips)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
