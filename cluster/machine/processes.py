"""Processes as /proc shows them: identity that survives pid reuse, children, and a machine's one reaper.

IO (proc(5), waitpid). Invariants: a process is (pid, start time), so a pid that was given to another process never
counts as the old one; `Children` is the only caller of waitpid in its process, because PID 1 also inherits orphans and
two reapers would steal each other's exit statuses.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/<pid>/stat that matter here; `start` is in clock ticks since the box booted."""

    pid: int
    name: str
    state: str
    parent: int
    start: int

    @property
    def alive(self) -> bool:
        return self.state not in "ZXx"


def parse_stat(text: str) -> Stat:
    """The name may hold spaces and parentheses, so it ends at the last one (proc(5))."""
    head, _, tail = text.rpartition(")")
    pid, _, name = head.partition(" (")
    rest = tail.split()
    return Stat(int(pid), name, rest[0], int(rest[1]), int(rest[19]))


def stat(pid: int) -> Stat | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def all_processes() -> Iterator[Stat]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            found = stat(int(entry))
            if found is not None:
                yield found


def children_of(pid: int) -> list[Stat]:
    return [p for p in all_processes() if p.parent == pid]


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for good: its pid and when it began."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        found = stat(pid)
        return cls(pid, found.start) if found is not None and found.alive else None

    def alive(self) -> bool:
        """False once it is gone, a zombie, or another process has its number."""
        found = stat(self.pid)
        return found is not None and found.start == self.start and found.alive

    def signal(self, number: int) -> bool:
        """True when it was there to be signalled. A pidfd closes the gap between the check and the signal."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(fd, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)


def start_daemon(command: Sequence[str], environment: Mapping[str, str], output: Path) -> ProcessId:
    """A process in a session of its own that outlives the caller; its output is appended to a file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawnp(command[0], list(command), dict(environment), file_actions=actions, setsid=True)
    found = stat(pid)
    return ProcessId(pid, found.start if found is not None else -1)


class Children:
    """Starts programs and reaps everything, also what it inherited. Use from one event loop, in the main thread."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[asyncio.Future[int]]] = {}
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def install(self) -> None:
        """Become the reaper: orphans of this process's children come here, on a VM as in a PID namespace."""
        if os.getpid() != 1:
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)

    def start(self, command: Sequence[str], environment: Mapping[str, str], output: Path, cwd: str = "/") -> int:
        """The pid of a new process in a session of its own; its output is appended to a file."""
        with output.open("ab") as out:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._started[process.pid] = process
        return process.pid

    def ended(self, pid: int) -> asyncio.Future[int]:
        """Resolves with the exit code (negative: the signal) once that child, started or inherited, is reaped."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if pid not in self._started and stat(pid) is None:
            future.set_result(-signal.SIGKILL)
            return future
        self._waiting.setdefault(pid, []).append(future)
        self.reap()
        return future

    async def run(self, command: Sequence[str], environment: Mapping[str, str], output: Path, timeout_s: float) -> int:
        """Runs to the end; on timeout or cancellation the process group is killed. Raises TimeoutError."""
        pid = self.start(command, environment, output)
        done = self.ended(pid)
        try:
            return await asyncio.wait_for(asyncio.shield(done), timeout_s)
        except (TimeoutError, asyncio.CancelledError):
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                log.debug("process group %d ended by itself", pid)
            raise

    def inherited(self) -> list[Stat]:
        """Live children that this object did not start: orphans that came here."""
        return [p for p in children_of(os.getpid()) if p.pid not in self._started and p.alive]

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            process = self._started.pop(pid, None)
            if process is not None:
                process.returncode = code
            for future in self._waiting.pop(pid, ()):
                if not future.done():
                    future.set_result(code)


async def wait_gone(processes: Sequence[ProcessId], timeout_s: float, poll_s: float = 0.02) -> list[ProcessId]:
    """Those that are still alive after the timeout."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    left = [p for p in processes if p.alive()]
    while left and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(poll_s)
        left = [p for p in left if p.alive()]
    return left
