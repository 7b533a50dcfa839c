"""Protobuf's wire format, as far as messages of a few fields need it.

Pure. Such messages are coded by hand: a generated package for a dozen fields would be one more to keep. Unknown fields
are skipped, as protobuf asks. Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """A string, bytes, or a message within."""
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, bytes or integer) of a message. Raises ValueError when it is damaged."""
    at = 0
    try:
        while at < len(data):
            key, at = _read_varint(data, at)
            kind = key & 7
            if kind == _VARINT:
                value, at = _read_varint(data, at)
                yield key >> 3, value
            elif kind == _BYTES:
                size, at = _read_varint(data, at)
                if at + size > len(data):
                    raise IndexError(size)
                yield key >> 3, data[at : at + size]
                at += size
            elif kind in (_FIXED32, _FIXED64):
                at += 4 if kind == _FIXED32 else 8
            else:
                raise ValueError(f"wire type {kind} is unknown")
    except IndexError as err:
        raise ValueError("the message ends within a field") from err
