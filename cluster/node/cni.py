"""Pod networking on one machine: ADD, DEL and CHECK, as CNI has them.

IO: netlink and sysctls in the machine's own network namespace (the process runs inside it), and in pods' namespaces,
which short-lived threads enter by the opened file. Routed, without a bridge (no bridge-netfilter surprises, every
packet between pods passes the machine's FORWARD hook):

    pod eth0 IP/32, default via .1 (on link)  ==veth==  vethXXXXXXXX, route IP/32 dev vethXXXXXXXX src .1
    lo: .1/32                                 the rest of the range: unreachable

The machine answers ARP for .1 on every veth because .1 is one of its addresses (on lo: not every kernel has dummy
links). Strict rp_filter on each veth keeps a pod to its own source address. A machine with a range of IPv6 as well does
the same for that (cni_ipv6.py); without, IPv6 is off on these links.

Invariant: an address is recorded before its link exists and forgotten after the link is gone, so what is recorded but
not live (`reconcile`) covers everything a crash can leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cluster.node import cni_ipv6
from cluster.node.ipam import AddressBook, RangeExhausted

if TYPE_CHECKING:
    from cluster.node.host_port_rules import PortMapping
    from cluster.node.runtime import PodRef

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_GATEWAY_LABEL = "lo:sk8"
_UNREACHABLE_METRIC = 4096
_BOOKS = ("addresses.json", "addresses-ipv6.json")
_SYSCTL = Path("/proc/sys/net")
_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH)


class NetworkFailure(Exception):
    """A pod could not be connected."""


def link_name(sandbox_id: str) -> str:
    """The machine's end of a sandbox's veth pair."""
    return "veth" + hashlib.sha256(sandbox_id.encode()).hexdigest()[:8]


class PodNetwork:
    """One machine's pod network. Netlink work runs one piece at a time in a thread of its own."""

    def __init__(self, state_dir: str, *, mtu: int = 0, overhead_bytes: int = 0) -> None:
        """`mtu` 0: that of the link with the default route, or 1500, less what a tunnel adds (`overhead_bytes`)."""
        self._state = Path(state_dir)
        self._mtu = mtu
        self._overhead_bytes = overhead_bytes
        self._books: tuple[AddressBook, ...] = ()
        self._cidrs: tuple[str, ...] = ()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cni")

    maps_ports = False
    """Host ports are a table of their own (host_ports.py)."""

    @property
    def ready(self) -> bool:
        return bool(self._books)

    @property
    def cidr(self) -> str:
        return next(iter(self._cidrs), "")

    def addresses(self, sandbox_id: str) -> tuple[str, ...]:
        """The recorded ones of a sandbox, one of each family."""
        return tuple(filter(None, (book.address(sandbox_id) for book in self._books)))

    async def setup(self, cidr: str, *ipv6: str) -> None:
        """Prepare the machine for pods of this range, and of one of IPv6; idempotent. Raises NetworkFailure."""
        await self._run(lambda: self._setup((cidr, *ipv6)))

    async def add(
        self, sandbox_id: str, netns: str, pod: PodRef | None = None, ports: tuple[PortMapping, ...] = ()
    ) -> tuple[str, ...]:
        """Connect a sandbox; returns its addresses, IPv4's first. Repeating it repairs. Raises NetworkFailure."""
        return await self._run(lambda: self._add(sandbox_id, netns))

    async def delete(self, sandbox_id: str) -> None:
        """Disconnect; a sandbox that is not connected is no failure."""
        await self._run(lambda: self._delete(sandbox_id))

    async def check(self, sandbox_id: str) -> bool:
        """Whether the sandbox has an address, a link and a route."""
        return await self._run(lambda: self._check(sandbox_id))

    async def reconcile(self, live: Collection[str]) -> list[str]:
        """Disconnect every recorded sandbox that is not live; returns their ids."""
        recorded = {owner for book in self._books for owner in book.owners}
        stale = sorted(recorded - set(live))
        for sandbox_id in stale:
            await self.delete(sandbox_id)
        return stale

    async def teardown(self) -> None:
        """Remove the gateway address and the range's route (the end of a test or of a machine)."""
        await self._run(self._teardown)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except (NetlinkError, OSError, RangeExhausted) as err:
            raise NetworkFailure(str(err)) from err

    # ------------------------------------------------------------ in the thread

    def _setup(self, cidrs: tuple[str, ...]) -> None:
        books = tuple(AddressBook(self._state / name, cidr) for name, cidr in zip(_BOOKS, cidrs, strict=False))
        book, cidr = books[0], cidrs[0]
        _sysctl("ipv4/ip_forward", "1")
        for scope in ("all", "default"):
            _sysctl(f"ipv4/conf/{scope}/send_redirects", "0")
        with IPRoute() as ipr:
            loopback = _index(ipr, "lo")
            _forget_gateways(ipr, loopback, keep=book.gateway)
            ipr.addr("replace", index=loopback, address=book.gateway, prefixlen=32, label=_GATEWAY_LABEL)
            ipr.link("set", index=loopback, state="up")
            ipr.route("replace", dst=cidr, type="unreachable", priority=_UNREACHABLE_METRIC)
            for other, ipv6 in zip(books[1:], cidrs[1:], strict=True):
                cni_ipv6.prepare_machine(ipr, loopback, ipv6, other.gateway)
            if self._mtu == 0:
                self._mtu = _uplink_mtu(ipr) - self._overhead_bytes
        self._books, self._cidrs = books, cidrs

    def _known(self) -> tuple[AddressBook, ...]:
        if not self._books:
            raise NetworkFailure("the node has no pod range yet")
        return self._books

    def _add(self, sandbox_id: str, netns: str) -> tuple[str, ...]:
        book, *others = self._known()
        try:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise NetworkFailure(f"the sandbox's network namespace {netns} cannot be opened: {err}") from err
        name = link_name(sandbox_id)
        try:
            _refuse_own(fd, netns)
            address, *ipv6 = (b.allocate(sandbox_id) for b in (book, *others))
            with IPRoute() as ipr:
                if _index(ipr, name) is None:
                    peer = {"ifname": "eth0", "net_ns_fd": fd, "mtu": self._mtu}
                    ipr.link("add", ifname=name, kind="veth", peer=peer, mtu=self._mtu)
                in_namespace(fd, lambda: _configure_pod(address, book.gateway, ipv6))
                index = _index(ipr, name)
                _sysctl(f"ipv4/conf/{name}/rp_filter", "1")
                if not others:
                    _sysctl(f"ipv6/conf/{name}/disable_ipv6", "1", optional=True)
                ipr.link("set", index=index, state="up", ifalias=f"sk8 pod {sandbox_id[:12]}")
                ipr.route("replace", dst=f"{address}/32", oif=index, scope="link", prefsrc=book.gateway)
                for other, other_address in zip(others, ipv6, strict=True):
                    cni_ipv6.connect_machine(ipr, name, index, other_address, other.gateway)
        except BaseException:
            with contextlib.suppress(NetlinkError, OSError):
                self._delete(sandbox_id)
            raise
        finally:
            os.close(fd)
        return (address, *ipv6)

    def _delete(self, sandbox_id: str) -> None:
        name = link_name(sandbox_id)
        with IPRoute() as ipr:
            index = _index(ipr, name)
            if index is not None:
                try:
                    ipr.link("del", index=index)
                except NetlinkError as err:
                    if err.code not in _GONE:
                        raise
        for book in self._books:
            book.release(sandbox_id)

    def _check(self, sandbox_id: str) -> bool:
        address, *ipv6 = (book.address(sandbox_id) for book in self._known())
        if not address or not all(ipv6):
            return False
        with IPRoute() as ipr:
            index = _index(ipr, link_name(sandbox_id))
            if index is None or not any(True for _ in ipr.get_routes(dst=f"{address}/32", oif=index)):
                return False
            return all(cni_ipv6.is_connected(ipr, index, other) for other in ipv6)

    def _teardown(self) -> None:
        with IPRoute() as ipr:
            loopback = _index(ipr, "lo")
            _forget_gateways(ipr, loopback, keep="")
            for cidr in self._cidrs[:1]:
                try:
                    ipr.route("del", dst=cidr, type="unreachable", priority=_UNREACHABLE_METRIC)
                except NetlinkError as err:
                    if err.code not in _GONE:
                        raise
            for cidr in self._cidrs[1:]:
                cni_ipv6.forget_machine(ipr, loopback, cidr)
        self._books = self._cidrs = ()


def _index(ipr: Any, name: str) -> int | None:
    found = ipr.link_lookup(ifname=name)
    return int(found[0]) if found else None


def _forget_gateways(ipr: Any, loopback: int | None, *, keep: str) -> None:
    """Remove the gateway addresses of earlier ranges."""
    for message in list(ipr.get_addr(family=2, index=loopback)):
        address = message.get_attr("IFA_ADDRESS")
        if message.get_attr("IFA_LABEL") == _GATEWAY_LABEL and address != keep:
            ipr.addr("del", index=loopback, address=address, prefixlen=32)


def _uplink_mtu(ipr: Any) -> int:
    for route in ipr.get_default_routes(family=2):
        index = route.get_attr("RTA_OIF")
        if index is not None:
            for link in ipr.get_links(index):
                return int(link.get_attr("IFLA_MTU"))
    return 1500


def _sysctl(path: str, value: str, *, optional: bool = False) -> None:
    """Per network namespace of the calling thread."""
    target = _SYSCTL / path
    if optional and not target.exists():
        return
    if target.read_text().strip() != value:
        target.write_text(value)


def _refuse_own(fd: int, netns: str) -> None:
    """A sandbox that has ended leaves its process id to others, perhaps to one of the machine's own."""
    found, own = os.fstat(fd), os.stat("/proc/thread-self/ns/net")
    if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
        raise OSError(errno.ESTALE, f"{netns} is the machine's own network namespace: the sandbox has ended")


def raise_loopback(netns: str) -> None:
    """Blocking. Raises NetworkFailure, also when the namespace is the machine's own."""
    try:
        with open(netns, "rb") as file:
            _refuse_own(file.fileno(), netns)
            in_namespace(file.fileno(), _raise_loopback)
    except (NetlinkError, OSError) as err:
        raise NetworkFailure(f"raising lo in {netns}: {err}") from err


def _raise_loopback() -> None:
    with IPRoute() as ipr:
        ipr.link("set", index=_index(ipr, "lo"), state="up")


def in_namespace(fd: int, work: Callable[[], None]) -> None:
    """Run `work` in a thread that lives and dies in the namespace: no thread ever has to find its way back."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(fd, _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"entering the sandbox's network namespace: {os.strerror(code)}")
            work()
        except (NetlinkError, OSError) as err:
            failure.append(err)

    thread = threading.Thread(target=run, name="cni-netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _configure_pod(address: str, gateway: str, ipv6: Sequence[str]) -> None:
    with IPRoute() as ipr:
        loopback, eth0 = _index(ipr, "lo"), _index(ipr, "eth0")
        if eth0 is None:
            raise OSError(errno.ENODEV, "the pod's end of the link is missing")
        ipr.link("set", index=loopback, state="up")
        ipr.addr("replace", index=eth0, address=address, prefixlen=32)
        ipr.link("set", index=eth0, state="up")
        ipr.route("replace", dst=f"{gateway}/32", oif=eth0, scope="link")
        ipr.route("replace", dst="0.0.0.0/0", gateway=gateway, oif=eth0)
        for other in ipv6:
            cni_ipv6.connect_pod(ipr, eth0, other)
