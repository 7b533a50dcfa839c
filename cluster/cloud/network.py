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

import errno
import ipaddress
import subprocess
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from cluster.cloud.netlink import RUN, NetworkError, bring_up, index_of, netlink, remove_link, set_state
from cluster.cloud.slow_cable import SlowCable
from cluster.machine.config import ClusterConfig, MachineSpec

__all__ = ["NetworkError", "Switch"]

_NODAD = 0x02  # IFA_F_NODAD: usable at once, nobody else is asked


class _NoNetem(NetworkError):
    """CONFIG_NET_SCH_NETEM is missing."""


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
        self._cables: dict[str, SlowCable] = {}

    def namespace_of(self, machine: str) -> str:
        return f"{self._config.prefix}-{machine}"

    def namespaces(self) -> list[str]:
        """Those on the box that carry this cluster's prefix, the switch's too."""
        start = f"{self._config.prefix}-"
        return sorted(p.name for p in RUN.iterdir() if p.name.startswith(start)) if RUN.is_dir() else []

    def make(self) -> None:
        """The switch and the host's own end on it."""
        _make_namespace(self.namespace)
        with netlink(self.namespace) as switch:
            if index_of(switch, self.bridge) is None:
                switch.link("add", ifname=self.bridge, kind="bridge")
            bring_up(switch, self.bridge)
            bring_up(switch, "lo")
        with netlink() as host:
            if index_of(host, self.host_link) is None:
                _add_pair(host, self.host_link, self._host_port, self.namespace)
            self._address(host, self.host_link, self._config.host_ip)
            bring_up(host, self.host_link)
        self._plug(self._host_port)

    def remove(self) -> None:
        with netlink() as host:
            remove_link(host, self.host_link)
        _remove_namespace(self.namespace)

    def make_machine(self, machine: MachineSpec) -> None:
        """The machine's namespace with eth0 on the switch; its link is up."""
        name = self.namespace_of(machine.name)
        _make_namespace(name)
        with netlink(name) as inside:
            missing = index_of(inside, "eth0") is None
        if missing:
            with netlink(self.namespace) as switch:
                remove_link(switch, name)
                _add_pair(switch, name, "eth0", name)
        with netlink(name) as inside:
            bring_up(inside, "lo")
            self._address(inside, "eth0", machine.ip)
            bring_up(inside, "eth0")
            self._default_route(inside)
        self._plug(name)

    def remove_machine(self, machine: str) -> None:
        if (RUN / self.namespace).exists():
            self._cable(machine).mend()
        _remove_namespace(self.namespace_of(machine))
        if (RUN / self.namespace).exists():
            with netlink(self.namespace) as switch:
                remove_link(switch, self.namespace_of(machine))

    def set_link(self, machine: str, *, up: bool) -> bool:
        """Cuts or mends the machine's cable; False when it has none (it is off)."""
        if not (RUN / self.namespace).exists():
            return False
        with netlink(self.namespace) as switch:
            return set_state(switch, self.namespace_of(machine), "up" if up else "down")

    def set_netem(self, machine: str, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0) -> bool:
        """Delay and loss of what reaches and leaves the machine; zeros remove. False when it has no cable.

        By netem, a queue on each end of the cable; on a kernel without it, by a process in between (slow_cable).
        """
        name = self.namespace_of(machine)
        if not (RUN / name).exists():
            return False
        self._cable(machine).mend()
        settings = {"delay": int(delay_ms * 1000), "jitter": int(jitter_ms * 1000), "loss": loss_percent}
        try:
            for where, link in ((self.namespace, name), (name, "eth0")):
                with netlink(where) as ns:
                    index = index_of(ns, link)
                    if index is None:
                        return False
                    _clear_queue(ns, index)
                    if delay_ms or loss_percent:
                        _add_netem(ns, index, {k: v for k, v in settings.items() if v})
        except _NoNetem:
            self._cable(machine).spoil(delay_ms=delay_ms, jitter_ms=jitter_ms, loss_percent=loss_percent)
        return True

    def _address(self, ipr: Any, link: str, ip: str) -> None:
        """And the IPv6 address that belongs to it, in a dual-stack cluster."""
        _address(ipr, link, ip, self._length)
        if self._config.dual_stack:
            length = ipaddress.ip_network(self._config.node_cidr_ipv6).prefixlen
            _address(ipr, link, self._config.ipv6_of(ip), length, flags=_NODAD)

    def _default_route(self, ipr: Any) -> None:
        _default_route(ipr, self._config.host_ip)
        if self._config.dual_stack:
            _default_route(ipr, self._config.ipv6_of(self._config.host_ip), AF_INET6)

    def _cable(self, machine: str) -> SlowCable:
        if machine not in self._cables:
            self._cables[machine] = SlowCable(self.namespace, self.bridge, self.namespace_of(machine))
        return self._cables[machine]

    def _plug(self, port: str) -> None:
        """Connects a port of the switch to its bridge."""
        with netlink(self.namespace) as switch:
            switch.link("set", index=index_of(switch, port), master=index_of(switch, self.bridge), state="up")


# -- internals -------------------------------------------------------------------------------------------------------
def _make_namespace(name: str) -> None:
    if not (RUN / name).exists():
        _ip("netns", "add", name)


def _remove_namespace(name: str) -> None:
    if (RUN / name).exists():
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _add_pair(ipr: Any, link: str, peer: str, peer_namespace: str) -> None:
    with open(RUN / peer_namespace) as handle:
        ipr.link("add", ifname=link, kind="veth", peer={"ifname": peer, "net_ns_fd": handle.fileno()})


def _address(ipr: Any, link: str, ip: str, prefix: int, **options: Any) -> None:
    index = index_of(ipr, link)
    if not ipr.get_addr(index=index, address=ip):
        ipr.addr("add", index=index, address=ip, prefixlen=prefix, **options)


def _default_route(ipr: Any, gateway: str, family: int = AF_INET) -> None:
    if not ipr.get_default_routes(family=family):
        ipr.route("add", dst="default", gateway=gateway, family=family)


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
            raise _NoNetem from e
        raise
