"""A whole state from the leader to a member that is behind the log, on a connection of its own. IO.

    leader: copy of its backend at F >= what the core asked for --> [message, size] [chunk]... [sha256]
    member: incoming/<F>-<term>.part --> checked, synced --> incoming/<F>-<term> --> the core decides --> db

The core gets the message only once everything is on the member's disk. A crash in between leaves either a ``.part``
(thrown away) or a complete directory that the WAL's marker refers to, which opening the member puts in place.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raft.config import PEER_ROLE, Address
from raft.core.types import Message, MessageKind, Snapshot, SnapshotMeta
from raft.errors import Invalid, StoreError, Unavailable
from raft.flusher import Flusher
from raft.storage.backend_lmdb import data_file
from raft.storage.files import sync_directory
from raft.transport import Connection, dial
from raft.wire import Hello

log = logging.getLogger(__name__)
CHUNK_BYTES = 256 << 10
ANSWER_S = 30.0


def incoming(root: Path, meta: SnapshotMeta) -> Path:
    return root / "incoming" / f"{meta.index}-{meta.term}"


class SnapshotSender:
    def __init__(
        self,
        root: Path,
        flusher: Flusher,
        tls: ssl.SSLContext | None,
        hello: Hello,
        report: Callable[[int, bool], None],
    ) -> None:
        self._root = root
        self._flusher = flusher
        self._tls = tls
        self._hello = hello
        self._report = report
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def send(self, message: Message, address: Address) -> None:
        """``report(member, ok)`` says how it went."""
        if message.to not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._send(message, address), name=f"snapshot-{message.to}")
            self._tasks[message.to] = task

    async def _send(self, message: Message, address: Address) -> None:
        directory = self._root / "outgoing" / str(message.to)
        ok = False
        try:
            meta = await self._flusher.copy(directory)
            message.snapshot = Snapshot(meta)
            await self._stream(message, address, data_file(directory))
            ok = True
            log.info("sent the state at %d to member %d", meta.index, message.to)
        except (StoreError, OSError, TimeoutError) as error:
            log.warning("cannot send the state to member %d: %s", message.to, error)
        finally:
            del self._tasks[message.to]
            shutil.rmtree(directory, ignore_errors=True)
            self._report(message.to, ok)

    async def _stream(self, message: Message, address: Address, path: Path) -> None:
        connection, _, _ = await dial(address[0], address[1], self._tls, self._hello, (PEER_ROLE,))
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer(value: Any) -> None:
            if not answered.done():
                answered.set_result(value)

        connection.on_frame = answer
        connection.on_closed = lambda: answer([False, "the connection broke"])
        try:
            await send_file(connection, path, [message.to_wire()])
            async with asyncio.timeout(ANSWER_S):
                said = await answered
            if said != [True]:
                raise Unavailable(f"refused: {said[-1]}")
        finally:
            connection.close()

    async def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
            await asyncio.wait((task,))


async def send_file(connection: Connection, path: Path, head: list[Any]) -> None:
    """[*head, size] [bytes]... [sha256]."""
    loop = asyncio.get_running_loop()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        connection.send([*head, os.fstat(file.fileno()).st_size])
        while chunk := await loop.run_in_executor(None, file.read, CHUNK_BYTES):
            await loop.run_in_executor(None, digest.update, chunk)
            connection.send([chunk])
            await connection.drain()
    connection.send([digest.digest()])


class SnapshotReceiver:
    """Serves one connection of purpose "snapshot"."""

    def __init__(
        self, connection: Connection, root: Path, step: Callable[[list[Message]], None], owed: Callable[[int], bool]
    ) -> None:
        """``owed(index)``: whether the state at ``index`` would be news."""
        self._connection = connection
        self._root = root
        self._step = step
        self._owed = owed
        self._message: Message | None = None
        self._left = 0
        self._digest = hashlib.sha256()
        self._part: Path | None = None
        self._file: Any = None
        connection.on_frame = self._first
        connection.on_closed = self._broken

    def _first(self, value: Any) -> None:
        try:
            message, size = Message.from_wire(value[0]), int(value[1])
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise Invalid(f"malformed snapshot header: {error}") from error
        if message.kind is not MessageKind.SNAPSHOT or message.snapshot is None:
            raise Invalid("a snapshot stream starts with the core's SNAPSHOT message")
        if not self._owed(message.snapshot.meta.index):
            raise Invalid(f"the state at {message.snapshot.meta.index} is applied here already")
        final = incoming(self._root, message.snapshot.meta)
        part = final.with_name(f"{final.name}.{id(self)}.part")
        part.mkdir(mode=0o700, parents=True)
        self._message, self._left, self._part = message, size, part
        self._file = data_file(part).open("xb")
        self._connection.on_frame = self._chunk

    def _chunk(self, value: Any) -> None:
        if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], bytes):
            raise Invalid("malformed snapshot chunk")
        if self._left > 0:
            self._file.write(value[0])
            self._digest.update(value[0])
            self._left -= len(value[0])
            return
        if self._left < 0 or value[0] != self._digest.digest():
            raise Invalid("the snapshot does not have the size or checksum it was sent with")
        self._connection.on_frame = None
        asyncio.get_running_loop().create_task(self._complete())

    async def _complete(self) -> None:
        message, part = self._message, self._part
        if message is None or message.snapshot is None or part is None:
            return
        final = incoming(self._root, message.snapshot.meta)
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._make_durable, part, final)
        except OSError as error:
            log.error("cannot keep the state that was received: %s", error)
            self._connection.send([False, str(error)])
            self._connection.close()
            return
        self._step([message])
        self._connection.send([True])

    def _make_durable(self, part: Path, final: Path) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        sync_directory(part)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
        self._part = None
        sync_directory(final.parent)
        sync_directory(self._root)  # where `incoming` itself may be new

    def _broken(self) -> None:
        if self._part is not None and self._connection.on_frame is not None:
            self._file.close()
            shutil.rmtree(self._part, ignore_errors=True)


def put_in_place(root: Path, db: Path, meta: SnapshotMeta) -> bool:
    """Make the received state the member's; durable on return. False if there is none for ``meta``."""
    received = incoming(root, meta)
    if not received.is_dir():
        return False
    shutil.rmtree(db, ignore_errors=True)
    os.rename(received, db)
    sync_directory(root)
    clean_up(root)
    return True


def clean_up(root: Path) -> None:
    """Throw away what was sent or received half-way."""
    for name in ("incoming", "outgoing"):
        shutil.rmtree(root / name, ignore_errors=True)
