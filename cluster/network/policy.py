"""What a NetworkPolicy says, ready to be turned into rules. Pure.

    NetworkPolicy --compile_policy--> Policy(subject, ingress rules, egress rules)
                                               Rule(peers, blocks, ports)

A pod is isolated in a direction when some policy of its namespace selects it for that direction; it may then speak
only to what some rule of some such policy allows. Source: networking.k8s.io/v1 NetworkPolicy, KEP-2079 (endPort).
The blocks of a rule may be of both families: each family's table (policy_table.py) takes its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.api.selectors import EVERYTHING, LabelSelector, from_label_selector
from cluster.network.rules import PROTOCOLS

Obj = dict[str, Any]
Direction = Literal["in", "out"]
DIRECTIONS: dict[str, Direction] = {"Ingress": "in", "Egress": "out"}


@dataclass(frozen=True, slots=True)
class Group:
    """Pods by namespace and labels. `namespace` "" with `namespaces` None: of every namespace."""

    namespace: str
    namespaces: LabelSelector | None
    pods: LabelSelector

    def has(self, namespace: str, namespace_labels: Mapping[str, str], labels: Mapping[str, str]) -> bool:
        if self.namespace and namespace != self.namespace:
            return False
        if self.namespaces is not None and not self.namespaces.matches(namespace_labels):
            return False
        return self.pods.matches(labels)


ALL_PODS = Group("", None, EVERYTHING)


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A port by the name that the pods' containers give it; each pod may mean another number."""

    name: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `ingress` or `egress`.

    `groups` and `blocks` None: any address; else those of either, possibly nobody. `ports` and `named` None: anything
    at all; else those of either. A port is nft's "tcp . 80" or "tcp . 80-90"; "tcp" alone is every port of it.
    """

    groups: tuple[Group, ...] | None
    blocks: tuple[str, ...] | None
    ports: tuple[str, ...] | None
    named: tuple[NamedPort, ...] | None


@dataclass(frozen=True, slots=True)
class Policy:
    """`rules` has a direction only when the policy isolates in it."""

    key: str
    subject: Group
    rules: Mapping[Direction, tuple[Rule, ...]]


def compile_policy(policy: Obj) -> Policy:
    """Raises ValueError or KeyError for one that validation should not have let through."""
    meta, spec = policy["metadata"], policy.get("spec") or {}
    namespace = meta["namespace"]
    subject = Group(namespace, None, from_label_selector(spec.get("podSelector") or {}))
    rules: dict[Direction, tuple[Rule, ...]] = {}
    for kind in spec.get("policyTypes") or _default_types(spec):
        entries = spec.get(kind.lower()) or ()
        peers = "from" if kind == "Ingress" else "to"
        rules[DIRECTIONS[kind]] = tuple(_rule(namespace, e.get(peers), e.get("ports")) for e in entries)
    return Policy(f"{namespace}/{meta['name']}", subject, rules)


def _default_types(spec: Obj) -> list[str]:
    return ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _rule(namespace: str, peers: list[Obj] | None, ports: list[Obj] | None) -> Rule:
    groups: list[Group] | None = None
    blocks: list[str] | None = None
    if peers:
        groups, blocks = [], []
        for peer in peers:
            if "ipBlock" in peer:
                blocks += block_networks(peer["ipBlock"])
            else:
                groups.append(_group(namespace, peer))
    numbers, named = _ports(ports) if ports else (None, None)
    return Rule(
        tuple(groups) if groups is not None else None,
        tuple(blocks) if blocks is not None else None,
        numbers,
        named,
    )


def _group(namespace: str, peer: Obj) -> Group:
    pods = from_label_selector(peer["podSelector"]) if peer.get("podSelector") is not None else EVERYTHING
    if peer.get("namespaceSelector") is None:
        return Group(namespace, None, pods)
    return Group("", from_label_selector(peer["namespaceSelector"]), pods)


def block_networks(block: Obj) -> list[str]:
    """An ipBlock less its exceptions, as disjoint networks."""
    whole = ipaddress.ip_network(block["cidr"], strict=False)
    left: list[Any] = [whole]
    for text in block.get("except") or ():
        hole = ipaddress.ip_network(text, strict=False)
        if hole.version != whole.version:
            continue
        left = [part for network in left for part in _without(network, hole)]
    return [str(network) for network in ipaddress.collapse_addresses(left)]


def _without(network: Any, hole: Any) -> Iterable[Any]:
    """Two IPv4 networks, or two IPv6 networks."""
    if not network.overlaps(hole):
        return (network,)
    if network.subnet_of(hole):
        return ()
    rest: Iterable[Any] = network.address_exclude(hole)
    return rest


def _ports(ports: list[Obj]) -> tuple[tuple[str, ...], tuple[NamedPort, ...]]:
    numbers: list[str] = []
    named: list[NamedPort] = []
    for entry in ports:
        protocol = PROTOCOLS.get(entry.get("protocol", "TCP"))
        if protocol is None:
            continue
        port, end = entry.get("port"), entry.get("endPort")
        if port is None:
            numbers.append(protocol)
        elif isinstance(port, int):
            numbers.append(f"{protocol} . {port}-{end}" if end and end != port else f"{protocol} . {port}")
        else:
            named.append(NamedPort(port, protocol))
    return tuple(numbers), tuple(named)
