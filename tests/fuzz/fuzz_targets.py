"""What the store reads from strangers and from a damaged disk: functions of bytes that raise when something is wrong.

Driven by coverage (fuzz.py, atheris) and by hypothesis (test_fuzz.py). Nothing here may depend on anything but its
bytes: a crash is replayed from them.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from raft.core.types import ConfState, Entry, HardState, Message, MessageKind, Snapshot, SnapshotMeta
from raft.errors import Invalid, StoreError, TooLarge
from raft.server import StateServer
from raft.storage import segment
from raft.storage.errors import WalCorrupt
from raft.storage.segment import Contents, Header, Record, WalMetadata, encode_record, pack
from raft.storage.wal_replay import Replayer
from raft.transport import Connection
from raft.wire import Hello, frame, unpack
from raft.wire import pack as wire_pack
from tests.support.fake_transport import FakeTransport

LIMIT = 4096
SENDER = 2
PATH = Path("0000000000000001-0000000000000001.wal")
HEADER = Header(WalMetadata("c", 1), 0, HardState(3, 2, 1), SnapshotMeta(1, 1, ConfState((1, 2, 3)))).to_wire()


class _Member:
    """Stands where the member would: what got through to its consensus."""

    def __init__(self) -> None:
        self.applier = self.members = self.consensus = self
        self.removed: set[int] = set()
        self.stepped: list[Message] = []

    def step(self, messages: list[Message]) -> None:
        self.stepped += messages


def frames(data: bytes) -> None:
    """The first byte says in what pieces the rest arrives on a peer's connection: a handshake, then messages."""
    size, stream = 1 + (data[0] if data else 0), data[1:]
    connection, wire, member = Connection(), FakeTransport(), _Member()
    refused: list[StoreError] = []
    connection.on_bad_frame = refused.append
    connection.connection_made(wire)  # type: ignore[arg-type]
    connection.max_frame_bytes = LIMIT

    def messages(value: Any) -> None:
        StateServer._step(member, SENDER, value, connection)  # type: ignore[arg-type]

    def handshake(value: Any) -> None:
        Hello.decode(value)
        connection.on_frame = messages

    connection.on_frame = handshake
    for at in range(0, len(stream), size):
        before = len(member.stepped)
        closed = wire.closed
        connection.data_received(stream[at : at + size])
        assert not closed or len(member.stepped) == before, "it goes on after it hung up"
    assert len(refused) <= 1 and wire.closed is bool(refused)
    assert all(isinstance(error, (Invalid, TooLarge)) for error in refused)
    assert all(message.sender == SENDER for message in member.stepped)
    if refused:
        last = wire.written.rfind(b"\x93\xa5error")
        assert unpack(wire.written[last:])[1] == refused[0].code


def segments(data: bytes) -> None:
    """Any bytes as a segment of the log: without right checksums nothing of them is believed."""
    for last in (True, False):
        _read(data, last=last)


def records(data: bytes) -> None:
    """A segment whose checksums are right, whatever its records say, then hurt at one place.

    The bytes are [where, how][kind, length, payload...]...; how: 0 whole, 1 cut there, 2 a flipped bit, 3 zeros from
    there on.
    """
    where, how, at = (data + b"\0\0")[0], (data + b"\0\0")[1] % 4, 2
    buffer, written = bytearray(), 0
    crc = encode_record(buffer, Record.HEADER, pack(HEADER), 0)
    while at < len(data):
        kind, length = Record(1 + data[at] % 4), data[at + 1] if at + 1 < len(data) else 0
        crc = encode_record(buffer, kind, data[at + 2 : at + 2 + length], crc)
        at, written = at + 2 + length, written + 1
    place = where * len(buffer) // 256
    if how == 1:
        del buffer[place:]
    elif how == 2:
        buffer[place] ^= 1 << (where % 8)
    elif how == 3:
        buffer[place:] = bytes(len(buffer) - place)
    contents = _read(bytes(buffer), last=True)
    if how == 0:
        assert contents is not None and len(contents.records) == written and contents.torn_at is None
    elif contents is not None:
        assert len(contents.records) <= written


def _read(data: bytes, *, last: bool) -> Contents | None:
    """What is in it; None if it was refused."""
    try:
        contents = segment.parse(PATH, data, last=last)
    except WalCorrupt:
        return None
    if contents.torn_at is not None:
        assert last, "only the last segment can be torn"
        again = segment.parse(PATH, data[: contents.torn_at], last=False)
        assert again == contents._replace(torn_at=None), "cutting off what is torn changes what is read"
    replayer = Replayer()
    try:
        replayer.segment(PATH, contents)
        replay = replayer.finish()
    except WalCorrupt:
        return contents
    assert all(b.index == a.index + 1 for a, b in itertools.pairwise(replay.entries))
    assert not replay.entries or replay.entries[0].index == replay.snapshot_marker.index + 1
    assert replay.hard_state.commit <= replay.snapshot_marker.index + len(replay.entries)
    return contents


def _conversation() -> bytes:
    message = Message(MessageKind.APPEND, 1, SENDER, 3, 4, 5, [Entry(1, 2, 0, b"data")], 7, True, 8, b"context")
    snapshot = Message(MessageKind.SNAPSHOT, 1, SENDER, 3, snapshot=Snapshot(SnapshotMeta(9, 2, ConfState((1, 2, 3)))))
    said = [Hello("peer", "c", SENDER).encode(), ["ping", 1.5], [message.to_wire()], [snapshot.to_wire()]]
    return b"".join(frame(wire_pack(value)) for value in said)


def _segment() -> bytes:
    buffer = bytearray()
    crc = encode_record(buffer, Record.HEADER, pack(HEADER), 0)
    for kind, value in _VALUES:
        crc = encode_record(buffer, kind, pack(value), crc)
    return bytes(buffer)


_VALUES = (
    (Record.ENTRIES, [(3, 2, 0, b"two"), (3, 3, 0, b"three")]),
    (Record.HARD_STATE, (4, 1, 3)),
    (Record.SNAPSHOT_MARKER, SnapshotMeta(2, 3, ConfState((1, 2, 3))).to_wire()),
    (Record.ENTRIES, [(4, 3, 1, b"overwritten")]),
)
_SCRIPT = b"".join(bytes((kind - 1, len(pack(value)))) + pack(value) for kind, value in _VALUES)
TARGETS = {"frames": frames, "segments": segments, "records": records}
SEEDS = {
    "frames": [bytes((size,)) + _conversation() for size in (0, 6, 255)],
    "segments": [_segment(), _segment()[:-7]],
    "records": [bytes((200, how)) + _SCRIPT for how in range(4)],
}
"""What each begins with: everything right, and in pieces."""
