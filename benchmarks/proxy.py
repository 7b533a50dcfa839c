"""Service rules at scale: loading a node's whole table, changing one Service, and the CPU both take.

Runs in a network namespace of its own (root). The peer is the layout of kube-proxy's nftables mode (a chain per
Service and per endpoint), written by the same library in the same run; kube-proxy itself is not installed. Simulated:
the Services and EndpointSlices are objects made here; no API server.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

from benchmarks.frame import Bench, main, percentile
from cluster.network.nft import NftRunner, open_nft
from cluster.network.rules import RuleConfig, RuleTable, service_elements
from cluster.network.ruleset import render_delta, render_full
from cluster.network.ruleset_base import TableConfig

Obj = dict[str, Any]
CONFIG = RuleConfig("m1", "10.89.0.11")
TABLE = TableConfig("10.244.0.0/16", "10.96.0.0/12")
ENDPOINTS = 3
_CLONE_NEWNET = 0x40000000


def service(index: int) -> Obj:
    return {
        "metadata": {"name": f"s{index}", "namespace": "default"},
        "spec": {"clusterIP": cluster_ip(index), "ports": [{"port": 80, "protocol": "TCP"}]},
    }


def cluster_ip(index: int) -> str:
    return f"10.{96 + (index >> 16)}.{(index >> 8) & 255}.{index & 255}"


def slices(index: int, turn: int = 0) -> list[Obj]:
    """Three endpoints on two nodes; another `turn` moves the last of them."""
    numbers = [index * ENDPOINTS + n for n in range(ENDPOINTS - 1)] + [60000 - index % 1000 - turn]
    return [
        {
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [f"10.244.{(n >> 8) & 255}.{n & 255}"], "nodeName": f"m{1 + n % 2}"} for n in numbers
            ],
        }
    ]


def enter_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise SystemExit("benchmarks.proxy needs root: it makes a network namespace of its own")


def ours(nft: NftRunner, count: int, changes: int) -> tuple[float, float, list[float], float]:
    """(seconds to compute, seconds to load, seconds of each change, CPU seconds a change)."""
    table = RuleTable()
    started = time.perf_counter()
    for index in range(count):
        table.set_owner(f"default/s{index}", service_elements(service(index), slices(index), CONFIG))
    table.take()
    text, chains = render_full(TABLE, table.elements)
    computed = time.perf_counter()
    nft.run(text)
    loaded = time.perf_counter()
    took: list[float] = []
    cpu = time.process_time()
    for turn in range(changes):
        index = (turn * 7919) % count
        before = time.perf_counter()
        table.set_owner(f"default/s{index}", service_elements(service(index), slices(index, 1 + turn), CONFIG))
        text, chains = render_delta(TABLE, table.take(), chains)
        nft.run(text)
        took.append(time.perf_counter() - before)
    cpu_s = (time.process_time() - cpu) / changes
    nft.run("delete table ip sk8")
    return computed - started, loaded - computed, took, cpu_s


def large_service(nft: NftRunner, endpoints: int, changes: int) -> tuple[list[float], float]:
    """(seconds of each change, CPU seconds a change) in one Service: one endpoint goes, and comes back."""
    table, one = RuleTable(), service(0)
    table.set_owner("default/s0", service_elements(one, large_slices(endpoints), CONFIG))
    table.take()
    text, chains = render_full(TABLE, table.elements)
    nft.run(text)
    took: list[float] = []
    cpu_s = 0.0
    for turn in range(changes):
        gone = (turn // 2 * 7919) % endpoints if turn % 2 == 0 else None
        changed = large_slices(endpoints, gone)
        before, cpu = time.perf_counter(), time.process_time()
        table.set_owner("default/s0", service_elements(one, changed, CONFIG))
        text, chains = render_delta(TABLE, table.take(), chains)
        nft.run(text)
        took.append(time.perf_counter() - before)
        cpu_s += time.process_time() - cpu
    nft.run("delete table ip sk8")
    return took, cpu_s / changes


def large_slices(count: int, gone: int | None = None) -> list[Obj]:
    """Slices of a hundred, as the controller makes them, without endpoint `gone`."""
    return [
        {
            "metadata": {"name": f"s0-{first}"},
            "addressType": "IPv4",
            "ports": [{"port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [f"10.244.{index >> 8}.{index & 255}"],
                    "nodeName": "m2",
                    "conditions": {"ready": True},
                }
                for index in range(first, min(first + 100, count))
                if index != gone
            ],
        }
        for first in range(0, count, 100)
    ]


def chain_per_service(nft: NftRunner, count: int, changes: int) -> tuple[float, list[float]]:
    """(seconds to load, seconds of each change) of the peer's layout."""
    parts = [
        "add table ip peer",
        "add map ip peer services { type ipv4_addr . inet_proto . inet_service : verdict; }",
        "add chain ip peer pre { type nat hook prerouting priority -100; }",
        "add rule ip peer pre ip daddr . meta l4proto . th dport vmap @services",
    ]
    for index in range(count):
        parts += _peer_chains(index)
    verdicts = ", ".join(f"{cluster_ip(i)} . tcp . 80 : goto s{i}" for i in range(count))
    parts.append(f"add element ip peer services {{ {verdicts} }}")
    text = "\n".join(parts) + "\n"
    started = time.perf_counter()
    nft.run(text)
    loaded = time.perf_counter() - started
    took = []
    for turn in range(changes):
        index = (turn * 7919) % count
        commands = [f"flush chain ip peer s{index}", *_peer_rules(index)]
        before = time.perf_counter()
        nft.run("\n".join(commands) + "\n")
        took.append(time.perf_counter() - before)
    nft.run("delete table ip peer")
    return loaded, took


def _peer_chains(index: int) -> list[str]:
    out = [f"add chain ip peer s{index}"]
    for number in range(ENDPOINTS):
        address = f"10.244.{index % 250}.{number + 2}"
        out += [
            f"add chain ip peer s{index}e{number}",
            f"add rule ip peer s{index}e{number} meta l4proto tcp dnat to {address}:8080",
        ]
    return out + _peer_rules(index)


def _peer_rules(index: int) -> list[str]:
    chains = ", ".join(f"{n} : goto s{index}e{n}" for n in range(ENDPOINTS))
    return [f"add rule ip peer s{index} numgen random mod {ENDPOINTS} vmap {{ {chains} }}"]


def run(bench: Bench) -> None:
    enter_namespace()
    nft = open_nft()
    count, changes = (200, 20) if bench.smoke else (10_000, 500)
    computed_s, loaded_s, took, cpu_s = ours(nft, count, changes)
    peer_load: float | None = None
    peer_took: list[float] = []
    if bench.peer:
        peer_load, peer_took = chain_per_service(nft, count, min(changes, 40))
    label = f"{count} services x {ENDPOINTS} endpoints"
    bench.add(f"compute the table, {label}", computed_s, "s", samples=1)
    bench.add(f"load the table, {label}", loaded_s, "s", samples=1, peer=peer_load, goal=0.5)
    for percent in (50, 99):
        peer = percentile(peer_took, percent) * 1000 if peer_took else None
        bench.add(
            f"change one service, p{percent}, {label}",
            percentile(took, percent) * 1000,
            "ms",
            samples=len(took),
            peer=peer,
            goal=50.0 if percent == 99 else None,
        )
    bench.add(f"change one service, CPU, {label}", cpu_s * 1e6, "cpu_us", samples=changes)
    for endpoints in (100,) if bench.smoke else (1000, 10_000):
        large, large_cpu_s = large_service(nft, endpoints, 10 if bench.smoke else 100)
        one = f"one service of {endpoints} endpoints"
        bench.add(f"one endpoint, p99, {one}", percentile(large, 99) * 1000, "ms", samples=len(large), goal=50.0)
        bench.add(f"one endpoint, CPU, {one}", large_cpu_s * 1e6, "cpu_us", samples=len(large))
    bench.note(f"libnftables: {type(nft).__name__}; pid {os.getpid()} in its own network namespace")
    nft.close()


if __name__ == "__main__":
    main(run, __doc__)
