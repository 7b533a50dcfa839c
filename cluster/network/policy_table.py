"""`table ip sk8-policy`: NetworkPolicies as nftables maps and sets. Pure; policy_agent.py hands it to the kernel. A
dual-stack machine has `ip6 sk8-policy` as well, with the pods' other addresses.

Each isolated pod of this machine is one element of map `in` or `out`, whose verdict jumps to a chain shared by all
pods that the same policies select. A chain holds the rules of those policies, each ending in `return`, and a `drop`
at its end. Whom a rule allows is a set of addresses, filled from the pods of the whole cluster; so a pod that comes
or goes changes elements, never a rule.

    forward: established? accept - out[source]: may it send? - in[destination]: may it receive?
    input:   to the machine's own DNS server: out[source]

Traffic between a pod and its own machine is always allowed, as Kubernetes says, so probes pass. The DNS server of the
machine is the exception: it stands for the pods labelled `k8s-app: kube-dns` in kube-system, and an egress policy
means it as it means them. While there are policies, a pod this table has not seen yet may not speak at all: rules are
in force before its first packet.

Invariants: fed pod by pod, the table holds what one made anew would hold; `take()` is the exact difference.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.machinery.client import key_of
from cluster.network.families import V4, Family, family_of
from cluster.network.policy import ALL_PODS, Direction, Group, NamedPort, Policy, Rule
from cluster.network.rules import PROTOCOLS, Delta, Elements, RuleTable

Obj = dict[str, Any]
TABLE = "sk8-policy"
DNS_OWNER = "//dns"
_FINISHED = ("Succeeded", "Failed")
_PORT_MATCH = "meta l4proto . th dport"
_ADDRESS = {"in": "saddr", "out": "daddr"}


@dataclass(frozen=True, slots=True)
class PolicyTableConfig:
    """`dns_ip` "": the machine's DNS server has no address of this family."""

    node_name: str
    dns_ip: str
    pod_link_prefix: str = "veth"
    family: Family = V4

    @property
    def table(self) -> str:
        return f"{self.family.nft} {TABLE}"


@dataclass(frozen=True, slots=True)
class _Member:
    """A pod as the rules see it. `ports`: (name, protocol, number) of its containers."""

    ip: str
    namespace: str
    labels: Mapping[str, str]
    ports: tuple[tuple[str, str, int], ...]
    local: bool


class PolicyTable:
    def __init__(
        self, config: PolicyTableConfig, policies: Sequence[Policy] = (), namespaces: Iterable[Obj] = ()
    ) -> None:
        """Policies and namespaces stay as given: when one changes, make another table; a namespace matters only
        `by_namespace`. Pods come by `set_pod`."""
        self._config = config
        self._policies = sorted(policies, key=lambda policy: policy.key)
        self._namespaces = {n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in namespaces}
        self._groups, self._named = _used(self._policies)
        self._table = RuleTable()
        self._chains: dict[str, tuple[str, ...]] = {}
        if config.dns_ip:
            labels = {"k8s-app": "kube-dns"}
            ports = (("dns", "udp", 53), ("dns-tcp", "tcp", 53))
            self._set(DNS_OWNER, _Member(config.dns_ip, "kube-system", labels, ports, False))

    @property
    def strict(self) -> bool:
        return bool(self._policies)

    @property
    def by_namespace(self) -> bool:
        """Whether a change of a namespace's labels can change a rule's peers."""
        return any(group.namespaces is not None for group in (*self._groups, *(group for group, _ in self._named)))

    @property
    def elements(self) -> Mapping[tuple[str, str], str]:
        return self._table.elements

    @property
    def chains(self) -> Mapping[str, tuple[str, ...]]:
        """Shared chains by name, with their rules; those of pods that have gone may still be among them."""
        return self._chains

    @property
    def sets(self) -> dict[str, str]:
        """The sets that rules may name, also while nobody is in them, and their nft types."""
        kind = self._config.family.address_type
        addresses = dict.fromkeys(self._groups.values(), kind)
        return addresses | dict.fromkeys(self._named.values(), f"{kind} . inet_proto . inet_service")

    def set_pod(self, pod: Obj) -> None:
        member = _member(pod, self._config)
        if member is None:
            self.remove_pod(key_of(pod))
        else:
            self._set(key_of(pod), member)

    def remove_pod(self, key: str) -> None:
        self._table.set_owner(key, {})

    def take(self) -> Delta:
        return self._table.take()

    def _set(self, owner: str, member: _Member) -> None:
        elements: Elements = {}
        spoken = self._namespaces.get(member.namespace, {})
        for group, name in self._groups.items():
            if group.has(member.namespace, spoken, member.labels):
                elements[name, member.ip] = ""
        for (group, port), name in self._named.items():
            if group.has(member.namespace, spoken, member.labels):
                for _, protocol, number in (p for p in member.ports if p[:2] == (port.name, port.protocol)):
                    elements[name, f"{member.ip} . {protocol} . {number}"] = ""
        if member.local:
            self._isolate(member, elements)
        self._table.set_owner(owner, elements)

    def _isolate(self, member: _Member, elements: Elements) -> None:
        elements["known", member.ip] = ""
        elements["self", f"{member.ip} . {member.ip}"] = ""
        chosen = [p for p in self._policies if p.subject.has(member.namespace, {}, member.labels)]
        for direction in ("in", "out"):
            policies = [p for p in chosen if direction in p.rules]
            if policies:
                elements[direction, member.ip] = f"jump {self._chain(direction, policies)}"

    def _chain(self, direction: Direction, policies: Sequence[Policy]) -> str:
        name = f"{direction}-{_digest(' '.join(p.key for p in policies))}"
        if name not in self._chains:
            lines = [line for p in policies for rule in p.rules[direction] for line in self._lines(direction, p, rule)]
            self._chains[name] = (*dict.fromkeys(f"{line} return".strip() for line in lines), "drop")
        return name

    def _lines(self, direction: Direction, policy: Policy, rule: Rule) -> Iterator[str]:
        """The matches of one rule; traffic that any of them fits is allowed."""
        ip = self._config.family.nft
        address = f"{ip} {_ADDRESS[direction]}"
        mine = [block for block in rule.blocks or () if family_of(block) is self._config.family]
        blocks = [f"{address} {{ {', '.join(mine)} }}"] if mine else []
        if rule.groups is None:
            peers = [""]
        else:
            peers = [f"{address} @{self._groups[group]}" for group in rule.groups] + blocks
        if rule.ports is None or rule.named is None:
            yield from peers
            return
        for peer, port in itertools.product(peers, _number_matches(rule.ports)):
            yield f"{peer} {port}".strip()
        for port_name in rule.named:
            # Egress names a port of the peers, ingress one of the pods that the policy selects.
            owners: Iterable[Group] = (policy.subject,) if direction == "in" else (rule.groups or (ALL_PODS,))
            for peer, group in itertools.product(peers, owners):
                yield f"{peer} {ip} daddr . {_PORT_MATCH} @{self._named[group, port_name]}".strip()


def _number_matches(ports: Sequence[str]) -> list[str]:
    pairs = [port for port in ports if " . " in port]
    whole = [port for port in ports if " . " not in port]
    out = [f"{_PORT_MATCH} {{ {', '.join(_disjoint(pairs))} }}"] if pairs else []
    if whole:
        out.append(f"meta l4proto {{ {', '.join(sorted(set(whole)))} }}")
    return out


def _disjoint(ports: Iterable[str]) -> list[str]:
    """nft refuses a set whose intervals overlap."""
    by_protocol: dict[str, list[tuple[int, int]]] = {}
    for port in ports:
        protocol, _, numbers = port.partition(" . ")
        first, _, last = numbers.partition("-")
        by_protocol.setdefault(protocol, []).append((int(first), int(last or first)))
    out: list[str] = []
    for protocol, ranges in sorted(by_protocol.items()):
        joined: list[tuple[int, int]] = []
        for low, high in sorted(ranges):
            if joined and low <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        out += [f"{protocol} . {low}-{high}" if low != high else f"{protocol} . {low}" for low, high in joined]
    return out


def _used(policies: Sequence[Policy]) -> tuple[dict[Group, str], dict[tuple[Group, NamedPort], str]]:
    """The sets that the policies' rules name: one for each group of peers, one for each named port of a group."""
    groups: dict[Group, str] = {}
    named: dict[tuple[Group, NamedPort], str] = {}
    for policy in policies:
        for direction, rules in policy.rules.items():
            for rule in rules:
                for group in rule.groups or ():
                    groups.setdefault(group, f"g-{_digest(repr(group))}")
                owners = (policy.subject,) if direction == "in" else (rule.groups or (ALL_PODS,))
                for pair in itertools.product(owners, rule.named or ()):
                    named.setdefault(pair, f"n-{_digest(repr(pair))}")
    return groups, named


def _member(pod: Obj, config: PolicyTableConfig) -> _Member | None:
    """None for a pod without an address of its own: on its machine's network, not placed, or ended."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    ip = pod_ip(status, config.family)
    if spec.get("hostNetwork") or status.get("phase") in _FINISHED or not ip:
        return None
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    ports = tuple(
        (port["name"], PROTOCOLS.get(port.get("protocol", "TCP"), ""), int(port["containerPort"]))
        for container in containers
        for port in container.get("ports") or ()
        if port.get("name")
    )
    meta = pod["metadata"]
    return _Member(ip, meta["namespace"], meta.get("labels") or {}, ports, spec.get("nodeName") == config.node_name)


def pod_ip(status: Obj, family: Family) -> str:
    """A pod's address of that family, "" without one."""
    listed = [item.get("ip", "") for item in status.get("podIPs") or ()] or [status.get("podIP") or ""]
    return next(filter(family.has, listed), "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ---- text


def render_full(config: PolicyTableConfig, table: PolicyTable) -> str:
    """Replace the whole table, whatever it was, in one transaction."""
    parts = [f"add table {config.table}", f"delete table {config.table}", _skeleton(config, table.strict)]
    parts += [f"add set {config.table} {name} {{ type {kind}; }}" for name, kind in sorted(table.sets.items())]
    parts += _chain_text(config, table.chains)
    parts += _element_text(config, "add", table.elements)
    return "\n".join(parts) + "\n"


def render_delta(config: PolicyTableConfig, delta: Delta, fresh: Mapping[str, tuple[str, ...]]) -> str:
    """Change elements; `fresh` are the shared chains that the kernel does not have yet."""
    parts = [*_chain_text(config, fresh), *_element_text(config, "delete", dict.fromkeys(delta.removed, ""))]
    return "\n".join([*parts, *_element_text(config, "add", delta.added)]) + "\n"


def _skeleton(config: PolicyTableConfig, strict: bool) -> str:
    link, ip, address = config.pod_link_prefix, config.family.nft, config.family.address_type
    dns = f"\n    {ip} daddr {config.dns_ip} {ip} saddr vmap @out" if config.dns_ip else ""
    unseen = f"""
    iifname "{link}*" {ip} saddr != @known drop
    oifname "{link}*" {ip} daddr != @known drop"""
    return f"""
table {config.table} {{
  set known {{ type {address}; }}
  set self {{ type {address} . {address}; }}
  map in {{ type {address} : verdict; }}
  map out {{ type {address} : verdict; }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
    {ip} saddr . {ip} daddr @self accept{unseen if strict else ""}
    {ip} saddr vmap @out
    {ip} daddr vmap @in
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    ct state established,related accept{dns}
  }}
}}
"""


def _chain_text(config: PolicyTableConfig, chains: Mapping[str, tuple[str, ...]]) -> list[str]:
    out: list[str] = []
    for name, rules in chains.items():
        out.append(f"add chain {config.table} {name}")
        out += [f"add rule {config.table} {name} {rule}" for rule in rules]
    return out


def _element_text(config: PolicyTableConfig, verb: str, elements: Mapping[tuple[str, str], str]) -> list[str]:
    by_name: dict[str, list[str]] = {}
    for (name, key), value in elements.items():
        by_name.setdefault(name, []).append(f"{key} : {value}" if value else key)
    return [f"{verb} element {config.table} {name} {{ {', '.join(keys)} }}" for name, keys in sorted(by_name.items())]
