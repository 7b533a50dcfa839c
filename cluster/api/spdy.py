"""SPDY/3.1 frames of one connection: bytes in, events out. A server's side, and a client's that opens all streams.

Pure (no IO). kubectl port-forward, older clients of exec and CRI runtimes speak it. Source: "SPDY Protocol - Draft 3.1"
(Belshe, Peon), and what Kubernetes' clients use of it: streams that the client opens with headers, data both ways, half
close, reset, ping, goodbye. Flow control is left to TCP: those clients neither send nor heed WINDOW_UPDATE.

A control frame is   1|version:15|type:16|flags:8|length:24|...   a data frame   0|stream:31|flags:8|length:24|data.
Header blocks are zlib streams that last as long as the connection and begin with a dictionary both sides know.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_NAMES = """options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age
allow authorization cache-control connection content-base content-encoding content-language content-length
content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since
if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate
proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning
www-authenticate method get status"""
_WORDS = (*_NAMES.split(), "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 "
    "Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec "
    "00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8"
    "charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack(">I", len(w)) + w.encode() for w in _WORDS) + _TEXT.encode()
"""The draft's appendix; Adler-32 0xe3c6a7c2, which every header block of SPDY/3 begins with."""

_VERSION = 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
FLAG_FIN = 1
_MAX_FRAME = 1 << 20
_CHUNK = 32 * 1024


class SpdyError(Exception):
    """The peer broke the protocol; the connection is of no use any more."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream. Header names are lower case. `fin`: it will send nothing on it."""

    stream: int
    headers: dict[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class Data:
    stream: int
    data: bytes
    fin: bool


@dataclass(frozen=True, slots=True)
class Reset:
    stream: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with `pong`."""

    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer opens no more streams."""


Event = Opened | Data | Reset | Ping | GoAway


class SpdyConnection:
    """`receive` what came, send what the other methods return."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def receive(self, data: bytes) -> list[Event]:
        """The events of every frame that is complete now. Raises SpdyError."""
        self._buffer += data
        events: list[Event] = []
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            length = second & 0xFFFFFF
            if length > _MAX_FRAME:
                raise SpdyError(f"a frame of {length} bytes is too long")
            if len(self._buffer) < 8 + length:
                break
            body = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            event = self._frame(first, second >> 24, body)
            if event is not None:
                events.append(event)
        return events

    def _frame(self, first: int, flags: int, body: bytes) -> Event | None:
        if not first & 0x80000000:
            return Data(first, body, bool(flags & FLAG_FIN))
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != _VERSION:
            raise SpdyError(f"SPDY version {version} is not spoken here")
        try:
            if kind == _SYN_STREAM:
                stream = struct.unpack_from(">I", body)[0] & 0x7FFFFFFF
                return Opened(stream, self._headers(body[10:]), bool(flags & FLAG_FIN))
            if kind == _RST_STREAM:
                return Reset(struct.unpack_from(">I", body)[0] & 0x7FFFFFFF)
            if kind == _PING:
                return Ping(struct.unpack_from(">I", body)[0])
        except struct.error as err:
            raise SpdyError(f"a frame of type {kind} is too short") from err
        return GoAway() if kind == _GOAWAY else None  # SETTINGS, WINDOW_UPDATE and the like change nothing for us

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, _MAX_FRAME)
            words: list[str] = []
            count, at = struct.unpack_from(">I", plain)[0], 4
            for _ in range(2 * count):
                length = struct.unpack_from(">I", plain, at)[0]
                words.append(plain[at + 4 : at + 4 + length].decode("utf-8", "replace"))
                at += 4 + length
        except (zlib.error, struct.error) as err:
            raise SpdyError(f"a header block cannot be read: {err}") from err
        return {name.lower(): value for name, value in zip(words[::2], words[1::2], strict=True)}

    # ------------------------------------------------------------ frames to send

    def open(self, stream: int, headers: dict[str, str]) -> bytes:
        """Open a stream as a client (SYN_STREAM); its numbers are odd and grow."""
        plain = b"".join(
            struct.pack(">I", len(word)) + word for pair in headers.items() for word in map(str.encode, pair)
        )
        block = self._deflate.compress(struct.pack(">I", len(headers)) + plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control(_SYN_STREAM, struct.pack(">IIH", stream, 0, 0) + block)

    def reply(self, stream: int) -> bytes:
        """Accept a stream (SYN_REPLY without headers)."""
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control(_SYN_REPLY, struct.pack(">I", stream) + block)

    def data(self, stream: int, data: bytes, *, fin: bool = False) -> bytes:
        """`data` in frames of at most 32 KiB; `fin` on the last of them."""
        pieces = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)] or [b""]
        last = len(pieces) - 1
        return b"".join(
            struct.pack(">II", stream, (FLAG_FIN if fin and i == last else 0) << 24 | len(piece)) + piece
            for i, piece in enumerate(pieces)
        )

    def reset(self, stream: int, status: int = 5) -> bytes:
        """End a stream at once; 5 is CANCEL."""
        return _control(_RST_STREAM, struct.pack(">II", stream, status))

    def pong(self, ping: int) -> bytes:
        return _control(_PING, struct.pack(">I", ping))

    def go_away(self, last_stream: int, status: int = 0) -> bytes:
        """Accept no more streams; `last_stream` is the last that was. 0 is OK."""
        return _control(_GOAWAY, struct.pack(">II", last_stream, status))


def _control(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8000 | _VERSION, kind, flags << 24 | len(body)) + body
