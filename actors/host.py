"""One part of sk8 inside one Ray actor, on an event loop of its own. IO: a thread, the process's exit code.

    Ray worker process
      main thread: Ray's own, answers `health` and `stop`
      part thread: uvloop runs `part.run()`; when that ends by itself or fails, the process exits
                   and Ray starts it again

Invariant: an actor that answers `health` has a part thread; there is no state in which Ray holds a living actor
whose part is dead. Nothing here is on a hot path: parts speak to each other over their own sockets.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol

import uvloop

from actors import observe
from cluster.machine.garbage import Garbage

log = logging.getLogger(__name__)

LOG_BYTES = 10 * 1024 * 1024
FAILED, ENDED = 70, 71


class Part(Protocol):
    """docs/contracts.md, "One component, one coroutine"."""

    async def run(self) -> None: ...
    def health(self) -> dict[str, object]: ...


Build = Callable[[], Awaitable[Part]]
"""Makes the part; called on its loop, so that it may open clients."""


class Host:
    """Runs one part until `stop`. Made in an actor's constructor; returns at once."""

    def __init__(self, name: str, build: Build, *, log_dir: Path, niceness: int = 0) -> None:
        self._name = name
        self._build = build
        self._niceness = niceness
        self._started = time.time()
        self._part: Part | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._done = threading.Event()
        self._stopping = False
        self._watch = observe.loop_watch(name)
        observe.watch_syncs()
        configure_logging(name, log_dir)
        # Ray's workers make uvloop the policy; loops that libraries make for themselves (pyroute2's, over netlink)
        # must be asyncio's own, because uvloop speaks IP and unix sockets alone.
        asyncio.set_event_loop_policy(None)
        threading.Thread(target=self._thread, name=f"part-{name}", daemon=True).start()

    def health(self) -> dict[str, object]:
        """The part's own health, with its process and how late its loop is."""
        own = self._part.health() if self._part is not None else {"starting": True}
        return own | {
            "part": self._name,
            "pid": os.getpid(),
            "up_s": round(time.time() - self._started, 1),
            "loop_lag_s": round(self._watch.lag_s(), 3),
        }

    def stop(self, timeout_s: float) -> bool:
        """Cancel the part and wait for it; whether it ended in time."""
        self._stopping = True
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        return self._done.wait(timeout_s)

    def _thread(self) -> None:
        if self._niceness:
            _renice(self._niceness)
        try:
            uvloop.run(self._main())
        except BaseException:
            if not self._stopping:
                log.exception("%s failed; the process exits and is started again", self._name)
                self._exit(FAILED)
        self._done.set()
        if not self._stopping:
            log.error("%s ended by itself; the process exits and is started again", self._name)
            self._exit(ENDED)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        beat = asyncio.create_task(self._watch.beat(), name="loop-watch")
        log.info("%s starts, pid %d", self._name, os.getpid())
        try:
            self._part = await self._build()
            garbage = asyncio.create_task(Garbage().run(), name="garbage")
            try:
                await self._part.run()
            finally:
                garbage.cancel()
        finally:
            beat.cancel()

    @staticmethod
    def _exit(code: int) -> None:
        logging.shutdown()
        os._exit(code)


def _renice(niceness: int) -> None:
    """Set the priority of all threads of this process: the event loop must not queue behind containers."""
    for thread in os.listdir("/proc/self/task"):
        try:
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
        except (ProcessLookupError, PermissionError) as error:
            log.warning("thread %s keeps its priority: %s", thread, error)


def configure_logging(name: str, log_dir: Path) -> None:
    """One rotated file per part under the machine's log directory; tracebacks of crashes too."""
    log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = log_dir / f"{name}.log"
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("aiohttp.access", "docker", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    faulthandler.enable((log_dir / f"{name}.crash.log").open("a"))
