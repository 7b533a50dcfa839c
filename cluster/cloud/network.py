"""The wires between local machines: a switch in a network namespace of its own, one port and one namespace a machine.

IO (netlink through pyroute2; blocking, call it in a thread).

   host          sk8-sw (namespace)                 sk8-m1 (namespace)
   sk8host0 <--> sk8host0p --+                  +-- sk8-m1 <--> eth0 10.89.0.11
   10.89.0.1                 +-- sk8br0 (bridge)+
                                                +-- sk8-m2 <--> eth0 10.89.0.12 in sk8-m2

The bridge is not in the root namespace because a container engine there (FORWARD DROP, bridge-nf-call-iptables) eats
its frames. A cut link is the switch's port set down: both ends keep their addresses and hear nothing, no FIN, no RST.
Every operation is idempotent: it makes what is missing and removes what is there.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cluster.machine.config import ClusterConfig, MachineSpec

_RUN = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NetworkError(RuntimeError):
    """Something this kernel cannot do."""


class Switch:
    """The switch of one cluster and what is plugged into it; all names begin with the cluster's prefix."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._length = ipaddress.ip_network(config.node_cidr).prefixlen
        prefix = config.prefix
        self.namespace = f"{prefix}-sw"
        self.bridge = f"{prefix}br0"
        self.host_link = f"{prefix}host0"
        self._host_port = f"{prefix}host0p"

    def namespace_of(self, machine: str) -> str:
        return f"{self._config.prefix}-{machine}"

    def namespaces(self) -> list[str]:
        """Those on the box that carry this cluster's prefix, the switch's too."""
        start = f"{self._config.prefix}-"
        return sorted(p.name for p in _RUN.iterdir() if p.name.startswith(start)) if _RUN.is_dir() else []

    def make(self) -> None:
        """The switch and the host's own end on it."""
        _make_namespace(self.namespace)
        with _netlink(self.namespace) as switch:
            if _index(switch, self.bridge) is None:
                switch.link("add", ifname=self.bridge, kind="bridge")
            _up(switch, self.bridge)
            _up(switch, "lo")
        with _netlink() as host:
            if _index(host, self.host_link) is None:
                _add_pair(host, self.host_link, self._host_port, self.namespace)
            _address(host, self.host_link, self._config.host_ip, self._length)
            _up(host, self.host_link)
        self._plug(self._host_port)

    def remove(self) -> None:
        with _netlink() as host:
            _remove_link(host, self.host_link)
        _remove_namespace(self.namespace)

    def make_machine(self, machine: MachineSpec) -> None:
        """The machine's namespace with eth0 on the switch; its link is up."""
        name = self.namespace_of(machine.name)
        _make_namespace(name)
        with _netlink(name) as inside:
            missing = _index(inside, "eth0") is None
        if missing:
            with _netlink(self.namespace) as switch:
                _remove_link(switch, name)
                _add_pair(switch, name, "eth0", name)
        with _netlink(name) as inside:
            _up(inside, "lo")
            _address(inside, "eth0", machine.ip, self._length)
            _up(inside, "eth0")
            _default_route(inside, self._config.host_ip)
        self._plug(name)

    def remove_machine(self, machine: str) -> None:
        _remove_namespace(self.namespace_of(machine))
        if (_RUN / self.namespace).exists():
            with _netlink(self.namespace) as switch:
                _remove_link(switch, self.namespace_of(machine))

    def set_link(self, machine: str, *, up: bool) -> bool:
        """Cuts or mends the machine's cable; False when it has none (it is off)."""
        if not (_RUN / self.namespace).exists():
            return False
        with _netlink(self.namespace) as switch:
            index = _index(switch, self.namespace_of(machine))
            if index is None:
                return False
            switch.link("set", index=index, state="up" if up else "down")
            return True

    def set_netem(self, machine: str, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0) -> bool:
        """Delay and loss of what reaches and leaves the machine (a queue on each end of its cable); zeros remove."""
        name = self.namespace_of(machine)
        if not (_RUN / name).exists():
            return False
        settings = {"delay": int(delay_ms * 1000), "jitter": int(jitter_ms * 1000), "loss": loss_percent}
        for where, link in ((self.namespace, name), (name, "eth0")):
            with _netlink(where) as ns:
                index = _index(ns, link)
                if index is None:
                    return False
                _clear_queue(ns, index)
                if delay_ms or loss_percent:
                    _add_netem(ns, index, {k: v for k, v in settings.items() if v})
        return True

    def _plug(self, port: str) -> None:
        """Connects a port of the switch to its bridge."""
        with _netlink(self.namespace) as switch:
            switch.link("set", index=_index(switch, port), master=_index(switch, self.bridge), state="up")


# -- internals -------------------------------------------------------------------------------------------------------
@contextmanager
def _netlink(namespace: str = "") -> Iterator[Any]:
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
        _enter(str(_RUN / namespace))
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


def _make_namespace(name: str) -> None:
    if not (_RUN / name).exists():
        _ip("netns", "add", name)


def _remove_namespace(name: str) -> None:
    if (_RUN / name).exists():
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _index(ipr: Any, link: str) -> int | None:
    found = ipr.link_lookup(ifname=link)
    return int(found[0]) if found else None


def _up(ipr: Any, link: str) -> None:
    ipr.link("set", index=_index(ipr, link), state="up")


def _add_pair(ipr: Any, link: str, peer: str, peer_namespace: str) -> None:
    with open(_RUN / peer_namespace) as handle:
        ipr.link("add", ifname=link, kind="veth", peer={"ifname": peer, "net_ns_fd": handle.fileno()})


def _address(ipr: Any, link: str, ip: str, prefix: int) -> None:
    index = _index(ipr, link)
    if not ipr.get_addr(index=index, address=ip):
        ipr.addr("add", index=index, address=ip, prefixlen=prefix)


def _default_route(ipr: Any, gateway: str) -> None:
    if not ipr.get_default_routes(family=2):
        ipr.route("add", dst="default", gateway=gateway)


def _remove_link(ipr: Any, link: str) -> None:
    index = _index(ipr, link)
    if index is not None:
        ipr.link("del", index=index)


def _clear_queue(ipr: Any, index: int) -> None:
    """Back to the default queue; there is none to delete on a link that has it already."""
    try:
        ipr.tc("del", index=index, root=True)
    except NetlinkError as e:
        if e.code not in (errno.ENOENT, errno.EINVAL):
            raise


def _add_netem(ipr: Any, index: int, settings: dict[str, Any]) -> None:
    try:
        ipr.tc("add", "netem", index, "1:", **settings)
    except NetlinkError as e:
        if e.code == errno.ENOENT:
            raise NetworkError("this kernel has no netem (CONFIG_NET_SCH_NETEM)") from e
        raise
