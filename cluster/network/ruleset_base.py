"""The fixed part of the Services' table: its maps, sets and base chains, which no Service changes. Pure.

ruleset.py tells a packet's way through it, and fills the maps.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.network.config import OVERLAY_LINK
from cluster.network.families import Family, family_of
from cluster.network.rules import PROTOCOLS

TABLE = "sk8"
PORT_MATCH = "meta l4proto . th dport"


@dataclass(frozen=True, slots=True)
class TableConfig:
    cluster_cidr: str
    service_cidr: str
    masquerade_bit: int = 14

    @property
    def family(self) -> Family:
        return family_of(self.cluster_cidr)

    @property
    def table(self) -> str:
        return f"{self.family.nft} {TABLE}"

    @property
    def mark(self) -> str:
        return f"0x{1 << self.masquerade_bit:08x}"


def skeleton(config: TableConfig) -> str:
    """Maps, sets and base chains, without elements and without the shared chains."""
    parts = (_maps(config), _nodeport_and_guards(config), _dnat(config), _postrouting(config), _refusals(config))
    return f"\ntable {config.table} {{\n{''.join(parts)}}}\n"


def _maps(config: TableConfig) -> str:
    ip, address = config.family.nft, config.family.address_type
    endpoint_maps = "\n".join(
        f"  map {name}_{proto} {{ typeof {addr}{proto} dport . numgen random mod 65536 : {ip} daddr . {proto} dport; }}"
        for proto in PROTOCOLS.values()
        for name, addr in (("eps", f"{ip} daddr . "), ("porteps", ""))
    )
    return f"""{endpoint_maps}
  map svcs {{ type {address} . inet_proto . inet_service : verdict; }}
  map ports {{ type inet_proto . inet_service : verdict; }}
  map inports {{ type inet_proto . inet_service : verdict; }}
{_affinity_maps(config)}  set noeps {{ type {address} . inet_proto . inet_service; }}
  set lbaddrs {{ type {address}; }}
  set lbguard {{ type {address} . inet_proto . inet_service; }}
  set lbranges {{ type {address} . inet_proto . inet_service . {address}; flags interval; }}
  set noports {{ type inet_proto . inet_service; }}
  set hairpin {{ type {address} . {address}; }}
  set nodes {{ type {address}; }}
"""


def _nodeport_and_guards(config: TableConfig) -> str:
    """Ports of the machine; and who may come to an address of a load balancer."""
    ip, pods = config.family.nft, config.cluster_cidr
    return f"""  chain nodeport {{
    {ip} saddr {pods} {PORT_MATCH} vmap @inports
    fib saddr type local {PORT_MATCH} vmap @inports
    {PORT_MATCH} vmap @ports
  }}
  chain guard {{
    {ip} daddr . {PORT_MATCH} @lbguard {ip} daddr . {PORT_MATCH} . {ip} saddr != @lbranges drop
  }}
  chain guard-in {{
    type filter hook prerouting priority -110; policy accept;
    ct state new goto guard
  }}
  chain guard-out {{
    type filter hook output priority -110; policy accept;
    ct state new goto guard
  }}
"""


def _dnat(config: TableConfig) -> str:
    """The same for packets that arrive and for those of the machine itself."""
    ip, loopback = config.family.nft, config.family.loopback
    return "".join(
        f"""  chain {hook} {{
    type nat hook {hook} priority -100; policy accept;
    {ip} daddr . {PORT_MATCH} vmap @svcs
    fib daddr type local {ip} daddr != {loopback} {ip} daddr != @lbaddrs jump nodeport
  }}
"""
        for hook in ("prerouting", "output")
    )


def _postrouting(config: TableConfig) -> str:
    ip, pods, services, mark = config.family.nft, config.cluster_cidr, config.service_cidr, config.mark
    return f"""{_affinity_chain(config)}  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    meta mark & {mark} != 0 meta mark set meta mark ^ {mark} masquerade fully-random
    ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random
    oifname "{OVERLAY_LINK}" {ip} saddr != {pods} masquerade
    {ip} saddr {pods} {ip} daddr != {{ {pods}, {services} }} {ip} daddr != @nodes fib daddr type unicast \
masquerade fully-random
  }}
"""


def _refusals(config: TableConfig) -> str:
    """What is still addressed to the Services' range, or to a front without endpoints."""
    ip, services, loopback = config.family.nft, config.service_cidr, config.family.loopback
    return f"""  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with {config.family.unreachable}
  }}
  chain reject-new {{
    {ip} daddr {services} fib daddr type != local goto refuse
    {ip} daddr . {PORT_MATCH} @noeps goto refuse
  }}
  chain forward {{
    type filter hook forward priority -1; policy accept;
    ct state new jump reject-new
  }}
  chain input {{
    type filter hook input priority -1; policy accept;
    ct state new jump reject-new
    ct state new {ip} daddr != {loopback} {PORT_MATCH} @noports goto refuse
    ct state new {ip} daddr @lbaddrs meta l4proto {{ tcp, udp, sctp }} goto refuse
  }}
  chain local-out {{
    type filter hook output priority -1; policy accept;
    ct state new jump reject-new
  }}
"""


def _affinity_maps(config: TableConfig) -> str:
    if not config.family.learns_affinity:
        return ""
    address = config.family.address_type
    return f"""  map affids {{ type {address} . inet_proto . inet_service : mark; }}
  map affportids {{ type inet_proto . inet_service : mark; }}
  map afflearn {{ type mark : verdict; }}
  map affinity {{
    type {address} . mark : {address} . inet_service; flags dynamic,timeout; timeout 3h; size 65535;
  }}
"""


def _affinity_chain(config: TableConfig) -> str:
    if not config.family.learns_affinity:
        return ""
    return """  chain affinity-learn {
    type filter hook postrouting priority 90; policy accept;
    ct state new ct status dnat ct mark vmap @afflearn
  }
"""
