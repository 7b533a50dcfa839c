"""Network namespaces for whoever builds machines and pods of them: benchmarks, and the tests' labs. IO (root).

A thread is in one namespace; threads and processes it starts, and sockets it opens, are born there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: str) -> None:
    """Move this thread into a named network namespace, for good."""
    _enter(f"/run/netns/{namespace}")


def _enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """`work()` in a namespace; sockets it makes stay there."""
    done: Future[T] = Future()

    def enter_and_work() -> None:
        try:
            enter(namespace)
            done.set_result(work())
        except BaseException as err:  # noqa: BLE001 - handed to the caller
            done.set_exception(err)

    thread = threading.Thread(target=enter_and_work)
    thread.start()
    thread.join()
    return done.result()


def ip(*arguments: str, ns: str = "") -> None:
    where = ["-n", ns] if ns else []
    subprocess.run(["ip", *where, *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def made(*namespaces: str) -> Iterator[None]:
    """Namespaces with a loopback that is up. What a killed run left of them goes first; all go in the end."""
    with contextlib.ExitStack() as stack:
        for namespace in namespaces:
            _remove(namespace)
            stack.callback(_remove, namespace)
            ip("netns", "add", namespace)
            ip("link", "set", "lo", "up", ns=namespace)
        yield


def _remove(namespace: str) -> None:
    subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This thread is in the namespace meanwhile; the way back is always taken."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        try:
            yield
        finally:
            _enter(f"/proc/self/fd/{home}")
    finally:
        os.close(home)
