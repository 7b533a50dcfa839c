"""Cluster IPs and node ports: allocation as guarded writes of one key per address (`addresses.py`) and port.

Nothing is allocated from memory: each address a Service asks for, or is given at random, is a key that must be absent
in the transaction that stores the Service, so two API servers cannot hand out the same one. Random choice comes from
the injected generator; when guesses keep colliding the taken keys are read and a free one is picked.
"""

from __future__ import annotations

from typing import Any

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.api.scheme import ResourceInfo
from cluster.api.validation.fields import Faults
from cluster.registry import keys
from cluster.registry.addresses import Addresses, Range, out_of_range, service_ips
from cluster.registry.core import Core, Guard, Plan
from cluster.registry.servicefamilies import settle
from cluster.registry.servicefields import needs_health_check_port
from cluster.registry.store import KeyValue, delete, prefix_end, put

Object = dict[str, Any]

_GUESSES = 3


def _ports(spec: Object) -> list[int]:
    ports = [p["nodePort"] for p in spec.get("ports") or () if p.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        ports.append(spec["healthCheckNodePort"])
    return list(dict.fromkeys(ports))


def _invalid(info: ResourceInfo, service: Object, field: str, value: Any, why: str) -> ApiError:
    faults = Faults()
    faults.invalid(field, value, why)
    return errors.invalid(info.kind, info.group, service["metadata"]["name"], faults.causes)


class ServiceAllocator:
    """Fills in and claims a Service's addresses, and releases those it no longer has."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._addresses = Addresses(core)

    def settle(self, info: ResourceInfo, service: Object, old: Object | None) -> None:
        """Decide its families. Raises ApiError when they cannot be had."""
        causes = settle(service, old, self._core.config.ip_families)
        if causes:
            raise errors.invalid(info.kind, info.group, service["metadata"]["name"], causes)

    async def allocate(self, info: ResourceInfo, service: Object, old: Object | None, plan: Plan, attempt: int) -> None:
        """Add to `plan` the claims for what `service` has and `old` had not, and the releases."""
        spec, before = service["spec"], (old or {}).get("spec") or {}
        owner = f"{service['metadata']['namespace']}/{service['metadata']['name']}".encode()
        had_ips, had_ports = set(service_ips(before)), set(_ports(before))
        await self._fill_ips(info, service, had_ips, plan, attempt)
        chosen_ports = await self._fill_ports(info, service, attempt)
        for port in _ports(spec):
            if port not in had_ports:
                self._claim_port(info, service, plan, port, owner, port in chosen_ports)
        for ip in had_ips.difference(service_ips(spec)):
            self._addresses.release(plan, ip)
        plan.ops.extend(delete(keys.node_port(port)) for port in _ports(before) if port not in _ports(spec))

    def release(self, service: Object, plan: Plan) -> None:
        spec = service.get("spec") or {}
        for ip in service_ips(spec):
            self._addresses.release(plan, ip)
        plan.ops.extend(delete(keys.node_port(port)) for port in _ports(spec))

    async def renew(self, address: Object, plan: Plan) -> None:
        """What the removal of an IPAddress becomes while a Service has the address."""
        await self._addresses.renew(address, plan)

    # --- filling in

    async def _fill_ips(self, info: ResourceInfo, service: Object, had: set[str], plan: Plan, attempt: int) -> None:
        """For each family the address that the Service asks for, or a free one; claimed in `plan` unless it is had
        already."""
        spec = service["spec"]
        if spec["type"] == "ExternalName" or spec.get("clusterIP") == "None":
            return
        ips, families = list(spec.get("clusterIPs") or ()), spec["ipFamilies"]
        if len(ips) == len(families) and had.issuperset(ips):
            return
        ranges = await self._addresses.ranges()
        for i, family in enumerate(families):
            mine = [r for r in ranges if r.family == family]
            if i >= len(ips):
                ip, drawn = await self._free_ip(mine, attempt)
                self._claim_ip(info, service, plan, ip, drawn, guessed=True)
                ips.append(ip)
            elif ips[i] not in had:
                inside = next((r for r in mine if r.holds(ips[i])), None)
                if inside is None:
                    raise _invalid(info, service, "spec.clusterIPs", ips, out_of_range(ips[i], mine))
                self._claim_ip(info, service, plan, ips[i], inside, guessed=False)
        spec["clusterIP"], spec["clusterIPs"] = ips[0], ips

    async def _free_ip(self, ranges: list[Range], attempt: int) -> tuple[str, Range]:
        """From the upper band, which leaves the first addresses to those who ask for one (KEP-3070); from another
        range when the first is full."""
        rng = self._core.rng
        if attempt < _GUESSES and ranges and ranges[0].size > 1:
            size = ranges[0].size
            low = min(max(16, size // 16), 256) if size > 16 else 0
            return ranges[0].address(rng.randrange(low, size)), ranges[0]
        taken = await self._addresses.taken()
        for r in ranges:
            start = rng.randrange(r.size) if r.size else 0
            for i in range(r.size):  # the first free one behind a random start: short unless the range is nearly full
                ip = r.address((start + i) % r.size)
                if ip not in taken:
                    return ip, r
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
                    raise _invalid(info, service, f"spec.ports[{i}].nodePort", p["nodePort"], why)
            elif wants:
                p["nodePort"] = await self._free_port(low, high, used, attempt)
                used.add(p["nodePort"])
                chosen[p["port"], p["protocol"]] = p["nodePort"]
        drawn = set(chosen.values())
        if needs_health_check_port(spec) and not spec.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = await self._free_port(low, high, used, attempt)
            drawn.add(spec["healthCheckNodePort"])
        return drawn

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

    def _claim_ip(
        self, info: ResourceInfo, service: Object, plan: Plan, ip: str, drawn: Range, *, guessed: bool
    ) -> None:
        metadata = service["metadata"]

        def fail(kv: KeyValue | None) -> ApiError | None:
            if guessed:
                return None
            why = f"failed to allocate IP {ip}: provided IP is already allocated"
            return _invalid(info, service, "spec.clusterIPs", service["spec"]["clusterIPs"], why)

        free = Guard((self._addresses.key(ip), "create", "=", 0), fail)
        self._addresses.claim(plan, ip, metadata["namespace"], metadata["name"], free, drawn)

    def _claim_port(
        self, info: ResourceInfo, service: Object, plan: Plan, port: int, owner: bytes, guessed: bool
    ) -> None:
        ports = service["spec"].get("ports") or ()
        index = next((i for i, p in enumerate(ports) if p.get("nodePort") == port), 0)

        health = port == service["spec"].get("healthCheckNodePort")
        field = "spec.healthCheckNodePort" if health else f"spec.ports[{index}].nodePort"

        def fail(kv: KeyValue | None) -> ApiError | None:
            if guessed:
                return None
            return _invalid(info, service, field, port, "provided port is already allocated")

        key = keys.node_port(port)
        plan.guards.append(Guard((key, "create", "=", 0), fail))
        plan.ops.append(put(key, owner))
