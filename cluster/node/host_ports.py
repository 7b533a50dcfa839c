"""hostPort: a port of the machine that leads to a port of one of its pods, as CNI's portmap plugin has it.

`ruleset` is pure; `HostPorts` is the shell (nft, in the machine's own network namespace). Table `ip sk8-hostports` is
replaced as a whole in one transaction: a machine has few host ports, and the kernel has either the old or the new set.
In a dual-stack cluster there is table `ip6 sk8-hostports` besides, in the same transaction.
Its chains come before kube-proxy's, as portmap's do: a host port wins over a NodePort of the same number.

    to any local address, or to one hostIP  --dnat-->  pod IP : container port
    from 127.0.0.1, or from the pod itself  --masquerade--> so that the answer finds its way back

A connection from 127.0.0.1 leaves by the veth of a pod, which the kernel allows with route_localnet only. That would
also let the pod reach what listens on the machine's loopback; chain `guard` drops such packets.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.node.cni import link_name
from cluster.node.listeners import Listener, listeners

Obj = dict[str, Any]
Pods = Mapping[str, tuple[tuple[str, ...], tuple["PortMapping", ...]]]
"""(pod IPs, mappings) by sandbox."""
TABLE = "sk8-hostports"
_ANY = ("", "0.0.0.0", "::")
_PROTOCOLS = ("tcp", "udp", "sctp")


class HostPortFailure(Exception):
    """nft refused the table, or the port is the machine's own; nothing was changed."""


@dataclass(frozen=True, slots=True, order=True)
class PortMapping:
    """One hostPort of a pod. `host_ip` "" means every address of the machine."""

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""


def port_mappings(pod: Obj) -> tuple[PortMapping, ...]:
    """What a pod asks for; a hostNetwork pod is on the machine's ports anyhow."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        return ()
    restartable = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    found = {
        PortMapping(
            str(port.get("protocol") or "TCP").lower(),
            int(port["hostPort"]),
            int(port["containerPort"]),
            "" if port.get("hostIP") in _ANY else str(port.get("hostIP") or ""),
        )
        for container in (*restartable, *(spec.get("containers") or ()))
        for port in container.get("ports") or ()
        if port.get("hostPort")
    }
    return tuple(sorted(found))


def used_ports(pod: Obj) -> tuple[PortMapping, ...]:
    """Every port of the machine that a pod occupies, through hostPort or hostNetwork."""
    if not pod["spec"].get("hostNetwork"):
        return port_mappings(pod)
    return port_mappings({**pod, "spec": {**pod["spec"], "hostNetwork": False}})


def conflict(wanted: Iterable[PortMapping], taken: Iterable[PortMapping]) -> bool:
    """Whether two pods want the same port of the machine: same protocol and number, on addresses that overlap."""
    mine = list(wanted)
    return any(_overlap(w, t) for t in taken for w in mine)


def _overlap(one: PortMapping, other: PortMapping) -> bool:
    same_port = one.protocol == other.protocol and one.host_port == other.host_port
    return same_port and (one.host_ip == other.host_ip or not (one.host_ip and other.host_ip))


def in_use(wanted: Iterable[PortMapping], own: Iterable[Listener]) -> PortMapping | None:
    """The first mapping that would take a port away from what listens there on the machine."""
    taken = [PortMapping(one.protocol, one.port, 0, one.ip) for one in own]
    return next((w for w in wanted if any(_overlap(w, t) for t in taken)), None)


def ruleset(pods: Pods) -> str:
    """One transaction that makes the table say exactly this."""
    entries = _entries(pods, ipv6=False)
    drop = f"add table ip {TABLE}\ndelete table ip {TABLE}\n"
    if not entries:
        return drop
    anywhere, at, own = _element_lists(entries)
    return f"""{drop}table ip {TABLE} {{
  map anywhere {{ type inet_proto . inet_service : ipv4_addr . inet_service;{anywhere} }}
  map at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;{at} }}
  set own {{ type ipv4_addr . ipv4_addr;{own} }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname "veth*" ip saddr 127.0.0.0/8 drop
    iifname "veth*" ip daddr 127.0.0.0/8 drop
  }}
  chain ports {{
    dnat ip to ip daddr . meta l4proto . th dport map @at
    dnat ip to meta l4proto . th dport map @anywhere
  }}
  chain prerouting {{
    type nat hook prerouting priority -105; policy accept;
    fib daddr type local goto ports
  }}
  chain output {{
    type nat hook output priority -105; policy accept;
    fib daddr type local goto ports
  }}
  chain postrouting {{
    type nat hook postrouting priority 90; policy accept;
    ip saddr . ip daddr @own masquerade
    ct status dnat ip saddr 127.0.0.0/8 masquerade
  }}
}}
"""


def ruleset_ipv6(pods: Pods) -> str:
    """The same for pods' other addresses. ::1 leads to no pod: the kernel lets nothing from there leave the machine."""
    entries = _entries(pods, ipv6=True)
    drop = f"add table ip6 {TABLE}\ndelete table ip6 {TABLE}\n"
    if not entries:
        return drop
    anywhere, at, own = _element_lists(entries)
    return f"""{drop}table ip6 {TABLE} {{
  map anywhere {{ type inet_proto . inet_service : ipv6_addr . inet_service;{anywhere} }}
  map at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;{at} }}
  set own {{ type ipv6_addr . ipv6_addr;{own} }}
  chain ports {{
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @at
    dnat ip6 to meta l4proto . th dport map @anywhere
  }}
  chain prerouting {{
    type nat hook prerouting priority -105; policy accept;
    fib daddr type local goto ports
  }}
  chain output {{
    type nat hook output priority -105; policy accept;
    fib daddr type local ip6 daddr != ::1 goto ports
  }}
  chain postrouting {{
    type nat hook postrouting priority 90; policy accept;
    ip6 saddr . ip6 daddr @own masquerade
  }}
}}
"""


def _entries(pods: Pods, *, ipv6: bool) -> list[tuple[PortMapping, str]]:
    """Each port of the machine with the pod's address of that family; a hostIP of the other one is not its."""
    return sorted(
        (m, ip)
        for ips, mappings in pods.values()
        for ip in ips
        for m in mappings
        if m.protocol in _PROTOCOLS and (":" in ip) is ipv6 and (not m.host_ip or (":" in m.host_ip) is ipv6)
    )


def _element_lists(entries: Iterable[tuple[PortMapping, str]]) -> tuple[str, str, str]:
    """Of the maps `anywhere` and `at`, and of the set `own`."""
    listed = list(entries)
    anywhere = _elements(f"{m.protocol} . {m.host_port} : {_to(m, ip)}" for m, ip in listed if not m.host_ip)
    at = _elements(f"{m.host_ip} . {m.protocol} . {m.host_port} : {_to(m, ip)}" for m, ip in listed if m.host_ip)
    return anywhere, at, _elements(sorted({f"{ip} . {ip}" for _, ip in listed}))


def _to(mapping: PortMapping, ip: str) -> str:
    return f"{ip} . {mapping.container_port}"


def _elements(lines: Iterable[str]) -> str:
    listed = ", ".join(lines)
    return f" elements = {{ {listed} }};" if listed else ""


class HostPorts:
    """The machine's host ports by sandbox. Changes are applied one at a time, in order. `own`: what listens here."""

    def __init__(self, own: Callable[[], Iterable[Listener]] = listeners, *, ipv6: bool = False) -> None:
        """`ipv6`: pods have addresses of that family as well."""
        self._own = own
        self._ipv6 = ipv6
        self._pods: dict[str, tuple[tuple[str, ...], tuple[PortMapping, ...]]] = {}
        self._lock = asyncio.Lock()

    async def adopt(self, pods: Pods) -> None:
        """Exactly these, whatever an earlier kubelet left. Raises HostPortFailure."""
        async with self._lock:
            self._pods = {k: v for k, v in pods.items() if v[1]}
            await self._apply(self._pods)

    async def set(self, sandbox_id: str, ips: tuple[str, ...], mappings: tuple[PortMapping, ...]) -> None:
        """Raises HostPortFailure; nothing is changed then."""
        if not mappings:
            return
        taken = in_use(mappings, await asyncio.to_thread(self._own))
        if taken is not None:
            at = f"{taken.host_ip}:{taken.host_port}"
            why = f"listen {taken.protocol}4 {at}: bind: address already in use"
            raise HostPortFailure(f"cannot open hostport {taken.host_port}: {why}")
        async with self._lock:
            wanted = {**self._pods, sandbox_id: (ips, mappings)}
            await self._apply(wanted)
            self._pods = wanted

    async def delete(self, sandbox_id: str) -> None:
        """A sandbox without host ports is no failure. Raises HostPortFailure."""
        if sandbox_id not in self._pods:
            return
        async with self._lock:
            wanted = {k: v for k, v in self._pods.items() if k != sandbox_id}
            await self._apply(wanted)
            self._pods = wanted

    async def _apply(self, pods: Pods) -> None:
        text = ruleset(pods)
        if self._ipv6:
            text += ruleset_ipv6(pods)

        def run() -> None:
            try:
                done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
            except OSError as err:
                raise HostPortFailure(f"hostPort needs the program nft (Debian: nftables): {err}") from err
            if done.returncode != 0:
                raise HostPortFailure(f"nft refused the host ports: {done.stderr.strip()}")
            for sandbox_id in pods:
                setting = Path(f"/proc/sys/net/ipv4/conf/{link_name(sandbox_id)}/route_localnet")
                if setting.exists():  # the link may be on its way out
                    setting.write_text("1")

        await asyncio.to_thread(run)
