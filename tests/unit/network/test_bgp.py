"""What bird is told of neighbours, who may speak to routers, and when a missing session is looked at again."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from actors.wiring.proxy import network_config
from cluster.api.bgp import Router
from cluster.machine.config import ClusterConfig
from cluster.machinery.client import Client
from cluster.machinery.informer import Informers
from cluster.network import routes
from cluster.network.bgp import Speaker, bird_config, not_established, session_name, sessions
from cluster.network.bird import BirdError
from cluster.network.config import ConfigError, FirewallConfig, RouteConfig
from cluster.network.firewall import firewall_rules
from cluster.network.routes import RouteManager, retry_delay

SPEAKER = Speaker("10.89.0.11", 64512, ("10.244.1.0/24",), "10.244.0.0/16", (Router("10.89.0.1", 64513),))


def session(config: str, address: str) -> str:
    """The part about one neighbour."""
    return config.partition(f"protocol bgp {session_name(address)} ")[2].partition("\n}")[0]


def test_a_machine_is_believed_its_own_ranges_and_a_router_none() -> None:
    machines = {"10.89.0.12": ["10.244.2.0/24"], "10.89.0.13": ["10.244.9.0/24", "10.244.3.0/24"]}
    config = bird_config(SPEAKER, machines, "/log")
    assert "import where net ~ [ 10.244.2.0/24 ];" in session(config, "10.89.0.12")
    assert "import where net ~ [ 10.244.3.0/24, 10.244.9.0/24 ];" in session(config, "10.89.0.13")
    assert "import" not in session(config, "10.89.0.1") and "multihop 2;" in session(config, "10.89.0.1")
    template = config.partition("template bgp speaker {")[2].partition("\n}")[0]
    assert "import none;" in template, "what a session does not say"


def test_sessions_that_are_missing_are_named() -> None:
    shown = (
        "Name       Proto      Table      State  Since         Info\n"
        "bgp_10_89_0_12 BGP    ---        up     10:00:00.000  Established\n"
        "bgp_10_89_0_13 BGP    ---        start  10:00:00.000  Active        Socket: Connection refused\n"
    )
    missing = not_established(sessions(shown), ["10.89.0.12", "10.89.0.13", "10.89.0.14"])
    assert missing == {
        "10.89.0.13": "BGP session: Active Socket: Connection refused",
        "10.89.0.14": "BGP session: no session",
    }


def rules_of(cni: str) -> str:
    cluster = replace(ClusterConfig.local(), cni=cni, bgp_routers=("192.0.2.1:64513",))
    return firewall_rules(network_config(cluster, cluster.machine("m1")).firewall, [])


def test_pods_do_not_speak_to_routers() -> None:
    """Regression: a pod's session arrives from its machine's address, and a router believes that."""
    pods = ClusterConfig.local().pod_cidr
    refused = f"ip saddr {pods} ip daddr {{ 192.0.2.1 }} tcp dport 179 goto refuse"
    assert refused in rules_of("bgp").partition("chain forward")[2]
    with pytest.raises(ConfigError, match=r"bgp_routers\[0\]"):
        FirewallConfig(bgp_routers=("router",)).validate()


def test_the_port_is_anothers_where_sk8_does_not_speak_bgp() -> None:
    assert " 179" in rules_of("bgp").partition("chain input")[2]
    assert " 179" not in rules_of("routes")


def test_those_that_stay_away_are_looked_at_ever_more_rarely() -> None:
    off = {"10.244.2.0/24": "BGP session: Connect"}
    delays = [0.0]
    for _ in range(6):
        delays.append(retry_delay(1.0, delays[-1], {} if len(delays) == 1 else off, off))
    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert retry_delay(1.0, 15.0, off, {**off, "10.244.3.0/24": "no session"}) == 1.0, "another one: soon"
    assert retry_delay(1.0, 15.0, off, {}) == 0.0


async def test_a_machine_with_nobody_to_reach_tries_again_when_bird_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: nothing was unreachable then, so that the first machine of a cluster was silent to its routers."""

    def apply(*_: object) -> dict[str, str]:
        raise BirdError("cni: bgp needs the program bird")

    monkeypatch.setattr(routes, "apply", apply)
    config = RouteConfig("m1", "10.89.0.11", "bgp")
    manager = RouteManager(config, client=cast(Client, None), informers=cast(Informers, Nobody()))
    await manager._sync()
    assert manager.health()["unreachable"] == {"10.244.0.0/16": "cni: bgp needs the program bird"}
    assert manager.health()["routes"] == 0


class Nobody:
    """Informers of a cluster without Nodes."""

    def of(self, _: str) -> Nobody:
        return self

    def items(self) -> list[object]:
        return []
