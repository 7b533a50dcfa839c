"""What another version wrote or says is refused with words that tell which, and nothing of it is changed."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path

import pytest

from raft import proposals, wire
from raft.backup.file import describe, restore
from raft.client import StoreClient
from raft.errors import Corrupt, Invalid, StoreError, Unavailable
from raft.server import StateServer
from raft.storage import identity, segment
from raft.storage.backend_lmdb import LmdbBackend, data_file
from raft.storage.errors import DirectoryError, WalCorrupt
from raft.wire import HEADER, frame, pack, unpack
from tests.support.ports import free_ports
from tests.unit.raft_server.test_one_member import One, serving


def files(directory: Path) -> dict[str, bytes]:
    """What is durable there; the lock's file holds nothing."""
    return {str(p): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file() and p.name != "lock.mdb"}


async def test_a_directory_of_another_version_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "FORMAT_VERSION", 3)
    one = One(tmp_path / "m")
    monkeypatch.undo()
    before = files(one.directory)
    with pytest.raises(DirectoryError, match=r"format version 3 is not known here \(this one is 2\)"):
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
    monkeypatch.setattr(proposals, "FORMAT", 3)
    server = StateServer(one.config())
    task = asyncio.create_task(server.run())
    client = one.client(timeout_s=20)
    with pytest.raises(StoreError):
        await client.put(b"from a newer member", b"v")
    with pytest.raises(Corrupt, match="has format 3: this program is too old for its group"):
        await task
    await client.close()


async def test_a_directory_of_format_1_is_opened_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log has entries of format 1, its leases have no checkpoint; afterwards the older program refuses it."""
    one = One(tmp_path / "m", flush_interval_s=3600)
    monkeypatch.setattr(proposals, "FORMAT", 1)
    async with serving(one):
        await one.client().put(b"k", b"v")
    monkeypatch.undo()
    older(one.directory)
    async with serving(one):
        client = one.client()
        assert (await client.range(b"k")).kvs[0].value == b"v"
        assert await client.lease_list() == [7]
        assert await client.lease_keep_alive(7) == 60
    assert json.loads((one.directory / "identity.json").read_text())["formatVersion"] == 2
    monkeypatch.setattr(identity, "_READABLE", (1,))
    monkeypatch.setattr(identity, "FORMAT_VERSION", 1)
    with pytest.raises(DirectoryError, match=r"format version 2 is not known here \(this one is 1\)"):
        await StateServer(one.config()).run()


def older(directory: Path) -> None:
    """As the version before checkpoints left it, with lease 7."""
    path = directory / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"formatVersion": 1}))
    backend = LmdbBackend(directory / "db")
    backend.meta_set(b"format", None)
    backend.meta_set(b"lease/" + struct.pack(">Q", 7), struct.pack(">Q", 60))
    backend.flush()
    backend.close()


async def test_a_snapshot_of_format_1_is_restored(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    older(one.directory)
    path = data_file(one.directory / "db")
    status = describe(path, skip_hash_check=True)
    assert (status.leases, status.format) == (1, 1), "it does not say"
    restore(path, tmp_path / "new", "new", 2, {2: one.address})
    again = One(tmp_path / "new")
    again.address = one.address
    async with serving(again):
        assert await again.client().lease_keep_alive(7) == 60
    assert describe(data_file(tmp_path / "new" / "db"), skip_hash_check=True).format == 2


async def test_a_state_is_marked_when_it_is_opened_and_one_of_a_newer_version_refused(tmp_path: Path) -> None:
    """Also when it comes as a snapshot, whatever the directory around it says."""
    one = One(tmp_path / "m")
    older(one.directory)
    async with serving(one):
        await one.client().put(b"k", b"v")
    path = data_file(one.directory / "db")
    assert describe(path, skip_hash_check=True).format == 2
    newer = LmdbBackend(one.directory / "db")
    newer.meta_set(b"format", bytes((3,)))
    newer.flush()
    newer.close()
    before = files(one.directory)
    why = r"the state has format version 3, which is not known here \(this one is 2\): it is of a newer sk8"
    with pytest.raises(Invalid, match=why):
        describe(path, skip_hash_check=True)
    with pytest.raises(Invalid, match=why):
        restore(path, tmp_path / "new", "new", 2, {2: one.address})
    assert not (tmp_path / "new" / "identity.json").exists()
    with pytest.raises(Invalid, match=why):
        await StateServer(one.config()).run()
    assert files(one.directory) == before


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
                assert "protocol version 99 is not spoken here: this member speaks 2" in said[2]
                assert await reader.read() == b"", "and hangs up"
            writer.close()
        assert await one.client().put(b"k", b"")


async def test_a_client_says_that_a_member_is_of_another_version() -> None:
    async def other_version(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4)
        writer.write(frame(pack([wire.MAGIC, 99, "c", 1])))
        await writer.drain()
        writer.close()

    port = free_ports(1)[0]
    async with await asyncio.start_server(other_version, "127.0.0.1", port):
        client = StoreClient([("127.0.0.1", port)], timeout_s=30)
        with pytest.raises(StoreError, match="not that of a State member of this version") as raised:
            await client.status(("127.0.0.1", port))
        assert not isinstance(raised.value, Unavailable), "asking again does not help"
        await client.close()
