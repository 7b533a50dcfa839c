"""Keeps pods and outsiders away from the ports that only machines may use: Ray, State, engine, kubelet, VXLAN
(docs/security.md: who can talk to Ray owns the cluster). `firewall_rules` is pure; `Firewall` is the shell.

Table `inet sk8`. On the way in, a protected port answers to the machine itself, to addresses in `machine_cidrs` and
to the InternalIP of every Node; on the way through, pods of this machine cannot reach a protected port of another
machine either (theirs would refuse too: this covers one whose agent is not up yet). Pods get a clear refusal, others
silence. Machines speak IPv4 to each other, so to IPv6 these ports are closed altogether. A pod's link may send only
from pod addresses, so that no pod poses as a machine. Ports in `refused_to_pods` are closed to pods alone, and so is
BGP to the cluster's routers: they know a machine by the address that its pods leave the cluster with; those in
`open_to_pods` are open to pods and machines. Everything else (6443, DNS, NodePorts, ICMP) is left alone.

The static part is in force before the API server is reachable; Nodes join the set as they are learnt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from cluster.api.bgp import PORT as BGP_PORT
from cluster.machinery.client import Client
from cluster.machinery.informer import Informers
from cluster.network.config import FirewallConfig, port_range
from cluster.network.nft import NftError, NftRunner
from cluster.network.routes import internal_ip
from cluster.network.tables import KeptTable

log = logging.getLogger(__name__)

Obj = dict[str, Any]
NODES = "nodes"
_RETRY_S = 1.0


def firewall_rules(config: FirewallConfig, machine_ips: Iterable[str]) -> str:
    """The whole table as one transaction."""
    known = ", ".join(sorted(set(machine_ips)))
    elements = f" elements = {{ {known} }};" if known else ""
    return f"""add table inet sk8
delete table inet sk8
table inet sk8 {{
  set machines {{ type ipv4_addr;{elements} }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain spoofed {{
    type filter hook prerouting priority -250; policy accept;
    iifname "{config.pod_link_prefix}*" ip saddr != {config.cluster_cidr} drop{_spoofed_ipv6(config)}
  }}
  chain input {{
    type filter hook input priority -10; policy accept;{_to_this_machine(config)}
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;{_to_routers(config)}{_to_other_machines(config)}
  }}
}}
"""


def _to_this_machine(config: FirewallConfig) -> str:
    protected, refused, machines = _to(config.protected_ports), _refused(config), ", ".join(config.machine_cidrs)
    text = ""
    if refused:
        text += f"""
    iif lo accept
    ct state established,related accept{_open_to_pods(config)}
    {refused} ip saddr {config.cluster_cidr} goto refuse"""
    if protected:
        text += f"""
    {protected} ip saddr != {{ {machines} }} ip saddr != @machines drop
    meta nfproto ipv6 {protected} drop"""
    return text


def _to_other_machines(config: FirewallConfig) -> str:
    refused, pods, machines = _refused(config), config.cluster_cidr, ", ".join(config.machine_cidrs)
    if not refused:
        return ""
    return f"""
    ct state established,related accept{_open_to_pods(config)}
    ip saddr {pods} ip daddr {{ {machines} }} {refused} goto refuse
    ip saddr {pods} ip daddr @machines {refused} goto refuse"""


def _refused(config: FirewallConfig) -> str:
    """What matches packets to ports that no pod may speak to."""
    return _to((*config.protected_ports, *config.refused_to_pods))


def _open_to_pods(config: FirewallConfig) -> str:
    """Before pods are refused."""
    if not config.open_to_pods:
        return ""
    return f"\n    {_to(config.open_to_pods)} ip saddr {config.cluster_cidr} accept"


def _to(ports: Iterable[str]) -> str:
    """What matches packets to one of these ports; "" when there are none."""
    ranges = merged(sorted(port_range("ports", each) for each in ports))
    shown = ", ".join(f"{low}-{high}" if low != high else f"{low}" for low, high in ranges)
    return f"meta l4proto {{ tcp, udp }} th dport {{ {shown} }}" if shown else ""


def _to_routers(config: FirewallConfig) -> str:
    """Before what is established: a session that a pod began in time would stay one."""
    if not config.bgp_routers:
        return ""
    routers = ", ".join(sorted(set(config.bgp_routers)))
    return f"""
    ip saddr {config.cluster_cidr} ip daddr {{ {routers} }} tcp dport {BGP_PORT} goto refuse"""


def _spoofed_ipv6(config: FirewallConfig) -> str:
    """IPv6 has no rp_filter, so the table looks up whether the source is routed to this link. A pod without a global
    address speaks to its neighbour, the machine, to learn addresses and for nothing else."""
    if not config.cluster_cidr_ipv6:
        return ""
    link, pods = f'iifname "{config.pod_link_prefix}*"', config.cluster_cidr_ipv6
    return f"""
    {link} ip6 saddr {{ ::, fe80::/10 }} meta l4proto != ipv6-icmp drop
    {link} ip6 saddr != {{ ::, fe80::/10, {pods} }} drop
    {link} ip6 saddr {pods} fib saddr . iif oif missing drop"""


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges without overlap (nft refuses a set whose intervals overlap)."""
    out: list[tuple[int, int]] = []
    for low, high in ranges:
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return out


class Firewall:
    """`run()` until cancelled; the table stays when it stops."""

    def __init__(
        self,
        config: FirewallConfig,
        client: Client,
        *,
        informers: Informers | None = None,
        nft: NftRunner | None = None,
    ) -> None:
        config.validate()
        self._config = config
        self._own_informers = informers is None
        self._informers = informers or Informers(client)
        self._kept = KeptTable("inet", "sk8", self._wake_up, nft)
        self._wake = asyncio.Event()
        self._in_force: str | None = None
        self._error = ""
        self._heal = False

    async def run(self) -> None:
        """Returns only by cancellation."""
        self._informers.of(NODES).add_handler(self._on_node)
        try:
            async with asyncio.TaskGroup() as group:
                if self._own_informers:
                    group.create_task(self._informers.run(), name="firewall-informers")
                group.create_task(self._sync_forever(), name="firewall")
        finally:
            self._kept.close()

    def health(self) -> dict[str, object]:
        return {"ready": self._in_force is not None and not self._error, "error": self._error}

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if internal_ip(old or {}) != internal_ip(new or {}):
            self._wake.set()

    def _wake_up(self) -> None:
        self._heal = True
        self._wake.set()

    async def _sync_forever(self) -> None:
        while True:
            self._wake.clear()
            text = firewall_rules(self._config, filter(None, map(internal_ip, self._informers.of(NODES).items())))
            if self._heal or text != self._in_force:
                self._heal = False
                try:
                    await self._kept.replace(text)
                    self._in_force, self._error = text, ""
                except (NftError, OSError) as err:
                    self._heal, self._error = True, str(err)
                    log.error("firewall not in force, trying again: %s", err)
                    await asyncio.sleep(_RETRY_S)
                    continue
            await self._wake.wait()
