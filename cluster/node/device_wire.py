"""The few messages of the device plugin API, v1beta1, as bytes (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1).

Pure. Coded by hand like the gRPC probe's: a dozen fields of strings do not need a generated package. Unknown fields are
skipped, as protobuf asks. Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.node.device_core import Grant

VERSION = "v1beta1"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    version: str
    endpoint: str
    resource: str


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
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


def _strings(data: bytes) -> dict[int, str]:
    return {number: value.decode() for number, value in _fields(data) if isinstance(value, bytes)}


def register_request(data: bytes) -> RegisterRequest:
    texts = _strings_of(data, (1, 2, 3))
    return RegisterRequest(texts.get(1, ""), texts.get(2, ""), texts.get(3, ""))


def _strings_of(data: bytes, numbers: Sequence[int]) -> dict[int, str]:
    return {n: v.decode() for n, v in _fields(data) if n in numbers and isinstance(v, bytes)}


def devices(data: bytes) -> dict[str, bool]:
    """ListAndWatchResponse: each device's id, and whether it is healthy."""
    listed = [_strings_of(v, (1, 2)) for n, v in _fields(data) if n == 1 and isinstance(v, bytes)]
    return {device[1]: device.get(2) == "Healthy" for device in listed if 1 in device}


def allocate_request(ids: Sequence[str]) -> bytes:
    """AllocateRequest of one container."""
    return _field(1, b"".join(_field(1, device.encode()) for device in ids))


def grant(data: bytes) -> Grant:
    """AllocateResponse of one container."""
    envs: dict[str, str] = {}
    mounts: list[tuple[str, str, bool]] = []
    nodes: list[tuple[str, str, str]] = []
    for outer, response in _fields(data):
        if outer != 1 or not isinstance(response, bytes):
            continue
        for number, value in _fields(response):
            if not isinstance(value, bytes):
                continue
            texts = _strings(value) if number in (1, 2, 3) else {}
            if number == 1:
                envs[texts.get(1, "")] = texts.get(2, "")
            elif number == 2:
                read_only = any(n == 3 and v == 1 for n, v in _fields(value))
                mounts.append((texts.get(1, ""), texts.get(2, ""), read_only))
            elif number == 3:
                nodes.append((texts.get(1, ""), texts.get(2, ""), texts.get(3, "rw")))
    return Grant(envs, tuple(mounts), tuple(nodes))
