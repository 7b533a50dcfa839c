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

SWITCH = "sk8-sw"
BRIDGE = "sk8br0"
HOST_LINK = "sk8host0"
HOST_PORT = "sk8host0p"
_RUN = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NetworkError(RuntimeError):
    """Something this kernel cannot do."""


def namespace_of(machine: str) -> str:
    return f"sk8-{machine}"


def namespace_path(machine: str) -> Path:
    return _RUN / namespace_of(machine)


def make_switch(config: ClusterConfig) -> None:
    """The switch and the host's own end on it."""
    _make_namespace(SWITCH)
    prefix = ipaddress.ip_network(config.node_cidr).prefixlen
    with _netlink(SWITCH) as switch:
        if _index(switch, BRIDGE) is None:
            switch.link("add", ifname=BRIDGE, kind="bridge")
        _up(switch, BRIDGE)
        _up(switch, "lo")
    with _netlink() as host:
        if _index(host, HOST_LINK) is None:
            _add_pair(host, HOST_LINK, HOST_PORT, SWITCH)
        _address(host, HOST_LINK, config.host_ip, prefix)
        _up(host, HOST_LINK)
    _plug(HOST_PORT)


def remove_switch() -> None:
    with _netlink() as host:
        _remove_link(host, HOST_LINK)
    _remove_namespace(SWITCH)


def make_machine(config: ClusterConfig, machine: MachineSpec) -> None:
    """The machine's namespace with eth0 on the switch; its link is up."""
    name = namespace_of(machine.name)
    _make_namespace(name)
    prefix = ipaddress.ip_network(config.node_cidr).prefixlen
    with _netlink(name) as inside:
        missing = _index(inside, "eth0") is None
    if missing:
        with _netlink(SWITCH) as switch:
            _remove_link(switch, name)
            _add_pair(switch, name, "eth0", name)
    with _netlink(name) as inside:
        _up(inside, "lo")
        _address(inside, "eth0", machine.ip, prefix)
        _up(inside, "eth0")
        _default_route(inside, config.host_ip)
    _plug(name)


def remove_machine(machine: str) -> None:
    _remove_namespace(namespace_of(machine))
    if (_RUN / SWITCH).exists():
        with _netlink(SWITCH) as switch:
            _remove_link(switch, namespace_of(machine))


def set_link(machine: str, *, up: bool) -> bool:
    """Cuts or mends the machine's cable; False when it has none (it is off)."""
    if not (_RUN / SWITCH).exists():
        return False
    with _netlink(SWITCH) as switch:
        index = _index(switch, namespace_of(machine))
        if index is None:
            return False
        switch.link("set", index=index, state="up" if up else "down")
        return True


def set_netem(machine: str, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0) -> bool:
    """Delay and loss of what reaches and leaves the machine (one queue on each end of its cable); zeros remove them."""
    name = namespace_of(machine)
    if not (_RUN / name).exists():
        return False
    for where, link in ((SWITCH, name), (name, "eth0")):
        with _netlink(where) as ns:
            index = _index(ns, link)
            if index is None:
                return False
            _clear_queue(ns, index)
            if delay_ms or loss_percent:
                settings: dict[str, Any] = {"delay": int(delay_ms * 1000), "loss": loss_percent}
                if jitter_ms:
                    settings["jitter"] = int(jitter_ms * 1000)
                try:
                    ns.tc("add", "netem", index, "1:", **settings)
                except NetlinkError as e:
                    if e.code == errno.ENOENT:
                        raise NetworkError("this kernel has no netem (CONFIG_NET_SCH_NETEM)") from e
                    raise
    return True


def machines_with_links() -> list[str]:
    """Names of machines whose namespaces are there, from the names alone."""
    names = sorted(p.name for p in _RUN.iterdir()) if _RUN.is_dir() else []
    return [n.removeprefix("sk8-") for n in names if n.startswith("sk8-") and n != SWITCH]


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


def _plug(port: str) -> None:
    """Connects a port of the switch to its bridge."""
    with _netlink(SWITCH) as switch:
        switch.link("set", index=_index(switch, port), master=_index(switch, BRIDGE), state="up")


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
