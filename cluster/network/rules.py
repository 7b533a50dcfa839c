"""What the service maps of `table ip sk8` (`ip6 sk8`) must hold, from Services, EndpointSlices and Nodes. Pure.

The two-map design (the table itself is in ruleset.py): a *front* (address, protocol, port) is one element of `svcs`
that goes to a chain shared by all fronts with the same number K of endpoints, and K elements of `eps_PROTOCOL`
numbered from 0. Changing one Service is a handful of elements, never a rule. NodePorts have the same pair (`ports`,
`porteps_PROTOCOL`) without the address. A chain is named [a]LETTER-PROTOCOL-K; letters are in `CHAINS` below.

Invariants:
- `RuleTable` fed event by event holds what one fed everything at once holds, but for the numbers endpoints have within
  their front (tests check this with hypothesis).
- Where two owners claim one element, the least owner (by name) has it, whatever the order of events; when it goes,
  the next one gets it.
- `take()` says exactly the difference from what was last taken, deletions apart from additions.

Source: Kubernetes' service semantics (KEP-2086 internal traffic policy, KEP-3866 nftables kube-proxy).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.api.nodes import internal_ips
from cluster.network.endpoints import Endpoint, Port, usable
from cluster.network.families import V4, Family

Obj = dict[str, Any]
ElementKey = tuple[str, str]
"""(map, key as nft writes it)"""
Elements = dict[ElementKey, str]
"""Value as nft writes it; "" for an element of a set."""

PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
INSIDE_OFFSET = 65536
"""Numbers in `porteps_*` from here on are for sources inside the cluster (externalTrafficPolicy Local)."""
DEFAULT_AFFINITY_TIMEOUT_S = 10800
DNS_PORT = 53
_NUMBERED = ("eps_", "porteps_")

CHAINS = {
    "n": "ClusterIP: masquerade what comes from outside the cluster",
    "m": "external address, policy Cluster: masquerade",
    "l": "external address, policy Local: keep the source",
    "x": "NodePort, policy Cluster: masquerade",
    "y": "NodePort, policy Local: keep the source",
    "z": "NodePort, policy Local, from inside the cluster: any endpoint",
}
AFFINITY_PREFIX = "a"
"""Before the letter: the client's last endpoint first; for IPv6 the one that the client's address is hashed to."""


@dataclass(frozen=True, slots=True)
class RuleConfig:
    """`local_dns_ip`: the machine answers its port 53 itself."""

    node_name: str
    node_ip: str
    local_dns_ip: str = ""
    zone: str = ""
    family: Family = V4


@dataclass(frozen=True, slots=True)
class Delta:
    """Deletions (with the value that goes) and additions; a changed element is in both."""

    removed: Elements = field(default_factory=dict)
    added: Elements = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)


def chain_size(verdict: str) -> int:
    """K of a "goto n-tcp-3"; 0 for a verdict without endpoints."""
    size = verdict.rpartition("-")[2]
    return int(size) if verdict.startswith("goto ") and size.isdigit() else 0


def node_elements(node: Obj, family: Family = V4) -> Elements:
    """A machine's addresses: pods reach them unmasqueraded."""
    return {("nodes", address): "" for address in internal_ips(node) if family.has(address)}


def service_elements(service: Obj, slices: Sequence[Obj], config: RuleConfig) -> Elements:
    """Everything one Service puts into the maps; nothing for headless and ExternalName Services."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName" or not cluster_ip_of(spec, config.family):
        return {}
    out: Elements = {}
    for index, port in enumerate(spec.get("ports") or ()):
        protocol = PROTOCOLS.get(port.get("protocol", "TCP"))
        if protocol is not None:
            _PortRules(service, port, index, protocol, slices, config).render(out)
    return out


def cluster_ip_of(spec: Obj, family: Family) -> str:
    """A Service's ClusterIP of that family; "" without one."""
    return next(filter(family.has, spec.get("clusterIPs") or (spec.get("clusterIP") or "",)), "")


def load_balancer_addresses(status: Obj, family: Family = V4) -> list[str]:
    """The addresses of a load balancer whose packets arrive as they were sent (ipMode VIP)."""
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    return sorted({i.get("ip", "") for i in ingress if i.get("ipMode", "VIP") == "VIP" and family.has(i.get("ip", ""))})


class _PortRules:
    """One port of one Service."""

    def __init__(
        self, service: Obj, port: Obj, index: int, protocol: str, slices: Sequence[Obj], config: RuleConfig
    ) -> None:
        self.spec: Obj = service["spec"]
        self.status: Obj = service.get("status") or {}
        self.config = config
        self.port = port
        self.protocol = protocol
        self.number = int(port["port"])
        name, protocol_name = port.get("name") or "", port.get("protocol", "TCP")
        wanted = Port(name, protocol_name, config.node_name, config.zone, config.family)
        self.everywhere, self.here = usable(slices, wanted)
        self.cluster_ip = cluster_ip_of(self.spec, config.family)
        affinity = self.spec.get("sessionAffinity") == "ClientIP"
        self.prefix = AFFINITY_PREFIX if affinity else ""
        self.learns = affinity and config.family.learns_affinity
        low_bits = int(ipaddress.ip_address(self.cluster_ip)) & 0xFFFFF
        self._affinity_base = (low_bits << 12) | ((index & 0x7FF) << 1)

    def affinity_id(self, local_only: bool) -> str:
        """The mark of connections that share a client's endpoint. Unique while at most 2048 ports share an address
        and the Services' range has no more than 20 bits (/12, IPv6 /108), as Kubernetes demands."""
        return f"0x{self._affinity_base | local_only:08x}"

    def render(self, out: Elements) -> None:
        self._cluster_ip(out)
        balanced = self._load_balancer_addresses()
        for address in sorted({*balanced, *self._external_ips()}):
            self._external(out, address)
        for address in balanced:
            out["lbaddrs", address] = ""
            self._guard(out, address)
        node_port = self.port.get("nodePort")
        if node_port:
            self._node_port(out, int(node_port))
        if self.learns and self.everywhere:
            timeout_s = (
                ((self.spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
            ) or DEFAULT_AFFINITY_TIMEOUT_S
            for local_only in (False, True):
                out["afflearn", self.affinity_id(local_only)] = f"goto t-{int(timeout_s)}"
        for endpoint in self.everywhere:
            if endpoint.local and endpoint.ip != self.config.node_ip:
                out["hairpin", f"{endpoint.ip} . {endpoint.ip}"] = ""

    def _cluster_ip(self, out: Elements) -> None:
        if self.cluster_ip == self.config.local_dns_ip and self.number == DNS_PORT:
            return
        local_only = self.spec.get("internalTrafficPolicy") == "Local"
        endpoints = self.here if local_only else self.everywhere
        if endpoints:
            self._address_front(out, self.cluster_ip, "n", endpoints, local_only)
        elif self.everywhere:
            out["svcs", self._front(self.cluster_ip)] = "drop"
        # With no endpoint at all there is no element: the table rejects what is left of the Services' range, and
        # the address of this machine's own DNS server reaches it.

    def _external(self, out: Elements, address: str) -> None:
        local_only = self.spec.get("externalTrafficPolicy") == "Local"
        endpoints = self.here if local_only else self.everywhere
        if endpoints:
            self._address_front(out, address, "l" if local_only else "m", endpoints, local_only)
        elif self.everywhere:
            out["svcs", self._front(address)] = "drop"
        else:
            out["noeps", self._front(address)] = ""

    def _node_port(self, out: Elements, node_port: int) -> None:
        front = f"{self.protocol} . {node_port}"
        if not self.everywhere:
            out["noports", front] = ""
            return
        if self.spec.get("externalTrafficPolicy") == "Local":
            out["inports", front] = f"goto z-{self.protocol}-{len(self.everywhere)}"
            _number(out, f"porteps_{self.protocol}", f"{node_port}", self.everywhere, INSIDE_OFFSET)
            if not self.here:
                out["ports", front] = "drop"
                return
            endpoints, letter = self.here, "y"
        else:
            endpoints, letter = self.everywhere, "x"
        out["ports", front] = f"goto {self.prefix}{letter}-{self.protocol}-{len(endpoints)}"
        _number(out, f"porteps_{self.protocol}", f"{node_port}", endpoints)
        if self.learns:
            out["affportids", front] = self.affinity_id(letter == "y")

    def _front(self, address: str) -> str:
        return f"{address} . {self.protocol} . {self.number}"

    def _address_front(
        self, out: Elements, address: str, letter: str, endpoints: Sequence[Endpoint], local_only: bool
    ) -> None:
        front = self._front(address)
        out["svcs", front] = f"goto {self.prefix}{letter}-{self.protocol}-{len(endpoints)}"
        _number(out, f"eps_{self.protocol}", f"{address} . {self.number}", endpoints)
        if self.learns:
            out["affids", front] = self.affinity_id(local_only)

    def _guard(self, out: Elements, address: str) -> None:
        """loadBalancerSourceRanges: whom the table lets come to this address."""
        cidrs = [str(cidr).strip() for cidr in self.spec.get("loadBalancerSourceRanges") or ()]
        if not cidrs:
            return
        front = self._front(address)
        out["lbguard", front] = ""
        networks: list[Any] = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
        mine = [network for network in networks if network.version == self.config.family.version]
        for network in ipaddress.collapse_addresses(mine):  # the kernel's set takes no overlaps
            out["lbranges", f"{front} . {network}"] = ""

    def _external_ips(self) -> list[str]:
        has = self.config.family.has
        return [a for a in self.spec.get("externalIPs") or () if has(a) and a != self.cluster_ip]

    def _load_balancer_addresses(self) -> list[str]:
        return [a for a in load_balancer_addresses(self.status, self.config.family) if a != self.cluster_ip]


def _number(out: Elements, map_name: str, front: str, endpoints: Iterable[Endpoint], offset: int = 0) -> None:
    for number, endpoint in enumerate(endpoints, offset):
        out[map_name, f"{front} . {number}"] = f"{endpoint.ip} . {endpoint.port}"


def renumbered(elements: Mapping[ElementKey, str], old: Mapping[ElementKey, str]) -> Mapping[ElementKey, str]:
    """The same elements with endpoints at the numbers they had, where they can be: one that leaves a Service of ten
    thousand is replaced by the last, and moves no other. Any numbering spreads alike."""
    fronts: dict[tuple[str, str], list[ElementKey]] = {}
    for key, value in elements.items():
        if key[0].startswith(_NUMBERED) and old.get(key, value) != value:
            fronts[key[0], key[1].rpartition(" . ")[0]] = []
    if not fronts:
        return elements
    for key in elements:
        if key[0].startswith(_NUMBERED) and (keys := fronts.get((key[0], key[1].rpartition(" . ")[0]))) is not None:
            keys.append(key)
    out = dict(elements)
    for (map_name, _), keys in fronts.items():
        if not map_name.startswith("porteps_"):
            _renumber(keys, out, old)
            continue
        for inside in (False, True):  # two series of numbers: they are two sets of endpoints
            series = [key for key in keys if (int(key[1].rpartition(" . ")[2]) >= INSIDE_OFFSET) is inside]
            _renumber(series, out, old)
    return out


def _renumber(keys: Sequence[ElementKey], out: Elements, old: Mapping[ElementKey, str]) -> None:
    left = Counter(out[key] for key in keys)
    open_keys: list[ElementKey] = []
    for key in keys:
        before = old.get(key)
        if before is not None and left[before]:
            left[before] -= 1
            out[key] = before
        else:
            open_keys.append(key)
    for key, value in zip(open_keys, left.elements(), strict=True):
        out[key] = value


class RuleTable:
    """The desired maps, kept owner by owner (a Service, a Node), and what has changed since `take()`."""

    def __init__(self) -> None:
        self._owned: dict[str, Elements] = {}
        self._values: Elements = {}
        self._rivals: dict[ElementKey, dict[str, str]] = {}
        self._holder: dict[ElementKey, str] = {}
        self._before: dict[ElementKey, str | None] = {}

    def set_owner(self, owner: str, elements: Mapping[ElementKey, str]) -> None:
        """`owner` now wants exactly `elements`, whichever of its endpoints has which number."""
        old = self._owned.get(owner, {})
        elements = renumbered(elements, old) if old else elements
        for key in old:
            if key not in elements:
                self._release(owner, key)
        for key, value in elements.items():
            if old.get(key) != value:
                self._claim(owner, key, value)
        if elements:
            self._owned[owner] = dict(elements)
        else:
            self._owned.pop(owner, None)

    def take(self) -> Delta:
        """The difference since the last call (or since nothing)."""
        removed: Elements = {}
        added: Elements = {}
        for key, before in self._before.items():
            now = self._values.get(key)
            if now == before:
                continue
            if before is not None:
                removed[key] = before
            if now is not None:
                added[key] = now
        self._before = {}
        return Delta(removed, added)

    @property
    def elements(self) -> Mapping[ElementKey, str]:
        """All that should be in the maps now; do not change it."""
        return self._values

    def address_endpoints(self, address: str, protocol: str, port: int) -> frozenset[str] | None:
        """The "ip . port" values behind an address of `svcs`; None when it is not there."""
        verdict = self._values.get(("svcs", f"{address} . {protocol} . {port}"))
        if verdict is None:
            return None
        return self._numbered(f"eps_{protocol}", f"{address} . {port}", range(chain_size(verdict)))

    def port_endpoints(self, protocol: str, port: int) -> frozenset[str] | None:
        """The "ip . port" values behind a NodePort, for sources inside and outside; None when it is not there."""
        verdict = self._values.get(("ports", f"{protocol} . {port}"))
        if verdict is None:
            return None
        inside = self._values.get(("inports", f"{protocol} . {port}"), "")
        numbers = [*range(chain_size(verdict)), *range(INSIDE_OFFSET, INSIDE_OFFSET + chain_size(inside))]
        return self._numbered(f"porteps_{protocol}", f"{port}", numbers)

    def affinity_endpoints(self) -> dict[str, frozenset[str]]:
        """For each affinity mark, the "ip . port" values its clients may still be sent to."""
        out: dict[str, frozenset[str]] = {}
        for (map_name, key), mark in self._values.items():
            if map_name == "affids":
                address, protocol, port = key.split(" . ")
                found = self.address_endpoints(address, protocol, int(port))
            elif map_name == "affportids":
                protocol, port = key.split(" . ")
                found = self.port_endpoints(protocol, int(port))
            else:
                continue
            out[mark] = out.get(mark, frozenset()) | (found or frozenset())
        return out

    def _numbered(self, map_name: str, prefix: str, numbers: Iterable[int]) -> frozenset[str]:
        found = (self._values.get((map_name, f"{prefix} . {number}")) for number in numbers)
        return frozenset(value for value in found if value is not None)

    def _claim(self, owner: str, key: ElementKey, value: str) -> None:
        holder = self._holder.get(key)
        if holder is not None and holder != owner:
            rivals = self._rivals.setdefault(key, {holder: self._values[key]})
            rivals[owner] = value
        elif key in self._rivals:
            self._rivals[key][owner] = value
        self._settle(key, owner, value)

    def _release(self, owner: str, key: ElementKey) -> None:
        rivals = self._rivals.get(key)
        if rivals is None:
            self._change(key, None)
            del self._holder[key]
            return
        del rivals[owner]
        winner = min(rivals)
        self._holder[key] = winner
        self._change(key, rivals[winner])
        if len(rivals) == 1:
            del self._rivals[key]

    def _settle(self, key: ElementKey, owner: str, value: str) -> None:
        rivals = self._rivals.get(key)
        winner = min(rivals) if rivals is not None else owner
        self._holder[key] = winner
        self._change(key, rivals[winner] if rivals is not None else value)

    def _change(self, key: ElementKey, value: str | None) -> None:
        current = self._values.get(key)
        if current == value:
            return
        self._before.setdefault(key, current)
        if value is None:
            del self._values[key]
        else:
            self._values[key] = value
