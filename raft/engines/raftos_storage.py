"""raftos' storage hooks, as the store fills them: its log, and the state machine its entries go to. IO.

``log_class`` is a subclass of upstream's Log that
- armours an entry as base64, because upstream splits its file at newline bytes, which msgpack values contain;
- appends to and cuts the file in place, where upstream rereads all of it at every fifth write and rewrites all of it to
  cut one entry;
- starts from what the store has applied, because upstream starts from nothing and, since it commits no entry of an
  older term, would never commit again after the whole group was restarted;
- notices when an entry that was applied here is replaced by another: then the members' states differ, and this one
  must stop.

It is *not* made safer than upstream: no sync, no checksum, no repair of a torn tail, no snapshot; it grows for ever.
"""

from __future__ import annotations

import binascii
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from raft.engines.raftos_library import Library, Wire
from raft.errors import Corrupt

Command = dict[str, Any]
REMEMBERED = 4096
"""How many applied entries are remembered, to notice when they are replaced."""


class Armoured:
    """raftos' serializer hook for the log: no newline inside."""

    @staticmethod
    def pack(data: Any) -> bytes:
        return binascii.b2a_base64(Wire.pack(data), newline=False)

    @staticmethod
    def unpack(data: bytes) -> Any:
        return Wire.unpack(binascii.a2b_base64(data, strict_mode=False))


class StateMachineHook:
    """Gets each committed command, in order; upstream's rewrites its whole state for each."""

    def __init__(self, apply: Callable[[Command], None]) -> None:
        self.apply = apply


class Applied:
    """What entries were applied, by index: their checksums, the latest ones."""

    def __init__(self) -> None:
        self._sums: OrderedDict[int, int] = OrderedDict()

    def add(self, index: int, command: Command) -> None:
        self._sums[index] = binascii.crc32(command["d"])
        if len(self._sums) > REMEMBERED:
            self._sums.popitem(last=False)

    def contradicts(self, index: int, command: Command) -> bool:
        known = self._sums.get(index)
        return known is not None and known != binascii.crc32(command["d"])


def _read(filename: str) -> tuple[list[dict[str, Any]], list[int]]:
    """A log's entries, and where in the file each ends. Raises Corrupt."""
    entries: list[dict[str, Any]] = []
    ends: list[int] = []
    end = 0
    with open(filename, "rb") as file:
        for line in file:
            end += len(line)
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("it ends in the middle")
                entry = Armoured.unpack(line)
                entry["term"], entry["command"]["d"]
            except (ValueError, TypeError, KeyError) as error:
                raise Corrupt(
                    f"{filename}: entry {len(entries) + 1} cannot be read ({error}); raftos repairs no "
                    "torn tail: this member's log is lost"
                ) from error
            entries.append(entry)
            ends.append(end)
    return entries, ends


def log_class(library: Library, start: int, applied: Applied, failed: Callable[[BaseException], None]) -> type[Any]:
    """``start``: how many of the log's entries the state has applied already."""
    upstream: type[Any] = library.storage.Log

    class StoreLog(upstream):  # type: ignore[misc]
        def __init__(self, node_id: str) -> None:
            self._ends: list[int] = []
            super().__init__(node_id, serializer=Armoured)
            self.commit_index = self.last_applied = start

        def read(self) -> list[dict[str, Any]]:
            entries, self._ends = _read(self.filename)
            return entries

        def write(self, term: int, command: Command) -> dict[str, Any]:
            index = len(self.cache) + 1
            if applied.contradicts(index, command):
                error = Corrupt(f"raftos replaces entry {index}, which was applied here, by another one")
                failed(error)
                raise error
            entry = {"term": term, "command": command}
            line = self.serializer.pack(entry) + b"\n"
            with open(self.filename, "ab") as file:
                file.write(line)
            self._ends.append(self._end(index - 1) + len(line))
            self.cache.append(entry)
            return entry

        def erase_from(self, index: int) -> None:
            os.truncate(self.filename, self._end(index - 1))
            del self.cache[index - 1 :]
            del self._ends[index - 1 :]

        def _end(self, index: int) -> int:
            return self._ends[index - 1] if index > 0 else 0

    return StoreLog
