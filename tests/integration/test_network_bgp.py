"""Machines on two routed segments whose router speaks BGP: pods reach each other without a tunnel.

a1 - [a 10.89.77.11] --- r --- [b 10.89.78.12] - b1       the router (AS 64513) learns pods from the machines (AS 64512)
c1 - [c 10.89.77.13] ---/
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api.bgp import Router
from cluster.network.bgp import Speaker, bird_config, session_name
from cluster.network.bird import Bird
from cluster.network.config import FirewallConfig, RouteConfig
from cluster.network.firewall import firewall_rules
from cluster.network.routes import apply
from tests.support.network_lab import eventually, inside, nft, node, tcp
from tests.support.segments_lab import MACHINES, NODES, links, route, segments

__all__ = ["segments"]
pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("bird", path=f"{os.environ['PATH']}:/usr/sbin") is None, reason="needs bird2"),
]
Obj = dict[str, Any]
GATEWAYS = {"a": "10.89.77.1", "b": "10.89.78.1", "c": "10.89.77.1"}
ROUTER = Router("10.89.77.1", 64513)
ROUTER_OF_B = Router(GATEWAYS["b"], ROUTER.asn)
SOON_S = 90.0
ACCEPTED = ("", "ConnectionResetError")
"""What a speaker does to a stranger after it has taken the connection."""


def router_config(directory: Path, *says: str) -> str:
    """As an administrator of the network writes it: it believes the machines, and tells them these ranges."""
    said = "".join(f"route {cidr} blackhole; " for cidr in says)
    peers = "".join(
        f"protocol bgp m_{name} {{ local {GATEWAYS[name]} as {ROUTER.asn}; neighbor {address} as 64512; "
        'connect retry time 1; ipv4 { import all; export where proto = "said"; }; }\n'
        for name, (address, _) in MACHINES.items()
    )
    kernel = "protocol kernel { ipv4 { import none; export all; }; }"
    base = f'log "{directory}/bird.log" all;\nrouter id {ROUTER.address};\nprotocol device {{ }}\n{kernel}\n'
    return f"{base}protocol static said {{ ipv4; {said}}}\n{peers}"


@pytest.fixture
def speakers(segments: None, tmp_path: Path) -> Iterator[dict[str, Bird]]:
    """A bird of each machine (not started yet) and the router's (started)."""
    made = {name: Bird(tmp_path / name) for name in (*MACHINES, "r")}
    try:
        inside("r", lambda: made["r"].run(router_config(tmp_path / "r")))
        yield made
    finally:
        with contextlib.ExitStack() as stack:  # what fails for one of them holds up no other
            for bird in made.values():
                stack.callback(end, bird)


def end(bird: Bird) -> None:
    bird.stop()
    eventually(lambda: not bird.runs(), "bird still runs", 30)


def sync(tmp_path: Path, nodes: list[Obj], machine: str) -> dict[str, str]:
    config = RouteConfig(
        machine,
        MACHINES[machine][0],
        "bgp",
        bgp_routers=(f"{GATEWAYS[machine]}:{ROUTER.asn}",),
        bird_dir=str(tmp_path / machine),
    )
    return inside(machine, lambda: apply(config, nodes))


def kill(config: str) -> None:
    """The bird of this configuration, by SIGKILL."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if config.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def filtered(bird: Bird, address: str) -> int:
    """How many routes of that neighbour it has heard and not believed."""
    for line in bird.ask(f"show protocols all {session_name(address)}").splitlines():
        if line.strip().startswith("Import updates:"):
            return int(line.split()[4])  # received, rejected, filtered
    return 0


def settle(tmp_path: Path, nodes: list[Obj], *machines: str) -> None:
    for machine in machines:
        sync(tmp_path, nodes, machine)
    for machine in machines:
        eventually(lambda m=machine: sync(tmp_path, nodes, m) == {}, f"{machine}: no session", SOON_S)  # type: ignore[misc]


def test_pods_of_both_segments_reach_each_other_without_a_tunnel(speakers: dict[str, Bird], tmp_path: Path) -> None:
    settle(tmp_path, NODES, *MACHINES)
    eventually(lambda: tcp("a1", "10.244.2.2", 8080, 30) == "b1 10.244.1.2", "a1 does not reach b1", SOON_S)
    eventually(lambda: tcp("b1", "10.244.3.2", 8080, 30) == "c1 10.244.2.2", "b1 does not reach c1", SOON_S)
    assert route("a", "10.244.2.0/24")["gateway"] == "10.89.77.1", "by way of the router"
    assert route("a", "10.244.3.0/24")["gateway"] == "10.89.77.13", "c shares a link with a"
    assert route("r", "10.244.2.0/24")["gateway"] == "10.89.78.12", "the router knows pods"
    assert "sk8-vxlan" not in links("a") and route("a", "10.244.1.0/24") == {}, "one's own range is only announced"


def test_another_backends_routes_go_and_a_machine_that_leaves_is_forgotten(
    speakers: dict[str, Bird], tmp_path: Path
) -> None:
    for machine in MACHINES:
        plain = RouteConfig(machine, MACHINES[machine][0])
        assert inside(machine, lambda c=plain: apply(c, NODES)) == {}  # type: ignore[misc]
    settle(tmp_path, NODES, *MACHINES)
    eventually(lambda: tcp("a1", "10.244.2.2", 8080, 30) == "b1 10.244.1.2", "a1 does not reach b1", SOON_S)
    assert "sk8-vxlan" not in links("a")
    left = [one for one in NODES if one["metadata"]["name"] != "b"]
    settle(tmp_path, left, "a", "c")
    eventually(lambda: route("a", "10.244.2.0/24") == {}, "b's pods are still routed", SOON_S)
    assert session_name(MACHINES["b"][0]) not in speakers["a"].ask("show protocols")
    assert route("a", "10.244.3.0/24")["gateway"] == "10.89.77.13", "the session that stayed was not interrupted"


def test_routes_outlive_a_bird_that_is_killed_and_the_next_takes_over(
    speakers: dict[str, Bird], tmp_path: Path
) -> None:
    settle(tmp_path, NODES, *MACHINES)
    eventually(lambda: tcp("a1", "10.244.2.2", 8080, 30) == "b1 10.244.1.2", "a1 does not reach b1", SOON_S)
    kill(str(tmp_path / "a" / "bird.conf"))
    eventually(lambda: not speakers["a"].runs(), "bird still runs", 30)
    assert route("a", "10.244.2.0/24")["gateway"] == "10.89.77.1", "what a's pods know stays"
    settle(tmp_path, NODES, "a")
    eventually(lambda: tcp("a1", "10.244.2.2", 8080, 30) == "b1 10.244.1.2", "a1 does not reach b1", SOON_S)


def test_a_machine_that_boots_while_another_is_off_is_reached(speakers: dict[str, Bird], tmp_path: Path) -> None:
    """Regression: it waited two minutes for the one that is off."""
    for machine in ("a", "c"):
        assert "10.244.2.0/24" in sync(tmp_path, NODES, machine), "b is off"
    eventually(lambda: tcp("a1", "10.244.3.2", 8080, 30) == "c1 10.244.1.2", "a1 does not reach c1", SOON_S)
    assert route("r", "10.244.1.0/24")["gateway"] == "10.89.77.11", "the router has heard as well"


def test_what_a_neighbour_has_no_right_to_say_is_not_believed(speakers: dict[str, Bird], tmp_path: Path) -> None:
    """The router: ranges outside the pods' and of pods. b: a part of c's pods, and nobody's."""
    theirs = ("10.244.3.128/25", "10.244.9.0/24")
    speakers["r"].run(router_config(tmp_path / "r", "10.99.0.0/24", "10.244.2.128/25"))
    settle(tmp_path, NODES, *MACHINES)
    lies = Speaker(MACHINES["b"][0], 64512, ("10.244.2.0/24", *theirs), "10.244.0.0/16", (ROUTER_OF_B,))
    others = {MACHINES[name][0]: [f"{MACHINES[name][1]}.0/24"] for name in ("a", "c")}
    speakers["b"].run(bird_config(lies, others, f"{tmp_path}/b/bird.log"))
    eventually(lambda: filtered(speakers["a"], MACHINES["b"][0]) >= 2, "a has not heard b's lies", SOON_S)
    eventually(lambda: filtered(speakers["a"], ROUTER.address) >= 2, "a has not heard the router's", SOON_S)
    assert route("a", "10.244.2.0/24")["gateway"] == "10.89.77.1", "what b may say is believed"
    assert [cidr for cidr in ("10.99.0.0/24", "10.244.2.128/25", *theirs) if route("a", cidr)] == []


def test_a_pod_does_not_reach_the_port_of_a_router(speakers: dict[str, Bird], tmp_path: Path) -> None:
    settle(tmp_path, NODES, *MACHINES)
    eventually(lambda: tcp("a1", "10.244.2.2", 8080, 30) == "b1 10.244.1.2", "a1 does not reach b1", SOON_S)
    eventually(lambda: tcp("a1", ROUTER.address, 179, 30) in ACCEPTED, "a1 does not reach the router", SOON_S)
    nft("a", firewall_rules(FirewallConfig(protected_ports=(), bgp_routers=(ROUTER.address,)), []))
    assert tcp("a1", ROUTER.address, 179, 30) == "ConnectionRefusedError"
    assert tcp("a1", "10.244.2.2", 8080, 30) == "b1 10.244.1.2", "other traffic passes"


def test_what_is_not_the_pods_is_not_believed(speakers: dict[str, Bird], tmp_path: Path) -> None:
    """A Node whose range is outside the pods' would draw the machines' own traffic."""
    claimed = [*NODES[:1], node("b", MACHINES["b"][0], "10.99.0.0/24"), NODES[2]]
    for machine in MACHINES:
        sync(tmp_path, claimed, machine)
    settle(tmp_path, claimed, "a", "c")
    eventually(lambda: route("a", "10.244.3.0/24") != {}, "c's pods are not routed", SOON_S)
    assert route("a", "10.99.0.0/24") == {}


def test_a_session_that_is_missing_is_named(speakers: dict[str, Bird], tmp_path: Path) -> None:
    failed = sync(tmp_path, NODES, "a")
    assert {"10.244.2.0/24", "10.244.3.0/24"} <= set(failed), "nobody else speaks yet"
    assert all(why.startswith("BGP session: ") for why in failed.values())
