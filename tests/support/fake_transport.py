"""The transport of a connection that has no socket."""

from __future__ import annotations

from typing import Any


class FakeTransport:
    """Stands where a connection's socket would: keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True
