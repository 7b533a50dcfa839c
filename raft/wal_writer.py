"""The thread that makes promises durable: group commit. IO.

The loop hands over what each Ready wants written; the thread writes all that has gathered, syncs once, and tells the
loop up to which Ready everything is on disk. While it syncs, the next batch gathers.

Handing over to a thread and back costs more than a sync of a fast disk takes (0.04 ms here): as long as the disk is
that fast and the thread idle, the loop writes and syncs itself (``write_now``); what is light, such as one caller's put
while nobody else is there, also on a disk that takes somewhat longer. What a sync usually takes decides: the average,
in which the last RECENT_SYNCS count most. A stall of more than RECENT_SYNCS times the bound (4 ms, or 16 ms for what is
light) holds the loop once, and the disk is left to the thread until it has been quick for a while. Shorter ones stay on
the loop if they are rare: followers wait thirty times as long before they elect.

A failed write or sync ends the writing and is reported: the member must stop (see storage.wal).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from raft.core.types import Entry, HardState, SnapshotMeta

QUICK_S = 0.000_25
QUICK_LIGHT_S = 0.001
RECENT_SYNCS = 16
SLOW_S = 0.005
"""What a sync is taken for before the first of them: of a disk that was not tried, nothing good is believed."""


class Log(Protocol):
    """What of storage.wal.Wal is used here."""

    def save(self, hard_state: HardState | None, entries: list[Entry]) -> None: ...
    def save_snapshot_marker(self, meta: SnapshotMeta) -> None: ...
    def sync(self) -> None: ...
    def release_to(self, index: int) -> int: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Write:
    """``number`` of the Ready it belongs to; 0 for none (a marker, to let old segments go)."""

    number: int
    hard_state: HardState | None
    entries: list[Entry]
    marker: SnapshotMeta | None = None
    release: bool = False


class WalWriter:
    def __init__(
        self,
        log: Log,
        done: Callable[[int], None],
        failed: Callable[[BaseException], None],
        observe_sync: Callable[[float], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``done`` and ``failed`` are called on the writer's thread."""
        self._log = log
        self._done = done
        self._failed = failed
        self._observe_sync = observe_sync
        self._clock = clock
        self._queue: list[Write] = []
        self._wake = threading.Condition()
        self._stop = False
        self._busy = False
        self._usual_s = SLOW_S
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, write: Write) -> None:
        with self._wake:
            self._queue.append(write)
            self._wake.notify()

    def write_now(self, write: Write, *, light: bool = False) -> bool:
        """On the caller's thread, if that is quicker: whether it is durable now (if not, submit it). ``light``: the
        caller has little else to do meanwhile.

        Raises what the log raises; the member must stop then.
        """
        if self._usual_s > (QUICK_LIGHT_S if light else QUICK_S) or write.release:
            return False
        with self._wake:
            if self._busy or self._queue or self._stop:
                return False
            self._write([write])
        return True

    def stop(self) -> None:
        """Write what was submitted, end the thread, close the log. Blocks."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._log.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._stop:
                    self._wake.wait()
                batch, self._queue = self._queue, []
                self._busy = bool(batch)
            if not batch:
                return
            try:
                self._write(batch)
                number = max(write.number for write in batch)
                if number:
                    self._done(number)
                self._release(batch)
            except BaseException as error:  # noqa: BLE001 - the loop gets it, and stops the member
                self._failed(error)
                return
            self._busy = False

    def _write(self, batch: list[Write]) -> None:
        for write in batch:
            # Marker first: a replay takes entries before a marker for what the snapshot replaces (storage.wal).
            if write.marker is not None:
                self._log.save_snapshot_marker(write.marker)
            if write.entries or write.hard_state is not None:
                self._log.save(write.hard_state, write.entries)
        began = self._clock()
        self._log.sync()
        took_s = self._clock() - began
        self._observe_sync(took_s)
        self._usual_s += (took_s - self._usual_s) / RECENT_SYNCS

    def _release(self, batch: list[Write]) -> None:
        for write in batch:
            if write.release and write.marker is not None:
                self._log.release_to(write.marker.index)
