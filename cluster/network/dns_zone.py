"""Which names the cluster's zone has, and their records. Pure; the hot part is a dictionary of ready answers.

Source: the Kubernetes DNS specification 1.1.0 (github.com/kubernetes/dns) and, where it is silent, what CoreDNS'
`kubernetes` plugin answers:
    SVC.NS.svc.ZONE                     A, AAAA: the ClusterIPs, every ready endpoint (headless); CNAME (ExternalName)
    _PORT._PROTO.SVC.NS.svc.ZONE        SRV, one per address, with the addresses as additional records
    HOSTNAME.SVC.NS.svc.ZONE            A, AAAA of one endpoint (its hostname, or its address with dashes)
    10-244-1-5.NS.pod.ZONE              A, AAAA (insecure: any address; verified: that of a pod of the namespace)
    5.1.244.10.in-addr.arpa, ip6.arpa   PTR, within the ranges of pods and Services
A name that exists without the type asked for is NODATA; under `ZONE` or those reverse ranges everything else is
NXDOMAIN; outside them the zone knows nothing (None: somebody else must be asked).

Invariant: fed event by event it answers as one fed at once; owners' records of one name are merged in owner order.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.network import dns_wire as wire
from cluster.network.config import DnsConfig
from cluster.network.endpoints import is_ready
from cluster.network.families import V4, V6, version_of

Obj = dict[str, Any]
Records = dict[tuple[bytes, int], list[bytes]]
"""(name, type) -> rdata, as one owner wants them."""


@dataclass(frozen=True, slots=True)
class ZoneConfig:
    domain: str = "cluster.local"
    dns_ip: str = "10.96.0.10"
    cluster_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/12"
    ttl_s: int = 30
    negative_ttl_s: int = 5
    pod_records: str = "insecure"
    ranges_ipv6: tuple[str, ...] = ()


def zone_config(config: DnsConfig) -> ZoneConfig:
    return ZoneConfig(
        config.cluster_domain,
        config.listen_ip,
        config.cluster_cidr,
        config.service_cluster_ip_range,
        config.ttl_s,
        config.negative_ttl_s,
        config.pod_records,
        config.ranges_ipv6,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    rcode: int = wire.NOERROR
    answers: tuple[bytes, ...] = ()
    authority: tuple[bytes, ...] = ()
    additional: tuple[bytes, ...] = ()
    alias: bytes = b""
    """Target of a CNAME that leads out of the zone and whose records the asker wants too."""


def service_records(service: Obj, slices: Sequence[Obj], domain: str) -> Records:
    """Everything one Service puts into the zone."""
    meta, spec = service["metadata"], service.get("spec") or {}
    base = wire.name(f"{meta['name']}.{meta['namespace']}.svc.{domain}")
    out: Records = {}
    if spec.get("type") == "ExternalName":
        try:
            out[base, wire.CNAME] = [wire.name(str(spec.get("externalName") or ""))]
        except ValueError:
            return {}  # an address or garbage as externalName has no alias to give
        return out
    ips = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    if ips == ["None"]:
        _headless_records(out, base, slices)
    elif all(map(version_of, ips)):
        _cluster_ip_records(out, base, ips, spec.get("ports") or ())
    return out


def _cluster_ip_records(out: Records, base: bytes, cluster_ips: Iterable[str], ports: Iterable[Obj]) -> None:
    for ip in cluster_ips:
        out[base, wire.address_type(ip)] = [wire.address_rdata(ip)]
        out[wire.reverse_name(ip), wire.PTR] = [base]
    for port in ports:
        rdata = wire.srv_rdata(100, int(port["port"]), base)
        out.setdefault((base, wire.SRV), []).append(rdata)
        if port.get("name"):
            out[_port_name(port, base), wire.SRV] = [rdata]


def _headless_records(out: Records, base: bytes, slices: Sequence[Obj]) -> None:
    targets: dict[tuple[str, str, int], set[bytes]] = {}
    for slice_ in slices:
        family = _FAMILIES.get(slice_.get("addressType", "IPv4"))
        if family is None:  # FQDN
            continue
        for endpoint in slice_.get("endpoints") or ():
            addresses = [a for a in endpoint.get("addresses") or () if family.has(a)]
            if not addresses or not is_ready(endpoint):
                continue
            address = addresses[0]
            host = _host_label(endpoint, address) + base
            rtype, rdata = wire.address_type(address), wire.address_rdata(address)
            _add(out, (base, rtype), rdata)
            _add(out, (host, rtype), rdata)
            _add(out, (wire.reverse_name(address), wire.PTR), host)
            for port in slice_.get("ports") or ():
                if port.get("port"):
                    key = (port.get("name") or "", port.get("protocol", "TCP"), int(port["port"]))
                    targets.setdefault(key, set()).add(host)
    for (name, protocol, number), hosts in sorted(targets.items()):
        for item in [wire.srv_rdata(max(1, 100 // len(hosts)), number, host) for host in sorted(hosts)]:
            _add(out, (base, wire.SRV), item)
            if name:
                _add(out, (_port_name({"name": name, "protocol": protocol}, base), wire.SRV), item)
    for values in out.values():
        values.sort()


def _add(out: Records, key: tuple[bytes, int], rdata: bytes) -> None:
    values = out.setdefault(key, [])
    if rdata not in values:
        values.append(rdata)


def _port_name(port: Obj, base: bytes) -> bytes:
    return _label(f"_{port['name']}") + _label(f"_{port.get('protocol', 'TCP').lower()}") + base


def _host_label(endpoint: Obj, address: str) -> bytes:
    return _label(endpoint.get("hostname") or address.replace(".", "-").replace(":", "-"))


def _label(text: str) -> bytes:
    raw = text.lower().encode()[:63]
    return bytes((len(raw),)) + raw


class Zone:
    """Records by owner, and answers ready to send. `revision` grows with every change."""

    def __init__(self, config: ZoneConfig) -> None:
        self.config = config
        self.revision = 0
        self.apex = wire.name(config.domain)
        self._owned: dict[str, Records] = {}
        self._records: dict[tuple[bytes, int], dict[str, list[bytes]]] = {}
        self._existing: dict[bytes, int] = {}
        self._ready: dict[bytes, Answer] = {}
        self._pod_suffix = wire.name(f"pod.{config.domain}")
        self._pods: dict[str, dict[str, str]] = {}
        ranges = (config.cluster_cidr, config.service_cidr, *config.ranges_ipv6)
        self._reverse = [ipaddress.ip_network(cidr) for cidr in ranges]
        self._negative: tuple[bytes, ...] = ()
        self._soa: bytes = b""
        self.set_owner("", self._own_records())

    def _own_records(self) -> Records:
        host = wire.name(f"ns.dns.{self.config.domain}")
        version = b"1.1.0"
        return {
            (self.apex, wire.NS): [host],
            (host, wire.address_type(self.config.dns_ip)): [wire.address_rdata(self.config.dns_ip)],
            (wire.name(f"dns-version.{self.config.domain}"), wire.TXT): [bytes((len(version),)) + version],
            (wire.name(f"svc.{self.config.domain}"), 0): [],
            (self._pod_suffix, 0): [],
        }

    @property
    def owned(self) -> Mapping[str, Records]:
        """What each owner has; the zone's own names belong to "". Not to be changed."""
        return self._owned

    def pods(self) -> Iterator[tuple[str, str]]:
        """(namespace/name, address) of every pod known."""
        for pods in self._pods.values():
            yield from pods.items()

    # ---- changes

    def set_owner(self, owner: str, records: Records) -> None:
        """`owner` (a Service's namespace/name) now has exactly these records."""
        old = self._owned.get(owner, {})
        if old == records:
            return
        for key in old:
            if key not in records:
                self._drop(owner, key)
        for key, rdata in records.items():
            if old.get(key) != rdata:
                self._put(owner, key, rdata)
        if records:
            self._owned[owner] = records
        else:
            self._owned.pop(owner, None)
        self.revision += 1
        self._soa = wire.soa_rdata(
            wire.name(f"ns.dns.{self.config.domain}"),
            wire.name(f"hostmaster.{self.config.domain}"),
            self.revision,
            self.config.negative_ttl_s,
        )
        self._negative = (wire.record(self.apex, wire.SOA, self.config.negative_ttl_s, self._soa),)
        for name in {name for name, _ in (*old, *records)}:
            self._prepare(name)

    def set_pod(self, key: str, address: str) -> None:
        """A pod (namespace/name) has this address, or both, with a space, or none (""); used when pod_records is
        "verified"."""
        namespace = key.partition("/")[0]
        pods = self._pods.setdefault(namespace, {})
        if address:
            pods[key] = address
        else:
            pods.pop(key, None)
            if not pods:
                del self._pods[namespace]

    def _put(self, owner: str, key: tuple[bytes, int], rdata: list[bytes]) -> None:
        owners = self._records.setdefault(key, {})
        if not owners:
            self._count(key[0], 1)
        owners[owner] = rdata

    def _drop(self, owner: str, key: tuple[bytes, int]) -> None:
        owners = self._records[key]
        del owners[owner]
        if not owners:
            del self._records[key]
            self._count(key[0], -1)

    def _count(self, name: bytes, change: int) -> None:
        """A name makes its parents exist (RFC 8020)."""
        while len(name) > 1 and name != self.apex:
            left = self._existing.get(name, 0) + change
            if left:
                self._existing[name] = left
            else:
                del self._existing[name]
            name = wire.parent(name)

    def _prepare(self, name: bytes) -> None:
        for rtype in (wire.A, wire.AAAA, wire.SRV, wire.PTR, wire.CNAME, wire.TXT, wire.NS):
            question = name + rtype.to_bytes(2) + b"\0\1"
            rdata = self._rdata(name, rtype)
            if rdata:
                self._ready[question] = self._positive(rtype, rdata)
            else:
                self._ready.pop(question, None)

    def _positive(self, rtype: int, rdata: list[bytes]) -> Answer:
        answers = tuple(wire.record(wire.POINTER, rtype, self.config.ttl_s, item) for item in rdata)
        if rtype != wire.SRV:
            return Answer(answers=answers)
        targets = dict.fromkeys(item[6:] for item in rdata)
        additional = tuple(
            wire.record(target, rtype, self.config.ttl_s, item)
            for target in targets
            for rtype in (wire.A, wire.AAAA)
            for item in self._rdata(target, rtype)
        )
        return Answer(answers=answers, additional=additional)

    def _rdata(self, name: bytes, rtype: int) -> list[bytes]:
        owners = self._records.get((name, rtype))
        if not owners:
            return []
        return list(dict.fromkeys(item for owner in sorted(owners) for item in owners[owner]))

    # ---- questions

    def ready(self, question: bytes) -> Answer | None:
        """The prepared positive answer to lower-case question bytes (name, type, class), if there is one."""
        return self._ready.get(question)

    def answer(self, name: bytes, qtype: int) -> Answer | None:
        """Any question; None when the name is not this zone's."""
        found = self._ready.get(name + qtype.to_bytes(2) + b"\0\1")
        if found is not None:
            return found
        if name == self.apex:
            if qtype == wire.SOA:
                return Answer(answers=(wire.record(wire.POINTER, wire.SOA, self.config.ttl_s, self._soa),))
            return Answer(authority=self._negative)
        if not self._is_ours(name):
            return None
        if qtype != wire.CNAME and (name, wire.CNAME) in self._records:
            return self._alias(name, qtype)
        if name in self._existing:
            return Answer(authority=self._negative)
        pod = self._pod_address(name)
        if pod:
            if qtype != wire.address_type(pod):
                return Answer(authority=self._negative)
            return Answer(answers=(wire.record(wire.POINTER, qtype, self.config.ttl_s, wire.address_rdata(pod)),))
        return Answer(wire.NXDOMAIN, authority=self._negative)

    def _alias(self, name: bytes, qtype: int) -> Answer:
        """A CNAME and what it leads to inside the zone, at most eight steps."""
        answers: list[bytes] = []
        owner, target = wire.POINTER, name
        for _ in range(8):
            rdata = self._rdata(target, wire.CNAME)
            if not rdata:
                break
            answers.append(wire.record(owner, wire.CNAME, self.config.ttl_s, rdata[0]))
            owner = target = rdata[0]
        if not self._is_ours(target):
            return Answer(answers=tuple(answers), alias=target)
        answers += [wire.record(target, qtype, self.config.ttl_s, item) for item in self._rdata(target, qtype)]
        return Answer(answers=tuple(answers))

    def _is_ours(self, name: bytes) -> bool:
        if name.endswith(self.apex):
            return True
        address = _reverse_address(name)
        return address is not None and any(address in network for network in self._reverse)

    def _pod_address(self, name: bytes) -> str:
        if self.config.pod_records == "disabled" or not name.endswith(self._pod_suffix):
            return ""
        parts = wire.labels(name[: -len(self._pod_suffix)])
        if len(parts) != 2:
            return ""
        address = _undashed(parts[0].decode(errors="replace"))
        if not version_of(address):
            return ""
        if self.config.pod_records == "verified":
            pods = self._pods.get(parts[1].decode(errors="replace"), {})
            wanted = str(ipaddress.ip_address(address))
            return address if any(wanted in ips.split() for ips in pods.values()) else ""
        return address


_FAMILIES = {family.name: family for family in (V4, V6)}
_IN_ADDR, _IP6 = wire.name("in-addr.arpa"), wire.name("ip6.arpa")


def _undashed(label: str) -> str:
    """The address of a pod's name: three dashes are an IPv4 address's dots, any others an IPv6 address's colons."""
    four = label.count("-") == 3 and "--" not in label
    return label.replace("-", "." if four else ":")


def _reverse_address(name: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    for suffix, count in ((_IN_ADDR, 4), (_IP6, 32)):
        if name.endswith(suffix):
            parts = [part.decode(errors="replace") for part in reversed(wire.labels(name[: -len(suffix)]))]
            return _address_of(parts) if len(parts) == count else None
    return None


def _address_of(parts: Sequence[str]) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        if len(parts) == 4:
            return ipaddress.IPv4Address(".".join(parts))
        if any(len(digit) != 1 for digit in parts):
            return None
        return ipaddress.IPv6Address(int("".join(parts), 16))
    except ValueError:
        return None
