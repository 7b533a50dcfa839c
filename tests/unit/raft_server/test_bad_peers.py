"""What callers should not send: they are told once, it is counted, the member goes on, nothing has changed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.client import StoreClient
from raft.core.types import ConfState, Entry, Message, MessageKind, Snapshot, SnapshotMeta
from raft.server import StateConfig, StateServer, create_member
from raft.wire import MAX_FRAME_BYTES, Hello, frame, pack, unpack
from tests.support.ports import free_ports

MESSAGE = Message(
    MessageKind.APPEND,
    1,
    2,
    3,
    4,
    5,
    [Entry(1, 2, 0, b"x")],
    7,
    context=b"c",
    snapshot=Snapshot(SnapshotMeta(3, 2, ConfState((1, 2))), b"d"),
)
odd = st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=3), st.binary(max_size=3), st.lists(st.none()))


def paths(value: Any, at: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    found = [at] if at else []
    if isinstance(value, list):
        for i, one in enumerate(value):
            found += paths(one, (*at, i))
    return found


def replaced(value: Any, at: tuple[int, ...], by: Any) -> Any:
    if not at:
        return by
    return [replaced(one, at[1:], by) if i == at[0] else one for i, one in enumerate(value)]


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_a_message_with_one_thing_wrong_is_no_message(data: st.DataObject) -> None:
    wire = unpack(pack(MESSAGE.to_wire()))
    at, by = data.draw(st.sampled_from(paths(wire))), data.draw(odd)
    bad = replaced(wire, at, by)
    try:
        message = Message.from_wire(bad)
    except (TypeError, ValueError, IndexError, KeyError):
        return
    # Taken: then every field has the type that the core computes with.
    back = message.to_wire()
    numbers = [back[0], *back[1:6], back[7], back[9], *(n for e in back[6] for n in e[:3])]
    assert all(type(n) is int or isinstance(n, MessageKind) for n in numbers)
    assert all(type(e[3]) is bytes for e in back[6]) and type(back[10]) is bytes
    if back[11] is not None:
        (index, term, conf), contents = back[11]
        assert all(type(n) is int for n in (index, term, *(m for part in conf[:4] for m in part)))
        assert type(contents) is bytes


@contextlib.asynccontextmanager
async def one(root: Path) -> AsyncIterator[tuple[StateServer, StoreClient, int, int]]:
    peer, client = free_ports(2)
    create_member(root / "m", "one", 1, {1: ("127.0.0.1", peer, client)})
    config = StateConfig(
        dir=root / "m",
        host="127.0.0.1",
        peer_port=peer,
        client_port=client,
        metrics=None,
        tick_ms=10,
        corrupt_check_s=0,
    )
    server = StateServer(config)
    task = asyncio.create_task(server.run())
    store = StoreClient([("127.0.0.1", client)])
    try:
        await store.put(b"k", b"value")
        yield server, store, peer, client
        assert not task.done(), "the member went on"
    finally:
        await store.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def said(port: int, *data: bytes, until: Callable[[list[Any]], bool]) -> list[Any]:
    """The frames that the member sends until it closes, or until they are enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    frames: list[Any] = []
    try:
        for piece in data:
            writer.write(piece)
        async with asyncio.timeout(30):
            while not until(frames):
                size = int.from_bytes(await reader.readexactly(4), "big")
                frames.append(unpack(await reader.readexactly(size)))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # it has closed
    finally:
        writer.close()
    return frames


def answered(told: list[Any]) -> set[int]:
    return {item[0] for batch in told[1:] if batch and batch[0] != "error" for item in batch if item[0]}


def refused(server: StateServer) -> float:
    return sum(
        sample.value
        for metric in server.metrics.registry.collect()
        if metric.name == "sk8_store_refused"
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


HELLO = frame(pack(Hello("client", "", 0).encode()))
PEER = frame(pack(Hello("peer", "one", 2).encode()))


@pytest.mark.parametrize(
    ("port", "sent", "says"),
    [
        ("client", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], "too large"),
        ("client", [frame(b"\xc1")], "not msgpack"),
        ("client", [frame(pack(["hello"]))], "handshake is missing"),
        ("client", [frame(pack(["sk8-store", 9, "client", "", 0]))], "protocol version 9"),
        ("client", [frame(pack(Hello("peer", "one", 2).encode()))], "purpose 'peer' is not served here"),
        ("client", [frame(pack(Hello("client", "other", 0).encode()))], "belongs to cluster one"),
        ("client", [HELLO, (MAX_FRAME_BYTES + 1).to_bytes(4, "big")], "too large"),
        ("client", [HELLO, frame(pack({"a": 1}))], "list of requests"),
        ("client", [HELLO, frame(pack([["x", "ping"]]))], "a request is"),
        ("peer", [frame(pack(Hello("peer", "", 2).encode()))], "belongs to cluster one"),
        ("peer", [PEER, frame(pack(["x"]))], "malformed message"),
        ("peer", [PEER, frame(pack([MESSAGE.to_wire()[:-1]]))], "malformed message"),
        ("peer", [PEER, frame(pack([("5", *MESSAGE.to_wire()[1:])]))], "malformed message"),
        ("peer", [PEER, frame(pack([(*MESSAGE.to_wire()[:2], 3, *MESSAGE.to_wire()[3:])]))], "speaks for another"),
        ("peer", [frame(pack(Hello("hash", "one", 2).encode())), frame(pack(["now"]))], "[revision]"),
        ("peer", [frame(pack(Hello("snapshot", "one", 2).encode())), frame(pack([1, 2]))], "malformed snapshot"),
    ],
)
async def test_who_breaks_a_rule_is_told_once_and_cut_off(
    port: str, sent: list[bytes], says: str, tmp_path: Path
) -> None:
    async with one(tmp_path) as (server, store, peer, client):
        before = await store.hash(store.endpoints[0]), refused(server)
        told = await said(client if port == "client" else peer, *sent, until=lambda _: False)
        assert [frame_[0] for frame_ in told].count("error") == 1 and says in told[-1][-1], told
        assert (await store.hash(store.endpoints[0])) == before[0] and refused(server) == before[1] + 1


async def test_truncated_frames_wait_and_change_nothing(tmp_path: Path) -> None:
    async with one(tmp_path) as (server, store, _, client):
        whole = frame(pack([[1, "txn", [], [["put", b"k", b"other", 0]], []]]))
        for cut in range(0, len(whole), 5):
            told = await said(client, HELLO, whole[:cut], until=lambda frames: len(frames) == 1)
            assert len(told) == 1, "the answer to the handshake, and no more"
        assert (await store.range(b"k")).kvs[0].value == b"value"
        assert refused(server) == 0


async def test_hundreds_of_strange_requests(tmp_path: Path) -> None:
    """Valid requests with one thing wrong: an answer each, and the store has what valid ones wrote."""
    rng = random.Random(8)
    valid = [
        [1, "txn", [[b"k", "version", ">", 0]], [["range", b"k", None, 0]], []],
        [1, "range", b"k", b"z", 10, 0, False, False, False],
        [1, "lease_keep_alive", 5],
        [1, "watch", 1, b"k", None, 0, False],
        [1, "unwatch", 1],
        [1, "lease_time_to_live", 5],
        [1, "hash_kv", 1],
        [1, "member_promote", 4],
        [1, "member_remove", 4],
        [1, "transfer_leader", 4],
        [1, "compact", 9999],
        [1, "lease_revoke", 77],
    ]
    junk = [None, True, -1, 1 << 63, 1.5, "x", b"x", [], [[]], {}, {"a": 1}]
    async with one(tmp_path) as (server, store, _, client):
        before = await store.hash(store.endpoints[0])
        for _ in range(40):
            requests = []
            for number in range(1, 11):
                request = [number, *rng.choice(valid)[1:]]
                at = rng.choice([path for path in paths(request) if path[0] > 0])
                requests.append(replaced(request, at, rng.choice(junk)))
            told = await said(client, HELLO, frame(pack(requests)), until=lambda frames: len(answered(frames)) == 10)
            assert answered(told) == set(range(1, 11)), (told, requests)
        assert (await store.hash(store.endpoints[0]))[:2] == before[:2]
        assert server.health()["healthy"] is True
