"""Frames: whatever arrives, in whatever pieces, is either understood or refused once."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.core.types import Entry, Message, MessageKind
from raft.errors import Invalid, StoreError, TooLarge
from raft.transport import Connection
from raft.wire import MAX_FRAME_BYTES, Hello, decode_answer, frame, frames_of, pack, unpack
from tests.support.fake_transport import FakeTransport

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=50) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def connected(limit: int = MAX_FRAME_BYTES) -> tuple[Connection, FakeTransport, list[Any]]:
    connection, transport, got = Connection(), FakeTransport(), []
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.max_frame_bytes = limit
    connection.on_frame = got.append
    return connection, transport, got


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(at)]


@given(st.lists(values, max_size=5), st.lists(st.integers(0, 10_000), max_size=10))
@settings(deadline=None)
async def test_frames_survive_any_cutting(sent: list[Any], cuts: list[int]) -> None:
    connection, transport, got = connected()
    for piece in pieces(b"".join(frame(pack(v)) for v in sent), cuts):
        connection.data_received(piece)
    assert got == sent and not transport.closed


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
@settings(deadline=None)
async def test_garbage_is_refused_once_and_nothing_else_happens(data: bytes, cuts: list[int]) -> None:
    connection, transport, got = connected(limit=64)
    refused: list[StoreError] = []
    connection.on_bad_frame = refused.append
    for piece in pieces(data, cuts):
        connection.data_received(piece)
    assert len(refused) <= 1
    assert transport.closed is bool(refused)
    if refused:
        assert isinstance(refused[0], (Invalid, TooLarge))
        assert unpack(transport.written[4:])[:2] == ["error", refused[0].code]
        before = len(got)
        connection.data_received(frame(pack(1)))
        assert len(got) == before


@given(values)
def test_handshake_takes_its_own_kind_alone(value: Any) -> None:
    with pytest.raises(Invalid):
        Hello.decode(value)
    with pytest.raises(Invalid):
        decode_answer(value)


def test_handshake_refuses_other_versions() -> None:
    hello = Hello("peer", "c", 3)
    assert Hello.decode(unpack(pack(hello.encode()))) == hello
    for other in (1, 3):
        with pytest.raises(Invalid, match=f"protocol version {other} is not spoken here: this member speaks 2"):
            Hello.decode(["sk8-store", other, "peer", "c", 3])
        with pytest.raises(Invalid, match="not that of a State member of this version"):
            decode_answer(["sk8-store", other, "c", 3])


@given(st.lists(st.binary(max_size=400_000), max_size=12))
@settings(deadline=None, max_examples=20)
def test_lists_are_cut_into_frames_in_order(items: list[bytes]) -> None:
    frames = frames_of([pack(item) for item in items])
    assert [item for f in frames for item in unpack(f[4:])] == items
    assert all(len(f) < (3 << 20) // 2 for f in frames)


@given(st.binary(max_size=60))
def test_members_messages_survive(data: bytes) -> None:
    message = Message(MessageKind.APPEND, 2, 1, 3, 4, 5, [Entry(1, 2, 0, data)], 7, True, 8, data)
    assert Message.from_wire(unpack(pack(message.to_wire()))) == message


def test_unpackable_is_invalid() -> None:
    for bad in (b"", b"\xc1", b"\x92\x01", b"\xa1\xff", b"\x91" * 5000, b"\x81\x90\x01", msgpack.packb(1) + b"\x00"):
        with pytest.raises(Invalid, match="not msgpack"):
            unpack(bad)
