"""What another version wrote or says is refused with words that tell which, and nothing of it is changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raft import applier, proposals, wire
from raft.client import StoreClient
from raft.errors import Corrupt, StoreError, Unavailable
from raft.server import StateServer
from raft.storage import identity, segment
from raft.storage.errors import DirectoryError, WalCorrupt
from raft.wire import HEADER, frame, pack, unpack
from tests.unit.raft_server.test_one_member import One, free_port, serving


def files(directory: Path) -> dict[str, bytes]:
    """What is durable there; the lock's file holds nothing."""
    return {str(p): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file() and p.name != "lock.mdb"}


async def test_a_directory_of_another_version_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "FORMAT_VERSION", 2)
    one = One(tmp_path / "m")
    monkeypatch.undo()
    before = files(one.directory)
    with pytest.raises(DirectoryError, match="format version 2 is not known here"):
        await StateServer(one.config()).run()
    assert files(one.directory) == before


async def test_a_log_of_another_version_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "FORMAT_VERSION", 2)
    one = One(tmp_path / "m")
    monkeypatch.undo()
    before = files(one.directory)
    with pytest.raises(WalCorrupt, match="format version 2 is not known here"):
        await StateServer(one.config()).run()
    assert files(one.directory) == before


async def test_an_entry_of_another_version_stops_the_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = One(tmp_path / "m", flush_interval_s=3600)
    async with serving(one):
        await one.client().put(b"k", b"v")
    monkeypatch.setattr(proposals, "FORMAT", 2)
    server = StateServer(one.config())
    task = asyncio.create_task(server.run())
    client = one.client(timeout_s=5)
    with pytest.raises(StoreError):
        await client.put(b"from a newer member", b"v")
    with pytest.raises(Corrupt, match="has format 2: this program is too old for its group"):
        await task
    await client.close()
    assert applier.FORMAT == 1


async def test_a_member_refuses_a_caller_of_another_version_by_name(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    async with serving(one):
        await one.client().read_index()
        for port in one.address[1:]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(frame(pack([wire.MAGIC, 99, "client", "", 0])))
            async with asyncio.timeout(10):
                (size,) = HEADER.unpack(await reader.readexactly(4))
                said = unpack(await reader.readexactly(size))
                assert said[:2] == ["error", "invalid"]
                assert "protocol version 99 is not spoken here: this member speaks 1" in said[2]
                assert await reader.read() == b"", "and hangs up"
            writer.close()
        assert await one.client().put(b"k", b"")


async def test_a_client_says_that_a_member_is_of_another_version() -> None:
    async def other_version(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4)
        writer.write(frame(pack([wire.MAGIC, 99, "c", 1])))
        await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(other_version, "127.0.0.1", port):
        client = StoreClient([("127.0.0.1", port)], timeout_s=2)
        with pytest.raises(StoreError, match="not that of a State member of this version") as raised:
            await client.status(("127.0.0.1", port))
        assert not isinstance(raised.value, Unavailable), "asking again does not help"
        await client.close()
