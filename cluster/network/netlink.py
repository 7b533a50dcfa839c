"""Hears what others do to this namespace: nftables tables, links and routes. IO: netlink multicast sockets.

Nothing here is polled. `NftWatch` tells when a table of ours was changed by somebody else: every transaction ends in
one NEWGEN message, so of the generations that touched our tables, those beyond the ones we made ourselves are foreign.
`LinkWatch` tells that links, addresses or routes changed. Both call back on the loop; a lost message (the kernel's
buffer ran over) counts as a change, because it may have been one.

Source: linux/netfilter/nfnetlink.h, nf_tables.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_NETLINK_ROUTE = 0
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33
_NFNLGRP_NFTABLES = 7
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_NEWGEN = 15
_NFTA_TABLE_NAME = 1  # every object of nf_tables names its table in attribute 1
_RTNLGRP_LINK = 1
_IPV4_GROUPS, _IPV6_GROUPS = (5, 7), (9, 11)
"""RTNLGRP_IPV4_IFADDR and _IPV4_ROUTE, and those of IPv6."""
_RECEIVE_BYTES = 1 << 16
_BUFFER_BYTES = 4 << 20

FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}


class MulticastSocket:
    """A netlink socket that calls `on_data` for each datagram, and `on_lost` when the kernel dropped some."""

    def __init__(
        self,
        protocol: int,
        groups: tuple[int, ...],
        on_data: Callable[[bytes], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._on_data = on_data
        self._on_lost = on_lost
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._sock.bind((0, 0))
            for group in groups:
                self._sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
            self._sock.setblocking(False)
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._sock.fileno(), self._readable)
        except BaseException:
            self._sock.close()
            raise

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def drain(self) -> None:
        """Deliver at once what the kernel has queued."""
        self._readable()

    def _readable(self) -> None:
        while self._sock.fileno() >= 0:
            try:
                data = self._sock.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                self._on_lost()
                continue
            self._on_data(data)


class NftWatch:
    """Calls `on_foreign()` when somebody else changed one of `tables` ((family, name) pairs).

    Whoever changes them here calls `own()` once for each transaction that succeeded, after it.
    """

    def __init__(self, tables: tuple[tuple[str, str], ...], on_foreign: Callable[[], None]) -> None:
        self._tables = {(FAMILIES[family], name) for family, name in tables}
        self._on_foreign = on_foreign
        self._touched = False
        self._surplus = 0
        self._timer: asyncio.TimerHandle | None = None
        self._socket = MulticastSocket(_NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,), self._data, self._lost)

    def own(self) -> None:
        self._socket.drain()
        self._surplus -= 1

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()

    def _data(self, data: bytes) -> None:
        for kind, family, attributes in _nfnetlink(data):
            if kind == _NFT_MSG_NEWGEN:
                if self._touched:
                    self._touched = False
                    self._surplus += 1
                    self._check_soon()
            elif (family, table_name(attributes)) in self._tables:
                self._touched = True

    def _check_soon(self) -> None:
        # A transaction of our own runs in a thread: its generation may be heard before `own()` is called.
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(0.05, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._surplus > 0:
            self._surplus = 0
            self._on_foreign()

    def _lost(self) -> None:
        self._surplus = 0
        self._touched = False
        self._on_foreign()


class LinkWatch:
    """Calls `on_change()` when a link, an IPv4 address or an IPv4 route of this namespace changed."""

    def __init__(self, on_change: Callable[[], None], *, ipv6: bool = False) -> None:
        """`ipv6`: of that family as well."""
        self._socket = MulticastSocket(
            _NETLINK_ROUTE,
            (_RTNLGRP_LINK, *_IPV4_GROUPS, *(_IPV6_GROUPS if ipv6 else ())),
            lambda _data: on_change(),
            on_change,
        )

    def close(self) -> None:
        self._socket.close()


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The (type, flags, payload) of each netlink message in a datagram."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, offset)
        if length < 16:
            return
        yield kind, flags, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, value) of each netlink attribute; the nested and byte-order flags are taken off."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attribute(kind: int, value: bytes, *, nested: bool = False) -> bytes:
    """One netlink attribute, padded."""
    length = 4 + len(value)
    return struct.pack("=HH", length, kind | (0x8000 if nested else 0)) + value + b"\0" * (-length % 4)


def table_name(data: bytes) -> str:
    for kind, value in attributes(data):
        if kind == _NFTA_TABLE_NAME:
            return value.rstrip(b"\0").decode(errors="replace")
    return ""


def _nfnetlink(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    for kind, _flags, payload in messages(data):
        if kind >> 8 == _NFNL_SUBSYS_NFTABLES and len(payload) >= 4:
            yield kind & 0xFF, payload[0], payload[4:]
