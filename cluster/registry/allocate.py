"""Cluster IPs and node ports: allocation as guarded writes of one key per address and port.

Nothing is allocated from memory: each address a Service asks for, or is given at random, is a key that must be absent
in the transaction that stores the Service, so two API servers cannot hand out the same one. Random choice comes from
the injected generator; when guesses keep colliding the taken keys are read and a free one is picked.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.api.scheme import ResourceInfo
from cluster.registry import keys
from cluster.registry.core import Core, Guard, Plan
from cluster.registry.store import KeyValue, delete, prefix_end, put

Object = dict[str, Any]

_GUESSES = 3


def _ips(spec: Object) -> list[str]:
    return [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP", "")] if ip and ip != "None"]


def _ports(spec: Object) -> list[int]:
    ports = [p["nodePort"] for p in spec.get("ports") or () if p.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        ports.append(spec["healthCheckNodePort"])
    return list(dict.fromkeys(ports))


def _invalid(info: ResourceInfo, name: str, field: str, shown: str, why: str) -> ApiError:
    cause = errors.Cause("FieldValueInvalid", f"Invalid value: {shown}: {why}", field)
    return errors.invalid(info.kind, info.group, name, [cause])


class ServiceAllocator:
    """Fills in and claims a Service's addresses, and releases those it no longer has."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._network = ipaddress.ip_network(core.config.service_cidr)

    async def allocate(self, info: ResourceInfo, service: Object, old: Object | None, plan: Plan, attempt: int) -> None:
        """Add to `plan` the claims for what `service` has and `old` had not, and the releases."""
        spec, before = service["spec"], (old or {}).get("spec") or {}
        owner = f"{service['metadata']['namespace']}/{service['metadata']['name']}".encode()
        chosen_ip = await self._fill_ip(info, service, attempt)
        chosen_ports = await self._fill_ports(info, service, attempt)
        had_ips, had_ports = set(_ips(before)), set(_ports(before))
        for ip in _ips(spec):
            if ip not in had_ips:
                self._claim_ip(info, service, plan, ip, owner, ip == chosen_ip)
        for port in _ports(spec):
            if port not in had_ports:
                self._claim_port(info, service, plan, port, owner, port in chosen_ports)
        plan.ops.extend(delete(keys.cluster_ip(ip)) for ip in _ips(before) if ip not in _ips(spec))
        plan.ops.extend(delete(keys.node_port(port)) for port in _ports(before) if port not in _ports(spec))

    def release(self, service: Object, plan: Plan) -> None:
        spec = service.get("spec") or {}
        plan.ops.extend(delete(keys.cluster_ip(ip)) for ip in _ips(spec))
        plan.ops.extend(delete(keys.node_port(port)) for port in _ports(spec))

    # --- filling in

    async def _fill_ip(self, info: ResourceInfo, service: Object, attempt: int) -> str:
        spec = service["spec"]
        if spec["type"] == "ExternalName":
            return ""
        ip = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "")
        chosen = ""
        if not ip:
            ip = chosen = await self._free_ip(info, service, attempt)
        elif ip != "None":
            self._check_ip(info, service, ip)
        spec["clusterIP"], spec["clusterIPs"] = ip, spec.get("clusterIPs") or [ip]
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        return chosen

    def _check_ip(self, info: ResourceInfo, service: Object, ip: str) -> None:
        try:
            inside = ipaddress.ip_address(ip) in self._network
        except ValueError:
            inside = False
        if not inside:
            why = f"failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. "
            why += f"The range of valid IPs is {self._network}"
            raise _invalid(info, service["metadata"]["name"], "spec.clusterIPs", f'["{ip}"]', why)

    async def _free_ip(self, info: ResourceInfo, service: Object, attempt: int) -> str:
        """From the upper band, which leaves the first addresses to those who ask for one (KEP-3070)."""
        size = self._network.num_addresses
        low = min(max(16, size // 16), 256)
        if attempt < _GUESSES:
            return str(self._network[self._core.rng.randrange(low, size - 1)])
        taken = await self._taken(keys.CLUSTER_IPS)
        start = self._core.rng.randrange(1, size - 1)
        for i in range(size - 2):  # the first free one behind a random start: short unless the range is nearly full
            ip = str(self._network[1 + (start + i) % (size - 2)])
            if ip.encode() not in taken:
                return ip
        raise errors.internal("failed to allocate a serviceIP: range is full")

    async def _fill_ports(self, info: ResourceInfo, service: Object, attempt: int) -> set[int]:
        spec = service["spec"]
        wants = spec["type"] == "NodePort" or (
            spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True)
        )
        low, high = self._core.config.node_port_range
        chosen: dict[tuple[int, str], int] = {}
        used = set(_ports(spec))
        for i, p in enumerate(spec.get("ports") or ()):
            if p.get("nodePort"):
                if not low <= p["nodePort"] <= high:
                    why = f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
                    name = service["metadata"]["name"]
                    raise _invalid(info, name, f"spec.ports[{i}].nodePort", str(p["nodePort"]), why)
            elif wants:
                p["nodePort"] = await self._free_port(low, high, used, attempt)
                used.add(p["nodePort"])
                chosen[p["port"], p["protocol"]] = p["nodePort"]
        return set(chosen.values())

    async def _free_port(self, low: int, high: int, used: set[int], attempt: int) -> int:
        if attempt < _GUESSES:
            port = self._core.rng.randint(low, high)
            if port not in used:
                return port
        taken = await self._taken(keys.NODE_PORTS)
        free = [p for p in range(low, high + 1) if p not in used and str(p).encode() not in taken]
        if not free:
            raise errors.internal("failed to allocate a nodePort: range is full")
        return self._core.rng.choice(free)

    async def _taken(self, prefix: bytes) -> set[bytes]:
        result = await self._core.range(prefix, prefix_end(prefix), keys_only=True)
        return {kv.key[len(prefix) :] for kv in result.kvs}

    # --- claiming

    def _claim_ip(self, info: ResourceInfo, service: Object, plan: Plan, ip: str, owner: bytes, guessed: bool) -> None:
        def fail(kv: KeyValue | None) -> ApiError | None:
            if guessed:
                return None
            why = f"failed to allocate IP {ip}: provided IP is already allocated"
            return _invalid(info, service["metadata"]["name"], "spec.clusterIPs", f'["{ip}"]', why)

        key = keys.cluster_ip(ip)
        plan.guards.append(Guard((key, "create", "=", 0), fail))
        plan.ops.append(put(key, owner))

    def _claim_port(
        self, info: ResourceInfo, service: Object, plan: Plan, port: int, owner: bytes, guessed: bool
    ) -> None:
        ports = service["spec"].get("ports") or ()
        index = next((i for i, p in enumerate(ports) if p.get("nodePort") == port), 0)

        def fail(kv: KeyValue | None) -> ApiError | None:
            if guessed:
                return None
            why = "provided port is already allocated"
            return _invalid(info, service["metadata"]["name"], f"spec.ports[{index}].nodePort", str(port), why)

        key = keys.node_port(port)
        plan.guards.append(Guard((key, "create", "=", 0), fail))
        plan.ops.append(put(key, owner))
