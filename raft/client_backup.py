"""Save a copy of a member's state to a file (see raft.backup.file for what is in it). IO."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from raft.client import StoreClient
from raft.config import PEER_ROLE, TlsFiles
from raft.errors import Invalid, StoreError, Unavailable
from raft.storage.files import replace_durably
from raft.transport import client_context, dial
from raft.wire import Hello


@dataclass(frozen=True, slots=True)
class Saved:
    cluster_id: str
    index: int
    term: int
    size_bytes: int


class _Receiver:
    """[cluster id, index, term, size] [bytes]... [sha256] into ``file``."""

    def __init__(self, file: BinaryIO, done: asyncio.Future[Saved], progress: Callable[[int, int], None]) -> None:
        self._progress = progress
        self._file = file
        self._done = done
        self._digest = hashlib.sha256()
        self._saved: Saved | None = None
        self._left = 0

    @property
    def digest(self) -> bytes:
        """SHA-256 of what arrived: the last part of the file."""
        return self._digest.digest()

    def frame(self, value: Any) -> None:
        if self._done.done():
            return
        try:
            self._frame(value)
        except (StoreError, OSError) as error:
            self._done.set_exception(error)

    def _frame(self, value: Any) -> None:
        if value and (value[0] is False or value[0] == "error"):
            raise Unavailable(f"refused by the member: {value[-1]}")
        if self._saved is None:
            self._saved = Saved(*value)
            self._left = self._saved.size_bytes
        elif self._left > 0:
            self._file.write(value[0])
            self._digest.update(value[0])
            self._left -= len(value[0])
            self._progress(self._saved.size_bytes - self._left, self._saved.size_bytes)
        elif self._left < 0 or value[0] != self._digest.digest():
            raise Invalid("what arrived does not have the size or checksum it was sent with")
        else:
            self._done.set_result(self._saved)

    def closed(self) -> None:
        if not self._done.done():
            self._done.set_exception(Unavailable("the connection broke before everything had arrived"))


def _private(path: Path) -> BinaryIO:
    """For root alone: it holds everything the store does."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


async def save_snapshot(
    endpoint: tuple[str, int],
    path: Path,
    tls: TlsFiles | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Saved:
    """Durable at ``path`` on return; nothing is there if it fails. Raises Unavailable, Invalid, OSError.

    ``progress``: bytes done, bytes in all.
    """
    context: ssl.SSLContext | None = None if tls is None else client_context(tls)
    connection, _, _ = await dial(*endpoint, context, Hello("snapshot", "", 0), (PEER_ROLE,))
    part = path.with_name(path.name + ".part")
    done: asyncio.Future[Saved] = asyncio.get_running_loop().create_future()
    try:
        with _private(part) as file:
            receiver = _Receiver(file, done, progress)
            connection.on_frame, connection.on_closed = receiver.frame, receiver.closed
            connection.send(["save"])
            saved = await done
            file.write(receiver.digest)
            file.flush()
            os.fsync(file.fileno())
        replace_durably(part, path)
        return saved
    finally:
        connection.close()
        part.unlink(missing_ok=True)


async def save_from_any(
    endpoints: Sequence[tuple[str, int]],
    path: Path,
    tls: TlsFiles | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Saved:
    """From a follower that is up to date if there is one: the leader has enough to do. Raises as save_snapshot."""
    store = StoreClient(endpoints, tls)
    try:
        await store.read_index()
        said = await asyncio.gather(*(store.status(endpoint) for endpoint in endpoints), return_exceptions=True)
    finally:
        await store.close()
    answers = [(status, endpoint) for status, endpoint in zip(said, endpoints, strict=True) if isinstance(status, dict)]
    answers.sort(key=lambda answer: (answer[0]["role"] == "leader", -answer[0]["applied"]))
    failure: StoreError = Unavailable("no member answers")
    for _, endpoint in answers:
        try:
            return await save_snapshot(endpoint, path, tls, progress)
        except (Unavailable, Invalid) as error:
            failure = error
    raise failure
