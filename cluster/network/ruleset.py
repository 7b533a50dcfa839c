"""The text of `table ip sk8` (of a dual-stack cluster `ip6 sk8`, too): its fixed part (ruleset_base.py), and
transactions that change its maps. Pure.

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

from cluster.network.rules import AFFINITY_PREFIX, INSIDE_OFFSET, Delta, ElementKey
from cluster.network.ruleset_base import PORT_MATCH, TableConfig, skeleton

_VERDICT_MAPS = ("svcs", "ports", "inports", "afflearn")
_AFFINITY_SEED = "0x5ca1ab1e"
"""Fixed: a table that is replaced sends each client where it was."""


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
        ids = f"{PORT_MATCH} map @affportids" if on_port else f"{ip} daddr . {PORT_MATCH} map @affids"
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
