"""Netlink in other network namespaces, and the few things done to links there. IO (pyroute2; blocking).

Every operation is idempotent: it makes what is missing and removes what is there.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

RUN = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NetworkError(RuntimeError):
    """Something this kernel cannot do."""


@contextmanager
def netlink(namespace: str = "") -> Iterator[Any]:
    """A netlink socket in a namespace. The calling thread enters it for that time and comes back.

    pyroute2's own `NetNS` and `netns.create` fork; a forked child that is sent a signal wakes the parent's event loop
    through the wake-up descriptor they share, and the host agent takes it for its own SIGTERM.
    """
    if not namespace:
        with _closing(IPRoute()) as ipr:
            yield ipr
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(str(RUN / namespace))
        try:
            with _closing(IPRoute()) as ipr:
                yield ipr
        finally:
            _enter(f"/proc/self/fd/{home}")
    finally:
        os.close(home)


@contextmanager
def _closing(ipr: Any) -> Iterator[Any]:
    try:
        yield ipr
    finally:
        ipr.close()


def _enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"setns {path}: {os.strerror(code)}")
    finally:
        os.close(fd)


def index_of(ipr: Any, link: str) -> int | None:
    found = ipr.link_lookup(ifname=link)
    return int(found[0]) if found else None


def bring_up(ipr: Any, link: str) -> None:
    ipr.link("set", index=index_of(ipr, link), state="up")


def set_state(ipr: Any, link: str, state: str) -> bool:
    """False when there is no such link."""
    return _change(ipr, "set", link, state=state)


def remove_link(ipr: Any, link: str) -> None:
    _change(ipr, "del", link)


def _change(ipr: Any, command: str, link: str, **what: Any) -> bool:
    """The link of a machine goes with its namespace, also between the look for it and the command."""
    index = index_of(ipr, link)
    if index is None:
        return False
    try:
        ipr.link(command, index=index, **what)
    except NetlinkError as err:
        if err.code != errno.ENODEV:
            raise
        return False
    return True
