"""hostPort: a port of the machine that leads to a port of one of its pods, as CNI's portmap plugin has it.

What a pod asks for, and whether two fit beside each other, is pure; `HostPorts` is the shell (nft, in the machine's own
network namespace). The tables (host_port_rules.py) are replaced as a whole in one transaction: a machine has few host
ports, and the kernel has either the old or the new set.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cluster.node.cni import link_name
from cluster.node.host_port_rules import Pods, PortMapping, ruleset
from cluster.node.listeners import Listener, listeners

Obj = dict[str, Any]
_ANY = ("", "0.0.0.0", "::")


class HostPortFailure(Exception):
    """nft refused the table, or the port is the machine's own; nothing was changed."""


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
        text = ruleset(pods, ipv6=self._ipv6)

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
