"""Cluster IPs as IPAddress objects, from the ranges of the ServiceCIDR objects (KEP-1880).

IO only through Core. An address is claimed by storing its IPAddress, which must be absent, in the transaction that
stores the Service; so the object clients see is the claim itself, and there is no second book to repair. A claim also
compares the ServiceCIDR it draws from, so nobody is given an address of a range whose deletion has begun.

Without any ServiceCIDR (a registry that was never bootstrapped) the configured range counts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.api import managed, meta, schema
from cluster.api.meta import is_true
from cluster.api.scheme import SCHEME
from cluster.api.validation.service_ips import family_of
from cluster.registry import keys
from cluster.registry.codec import Codec
from cluster.registry.core import Core, Guard, Plan
from cluster.registry.store import delete, prefix_end, put, unchanged
from cluster.registry.strategies import stamp_new, strategy_for

Object = dict[str, Any]

IP_ADDRESSES = SCHEME.named("ipaddresses.networking.k8s.io")
SERVICE_CIDRS = SCHEME.named("servicecidrs.networking.k8s.io")
DEFAULT_CIDR = "kubernetes"
_SERVICES = SCHEME.named("services")
_PREFIX = keys.resource_prefix(IP_ADDRESSES)
_MANAGER = "kube-apiserver"
_FAMILY_LABEL = "ipaddress.kubernetes.io/ip-family"
_LABELS = {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}


@dataclass(frozen=True, slots=True)
class Range:
    """One network that addresses are given from, and what must still hold when one is."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    guard: Guard | None = None

    @property
    def family(self) -> str:
        return f"IPv{self.network.version}"

    @property
    def size(self) -> int:
        """How many addresses it has, without the network's own and IPv4's broadcast address."""
        return max(self.network.num_addresses - (2 if self.network.version == 4 else 1), 0)

    def address(self, index: int) -> str:
        return str(self.network[1 + index])

    def holds(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return ip in self.network and 0 < int(ip) - int(self.network.network_address) <= self.size


def ip_address(address: str, namespace: str, name: str) -> Object:
    """The IPAddress of a Service's address."""
    parent = {"resource": "services", "namespace": namespace, "name": name}
    kind = {"kind": IP_ADDRESSES.kind, "apiVersion": IP_ADDRESSES.api_version}
    labels = {_FAMILY_LABEL: family_of(address), **_LABELS}
    return {**kind, "metadata": {"name": canonical(address), "labels": labels}, "spec": {"parentRef": parent}}


def canonical(address: str) -> str:
    """The one spelling that names an IPAddress: a Service's may be another one of IPv6."""
    return str(ipaddress.ip_address(address)) if ":" in address else address


def service_ips(spec: Object) -> list[str]:
    """Every cluster IP a Service has: none when it is headless or has not been given one."""
    return [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP", "")] if ip and ip != "None"]


def is_ready(cidr: Object) -> bool:
    """Whether addresses may be given from a ServiceCIDR."""
    return is_true(cidr, "Ready") and "deletionTimestamp" not in cidr["metadata"]


class Addresses:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._codec: Codec = core.codec

    async def ranges(self) -> list[Range]:
        """What addresses may be given from now, the cluster's own range first."""
        prefix = keys.resource_prefix(SERVICE_CIDRS)
        found = [
            self._codec.decode(kv.key, kv.value, kv.mod_revision)
            for kv in (await self._core.range(prefix, prefix_end(prefix))).kvs
        ]
        if not found:
            return [Range(ipaddress.ip_network(cidr)) for cidr in self._core.config.service_cidrs]
        ready = [s for s in found if is_ready(s.obj)]
        ready.sort(key=lambda s: s.obj["metadata"]["name"] != DEFAULT_CIDR)
        return [
            Range(ipaddress.ip_network(cidr), Guard(unchanged(s.key, s.revision)))
            for s in ready
            for cidr in s.obj["spec"]["cidrs"]
        ]

    async def taken(self) -> set[str]:
        found = await self._core.range(_PREFIX, prefix_end(_PREFIX), keys_only=True)
        return {kv.key[len(_PREFIX) :].decode() for kv in found.kvs}

    def claim(self, plan: Plan, address: str, namespace: str, name: str, guard: Guard, drawn: Range | None) -> None:
        """Store the address in `plan`, guarded by `guard` (that it is free) and by the range it is drawn from."""
        plan.guards.append(guard)
        if drawn is not None and drawn.guard is not None:
            plan.guards.append(drawn.guard)
        plan.ops.append(self._put(address, namespace, name))

    def release(self, plan: Plan, address: str) -> None:
        plan.ops.append(delete(self.key(address)))

    async def renew(self, obj: Object, plan: Plan) -> None:
        """An IPAddress is removed by hand while its Service has the address: it is made again at once, as Kubernetes'
        repair controller does some seconds later, so that nobody else can be given the address in between."""
        parent, address = obj["spec"]["parentRef"], obj["metadata"]["name"]
        if parent.get("group") or parent.get("resource") != "services":
            return
        namespace, name = parent.get("namespace", ""), parent["name"]
        service = await self._core.read(keys.object_key(_SERVICES, namespace, name))
        if service is None or address not in map(canonical, service_ips(service.obj.get("spec") or {})):
            return
        plan.ops.remove(delete(self.key(address)))
        plan.ops.append(self._put(address, namespace, name))

    @staticmethod
    def key(address: str) -> bytes:
        return keys.object_key(IP_ADDRESSES, "", canonical(address))

    def _put(self, address: str, namespace: str, name: str) -> Any:
        core, obj = self._core, ip_address(address, namespace, name)
        stamp_new(obj, meta.uuid4(core.rng.getrandbits(128)), core.clock(), strategy_for(IP_ADDRESSES))
        managed.on_create(schema.node_of(IP_ADDRESSES), obj, _MANAGER, core.clock())
        key = self.key(address)
        return put(key, self._codec.encode(key, obj)[0])


def out_of_range(address: str, ranges: list[Range]) -> str:
    """Kubernetes' words for an address that no range has."""
    valid = ", ".join(str(r.network) for r in ranges) or "none: no ServiceCIDR is ready"
    return (
        f"failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. "
        f"The range of valid IPs is {valid}"
    )


def default_cidr(service_cidrs: Sequence[str]) -> Object:
    return {"metadata": {"name": DEFAULT_CIDR}, "spec": {"cidrs": list(service_cidrs)}}


def ready(cidr: Object) -> Object | None:
    """The cluster's own ServiceCIDR, ready since it was made; None when it says so already."""
    if is_ready(cidr) or "deletionTimestamp" in cidr["metadata"]:
        return None
    since = cidr["metadata"]["creationTimestamp"]
    why = {"reason": "", "message": "Kubernetes default Service CIDR is ready"}
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": since, **why}
    return {**cidr, "status": {**(cidr.get("status") or {}), "conditions": [condition]}}
