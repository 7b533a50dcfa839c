"""The text of `table ip sk8` (of a dual-stack cluster `ip6 sk8`, too): its fixed part, and transactions that change
its maps. Pure.

A packet's way: nat prerouting (from pods, other hosts) or nat output (from this machine), both at priority -100,
look the destination up in `svcs`, then (for an address of this machine) in `inports` or `ports`; the verdict goes to
a shared chain that picks an endpoint by number and rewrites the destination. Postrouting masquerades what was
marked, a pod that reached itself, and pods' traffic that leaves the cluster. A filter then rejects what is still
addressed to the Services' range or to a front without endpoints. Only the first packet of a connection passes here;
the rest follows conntrack, so replacing the whole table cuts nothing.

Two things about nft 1.0.6: `dstnat` is no valid priority name in the output hook (-100 is the same number), and the
first rule that uses a map whose values hold a port silently matches that port's protocol. So the maps of endpoints
are one per protocol, and the match it adds is the right one.
Invariant: every render is one text, and nft applies one text as one atomic transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cluster.network.config import OVERLAY_LINK
from cluster.network.families import Family, family_of
from cluster.network.rules import AFFINITY_PREFIX, INSIDE_OFFSET, PROTOCOLS, Delta, ElementKey

TABLE = "sk8"
_VERDICT_MAPS = ("svcs", "ports", "inports", "afflearn")
_PORT_MATCH = "meta l4proto . th dport"
_AFFINITY_SEED = "0x5ca1ab1e"
"""Fixed: a table that is replaced sends each client where it was."""


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
    pods, services, mark = config.cluster_cidr, config.service_cidr, config.mark
    ip, address, loopback = config.family.nft, config.family.address_type, config.family.loopback
    endpoint_maps = "\n".join(
        f"  map {name}_{proto} {{ typeof {addr}{proto} dport . numgen random mod 65536 : {ip} daddr . {proto} dport; }}"
        for proto in PROTOCOLS.values()
        for name, addr in (("eps", f"{ip} daddr . "), ("porteps", ""))
    )
    return f"""
table {config.table} {{
{endpoint_maps}
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
  chain nodeport {{
    {ip} saddr {pods} {_PORT_MATCH} vmap @inports
    fib saddr type local {_PORT_MATCH} vmap @inports
    {_PORT_MATCH} vmap @ports
  }}
  chain guard {{
    {ip} daddr . {_PORT_MATCH} @lbguard {ip} daddr . {_PORT_MATCH} . {ip} saddr != @lbranges drop
  }}
  chain guard-in {{
    type filter hook prerouting priority -110; policy accept;
    ct state new goto guard
  }}
  chain guard-out {{
    type filter hook output priority -110; policy accept;
    ct state new goto guard
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    {ip} daddr . {_PORT_MATCH} vmap @svcs
    fib daddr type local {ip} daddr != {loopback} {ip} daddr != @lbaddrs jump nodeport
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    {ip} daddr . {_PORT_MATCH} vmap @svcs
    fib daddr type local {ip} daddr != {loopback} {ip} daddr != @lbaddrs jump nodeport
  }}
{_affinity_chain(config)}  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    meta mark & {mark} != 0 meta mark set meta mark ^ {mark} masquerade fully-random
    ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random
    oifname "{OVERLAY_LINK}" {ip} saddr != {pods} masquerade
    {ip} saddr {pods} {ip} daddr != {{ {pods}, {services} }} {ip} daddr != @nodes fib daddr type unicast \
masquerade fully-random
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with {config.family.unreachable}
  }}
  chain reject-new {{
    {ip} daddr {services} fib daddr type != local goto refuse
    {ip} daddr . {_PORT_MATCH} @noeps goto refuse
  }}
  chain forward {{
    type filter hook forward priority -1; policy accept;
    ct state new jump reject-new
  }}
  chain input {{
    type filter hook input priority -1; policy accept;
    ct state new jump reject-new
    ct state new {ip} daddr != {loopback} {_PORT_MATCH} @noports goto refuse
    ct state new {ip} daddr @lbaddrs meta l4proto {{ tcp, udp, sctp }} goto refuse
  }}
  chain local-out {{
    type filter hook output priority -1; policy accept;
    ct state new jump reject-new
  }}
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


def chain_rules(name: str, config: TableConfig) -> tuple[str, ...]:
    """The rules of a shared chain, from its name alone: [a]LETTER-PROTOCOL-K, or t-SECONDS."""
    ip = config.family.nft
    kind, _, rest = name.partition("-")
    if kind == "t":
        return (f"update @affinity {{ {ip} saddr . ct mark timeout {rest}s : {ip} daddr . th dport }}",)
    protocol, _, size = rest.partition("-")
    letter = kind.removeprefix(AFFINITY_PREFIX)
    masquerade = _masquerade(letter, config)
    on_port = letter in "xyz"
    number = f"numgen random mod {size}"
    if kind != letter and not config.family.learns_affinity:
        number = f"jhash {ip} saddr mod {size} seed {_AFFINITY_SEED}"
    elif kind != letter:
        ids = f"{_PORT_MATCH} map @affportids" if on_port else f"{ip} daddr . {_PORT_MATCH} map @affids"
        return (
            *masquerade,
            f"ct mark set {ids}",
            f"meta l4proto {protocol} dnat {ip} to {ip} saddr . ct mark map @affinity",
            f"goto {letter}-{rest}",
        )
    if letter == "z":
        number += f" offset {INSIDE_OFFSET}"
    if on_port:
        return (*masquerade, f"dnat {ip} to {protocol} dport . {number} map @porteps_{protocol}")
    return (*masquerade, f"dnat {ip} to {ip} daddr . {protocol} dport . {number} map @eps_{protocol}")


def _masquerade(letter: str, config: TableConfig) -> tuple[str, ...]:
    mark = f"meta mark set meta mark | {config.mark}"
    if letter == "n":
        return (f"{config.family.nft} saddr != {config.cluster_cidr} fib saddr type != local {mark}",)
    if letter in "mx":
        return (mark,)
    return ()


def chains_for(elements: Iterable[str]) -> list[str]:
    """The shared chains that verdicts name, each after those it goes to."""
    names = {value.removeprefix("goto ") for value in elements if value.startswith("goto ")}
    names |= {name.removeprefix(AFFINITY_PREFIX) for name in names}
    return sorted(names, key=lambda name: (name.startswith(AFFINITY_PREFIX), name))


def render_full(
    config: TableConfig, elements: Mapping[ElementKey, str], kept: Iterable[str] = ()
) -> tuple[str, set[str]]:
    """Replace the table, whatever it was, by these elements; `kept` are `affinity` elements to carry over."""
    chains = chains_for(elements.values())
    parts = [f"add table {config.table}", f"delete table {config.table}", skeleton(config)]
    parts += _chains(chains, config)
    parts += _elements(config, "add", elements)
    carried = ", ".join(kept)
    if carried:
        parts.append(f"add element {config.table} affinity {{ {carried} }}")
    return "\n".join(parts) + "\n", set(chains)


def render_delta(config: TableConfig, delta: Delta, chains: set[str]) -> tuple[str, set[str]]:
    """Change the maps by `delta`; returns the text and the shared chains there will be."""
    fresh = [name for name in chains_for(delta.added.values()) if name not in chains]
    parts = _chains(fresh, config)
    parts += _elements(config, "delete", dict.fromkeys(delta.removed, ""))
    parts += _elements(config, "add", delta.added)
    return "\n".join(parts) + "\n", chains | set(fresh)


def _chains(names: Iterable[str], config: TableConfig) -> list[str]:
    out: list[str] = []
    for name in names:
        out.append(f"add chain {config.table} {name}")
        out += [f"add rule {config.table} {name} {rule}" for rule in chain_rules(name, config)]
    return out


def _elements(config: TableConfig, verb: str, elements: Mapping[ElementKey, str]) -> Iterator[str]:
    by_map: dict[str, list[str]] = {}
    for (map_name, key), value in elements.items():
        by_map.setdefault(map_name, []).append(f"{key} : {value}" if value else key)
    for map_name in sorted(by_map, key=lambda name: (name in _VERDICT_MAPS, name)):
        yield f"{verb} element {config.table} {map_name} {{ {', '.join(by_map[map_name])} }}"
