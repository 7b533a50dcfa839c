"""The ways of a packet from pod to pod, beside a bare veth pair: machines and pods are network namespaces of this box.

    bare    x1 ==veth== x2
    routes  ra1, ra2 - [ra 10.89.77.11] ==veth== [rb 10.89.77.12] - rb1
    VXLAN   va1, va2 - [va 10.89.77.11] ==veth== [vb 10.89.77.12] - vb1

What is in the kernel is made by the shipped parts: the pods' ends by `PodNetwork`, routes and tunnel by `routes.apply`,
the Services' table and the firewall by their renderers. Made here: the namespaces, the cable between two machines, and
the Node, Service and EndpointSlice objects (no API server, no policies).
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _namespaces, _traffic
from benchmarks._namespaces import inside, ip
from benchmarks.frame import Bench, percentile
from cluster.network import routes
from cluster.network.config import FirewallConfig, RouteConfig
from cluster.network.firewall import firewall_rules
from cluster.network.nft import open_nft
from cluster.network.overlay import HEADERS_BYTES
from cluster.network.rules import RuleConfig, RuleTable, service_elements
from cluster.network.ruleset import render_full
from cluster.network.ruleset_base import TableConfig
from cluster.node.cni import PodNetwork

Obj = dict[str, Any]
PREFIX = "sk8b-"
PORT, SERVICE_PORT = 5001, 80
PODS_OF = {"a": ("a1", "a2"), "b": ("b1",)}
ADDRESS_OF = {"a": "10.89.77.11", "b": "10.89.77.12"}
CIDR_OF = {"a": "10.244.1.0/24", "b": "10.244.2.0/24"}
SERVICE_OF = {"a2": "10.96.0.101", "b1": "10.96.0.102"}
OVERHEAD_BYTES = {"routes": 0, "vxlan": HEADERS_BYTES}
TABLE = TableConfig("10.244.0.0/16", "10.96.0.0/12")
BARE = "bare veth pair"
ROUTES, VXLAN = "two machines, routes", "two machines, VXLAN"
NEAR = "one machine"
GOALS = {NEAR: 90.0, ROUTES: 90.0, VXLAN: 90.0, f"{NEAR}, ClusterIP": 85.0, f"{ROUTES}, ClusterIP": 85.0}
"""Percent of what the bare pair carries."""


@dataclass(frozen=True, slots=True)
class Way:
    """From a namespace to an address."""

    source: str
    address: str
    port: int = PORT


@dataclass(slots=True)
class Measured:
    """Of one path, a figure a round."""

    bytes_per_s: list[float] = field(default_factory=list)
    round_trips_us: list[float] = field(default_factory=list)


def measure(bench: Bench, state: Path) -> None:
    """Rows of every path. Rounds go through all of them in turn, so that what else the box does hits them alike."""
    rounds, seconds, round_trips = (1, 0.1, 50) if bench.smoke else (5, 0.6, 400)
    with contextlib.ExitStack() as stack:
        paths = {BARE: stack.enter_context(_bare_pair())}
        for backend in ("routes", "vxlan"):
            paths |= stack.enter_context(_machines(backend, state / backend))
        found = {name: Measured() for name in paths}
        for _ in range(rounds):
            for name, path in paths.items():
                answer = _traffic.ask(path.source, path.address, path.port, seconds=seconds, round_trips=round_trips)
                found[name].bytes_per_s.append(answer.bytes_per_s)
                found[name].round_trips_us += answer.round_trips_us
    _report(bench, found)


def _report(bench: Bench, found: Mapping[str, Measured]) -> None:
    bare = found[BARE]
    rate = statistics.median(bare.bytes_per_s)
    for name, of in found.items():
        peer = None if of is bare else rate * 8e-9
        own = statistics.median(of.bytes_per_s) * 8e-9
        bench.add(f"throughput, {name}", own, "Gbit/s", samples=len(of.bytes_per_s), peer=peer)
    for name, of in found.items():
        if of is not bare:
            shares = [100 * own / pair for own, pair in zip(of.bytes_per_s, bare.bytes_per_s, strict=True)]
            share = statistics.median(shares)
            bench.add(f"share of the pair, {name}", share, "%", samples=len(shares), goal=GOALS.get(name))
    for name, of in found.items():
        for percent in (50, 99):
            peer = None if of is bare else percentile(bare.round_trips_us, percent)
            value = percentile(of.round_trips_us, percent)
            bench.add(f"round trip p{percent}, {name}", value, "us", samples=len(of.round_trips_us), peer=peer)
    # What the way to another machine adds to that on one.
    near = percentile(found[NEAR].round_trips_us, 99)
    for name in (ROUTES, VXLAN):
        added = percentile(found[name].round_trips_us, 99) - near
        bench.add(f"round trip p99 added, {name}", added, "us", samples=len(bare.round_trips_us))


# ---------------------------------------------------------------- namespaces


@contextlib.contextmanager
def _bare_pair() -> Iterator[Way]:
    left, right = f"{PREFIX}x1", f"{PREFIX}x2"
    with _namespaces.made(left, right):
        _cable(left, "10.89.76.1", right, "10.89.76.2")
        with _traffic.server(right, PORT):
            yield Way(left, "10.89.76.2")


def _cable(left: str, left_ip: str, right: str, right_ip: str) -> None:
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", right, ns=left)
    for namespace, address in ((left, left_ip), (right, right_ip)):
        ip("addr", "add", f"{address}/24", "dev", "eth0", ns=namespace)
        ip("link", "set", "eth0", "up", ns=namespace)


@contextlib.contextmanager
def _machines(backend: str, state: Path) -> Iterator[dict[str, Way]]:
    """Two machines, their pods, and the paths between those, by name. With routes, the ways on one machine too."""
    prefix = f"{PREFIX}{backend[0]}"
    with contextlib.ExitStack() as stack:
        pods = [pod for of in PODS_OF.values() for pod in of]
        stack.enter_context(_namespaces.made(*(f"{prefix}{name}" for name in (*PODS_OF, *pods))))
        _cable(f"{prefix}a", ADDRESS_OF["a"], f"{prefix}b", ADDRESS_OF["b"])
        addresses: dict[str, str] = {}
        for machine in PODS_OF:
            connect = partial(_connect_pods, prefix, machine, state / machine, OVERHEAD_BYTES[backend])
            addresses |= inside(f"{prefix}{machine}", connect)
        for machine in PODS_OF:
            inside(f"{prefix}{machine}", partial(_fill_tables, machine, backend, addresses))
        for pod in SERVICE_OF:
            stack.enter_context(_traffic.server(f"{prefix}{pod}", PORT))
        yield _paths(f"{prefix}a1", backend, addresses)


def _connect_pods(prefix: str, machine: str, state: Path, overhead_bytes: int) -> dict[str, str]:
    """Runs in the machine's namespace; pod -> address."""
    state.mkdir(parents=True)

    async def connect() -> dict[str, str]:
        network = PodNetwork(str(state), overhead_bytes=overhead_bytes)
        try:
            await network.setup(CIDR_OF[machine])
            return {pod: (await network.add(pod, f"/run/netns/{prefix}{pod}"))[0] for pod in PODS_OF[machine]}
        finally:
            network.close()

    return asyncio.run(connect())


def _fill_tables(machine: str, backend: str, addresses: Mapping[str, str]) -> None:
    """Routes or tunnel, Services and firewall, in the machine's namespace."""
    nodes = [_node(name) for name in PODS_OF]
    refused = routes.apply(RouteConfig(machine, ADDRESS_OF[machine], backend), nodes)
    if refused:
        raise RuntimeError(f"the kernel refused routes of machine {machine}: {refused}")
    table = RuleTable()
    for pod, cluster_ip in SERVICE_OF.items():
        service, slices = _service(pod, cluster_ip, addresses[pod])
        elements = service_elements(service, slices, RuleConfig(machine, ADDRESS_OF[machine]))
        table.set_owner(f"default/{pod}", elements)
    table.take()
    services, _ = render_full(TABLE, table.elements)
    nft = open_nft()
    try:
        nft.run(services)
        nft.run(firewall_rules(FirewallConfig(machine_cidrs=("10.89.77.0/24",)), ADDRESS_OF.values()))
    finally:
        nft.close()


def _node(name: str) -> Obj:
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": CIDR_OF[name], "podCIDRs": [CIDR_OF[name]]},
        "status": {"addresses": [{"type": "InternalIP", "address": ADDRESS_OF[name]}]},
    }


def _service(pod: str, cluster_ip: str, address: str) -> tuple[Obj, list[Obj]]:
    service = {
        "metadata": {"name": pod, "namespace": "default"},
        "spec": {"clusterIP": cluster_ip, "ports": [{"port": SERVICE_PORT, "protocol": "TCP"}]},
    }
    endpoint = {"addresses": [address], "nodeName": pod[0], "conditions": {"ready": True}}
    ports = [{"name": "", "port": PORT, "protocol": "TCP"}]
    return service, [{"addressType": "IPv4", "ports": ports, "endpoints": [endpoint]}]


def _paths(source: str, backend: str, addresses: Mapping[str, str]) -> dict[str, Way]:
    if backend == "vxlan":
        return {VXLAN: Way(source, addresses["b1"])}
    return {
        NEAR: Way(source, addresses["a2"]),
        f"{NEAR}, ClusterIP": Way(source, SERVICE_OF["a2"], SERVICE_PORT),
        ROUTES: Way(source, addresses["b1"]),
        f"{ROUTES}, ClusterIP": Way(source, SERVICE_OF["b1"], SERVICE_PORT),
    }
