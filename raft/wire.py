"""What crosses the wire: frames, the handshake, the shapes of requests and answers. Pure.

A frame is a 4-byte big-endian length and that many bytes of msgpack. The first frame each way is the handshake:

    caller:    ["sk8-store", PROTOCOL, purpose "peer"|"client"|"snapshot", cluster id ("" = any), member id (0 = none)]
    answerer:  ["sk8-store", PROTOCOL, cluster id, member id]     or  ["error", code, text] and the end

Then, by purpose:
- peer:      frames of a list of core messages in wire form; ["ping", time], answered by ["pong", time].
- hash:      [revision]; the answer is [True, hash, revision, compacted] or [False, code, text].
- client:    callers send lists of [request id, operation, argument...]; members send lists of
             [request id, True, result], [request id, False, [code, text, leader host, leader client port]] and
             [0, watch id | [watch id...], revision, [event...]], [0, watch id, -1, [code, text]] (a watch that ended).
             An event is [type, key value, previous key value | nil], a key value a list of its six fields.
- snapshot:  [core message, size] [bytes]... [sha256]; the answer is [True] or [False, text].
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from raft.errors import Invalid, NotLeader, Removed, StoreError, TooLarge

PROTOCOL = 2
"""Of both sides alike. One of 1 would misread what is sent here: watch frames for several watches, `checkpoint` in the
log, leases in the state."""
MAGIC = "sk8-store"
HEADER = struct.Struct(">I")
HELLO_FRAME_BYTES = 4096
MAX_FRAME_BYTES = 32 << 20
SOFT_FRAME_BYTES = 1 << 20
"""Lists are cut into frames of about this size."""

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def pack(value: Any) -> bytes:
    packed: bytes = _packer.pack(value)
    return packed


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Raises Invalid."""
    try:
        return msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as e:  # TypeError: a map's key
        raise Invalid(f"frame is not msgpack: {e}") from e


def array_header(n: int) -> bytes:
    if n < 16:
        return bytes((0x90 | n,))
    if n < 1 << 16:
        return b"\xdc" + n.to_bytes(2, "big")
    return b"\xdd" + n.to_bytes(4, "big")


def frame(body: bytes) -> bytes:
    if len(body) > MAX_FRAME_BYTES:
        raise TooLarge(len(body), MAX_FRAME_BYTES)
    return HEADER.pack(len(body)) + body


def frames_of(items: Sequence[bytes]) -> list[bytes]:
    """Packed items as lists, each list a frame of about SOFT_FRAME_BYTES (or of one item)."""
    frames: list[bytes] = []
    start = size = 0
    for i, item in enumerate(items):
        if size and size + len(item) > SOFT_FRAME_BYTES:
            frames.append(frame(array_header(i - start) + b"".join(items[start:i])))
            start, size = i, 0
        size += len(item)
    if start < len(items):
        frames.append(frame(array_header(len(items) - start) + b"".join(items[start:])))
    return frames


class Hello(NamedTuple):
    purpose: str
    cluster_id: str
    member_id: int

    def encode(self) -> list[Any]:
        return [MAGIC, PROTOCOL, self.purpose, self.cluster_id, self.member_id]

    @classmethod
    def decode(cls, value: Any) -> Hello:
        """Raises Invalid."""
        shape = (str, int, str, str, int)
        if not isinstance(value, list) or len(value) < 2 or value[0] != MAGIC:
            raise Invalid("this is a State member's port: the handshake is missing")
        if value[1] != PROTOCOL:
            raise Invalid(f"protocol version {value[1]!r} is not spoken here: this member speaks {PROTOCOL}")
        if len(value) != 5 or not all(isinstance(v, t) for v, t in zip(value, shape, strict=True)):
            raise Invalid("malformed handshake")
        return cls(value[2], value[3], value[4])


def decode_answer(value: Any) -> tuple[str, int]:
    """Cluster id and member id of who answered the handshake. Raises Invalid, or the error that was sent."""
    if isinstance(value, list) and len(value) == 3 and value[0] == "error":
        refused = Removed if value[1] == Removed.code else Invalid
        raise refused(f"refused by the member: {value[2]}")
    if not isinstance(value, list) or len(value) != 4 or value[0] != MAGIC or value[1] != PROTOCOL:
        raise Invalid("the answer to the handshake is not that of a State member of this version")
    return str(value[2]), int(value[3])


def error_result(error: Exception, leader: tuple[str, int] = ("", 0)) -> list[Any]:
    """The wire form of an error; ``leader`` is where to ask instead, for NotLeader."""
    code = getattr(error, "code", "internal")
    host, port = leader if isinstance(error, NotLeader) else ("", 0)
    text = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
    return [code, text, host, port]
