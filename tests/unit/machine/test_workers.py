"""Another worker, or one less: what becomes of a local cluster's configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.machine.config import ClusterConfig, MachineSpec
from cluster.machine.config_json import ConfigError
from cluster.machine.workers import with_worker, without_worker

THREE = ClusterConfig.local(3)


def test_the_next_name_and_the_next_address() -> None:
    four = with_worker(THREE)
    assert four.machines == (*THREE.machines, MachineSpec("m4", "10.89.0.14", False))
    assert with_worker(four, zone="b").machines[-1] == MachineSpec("m5", "10.89.0.15", False, "b")


def test_a_gap_is_filled_and_a_name_may_be_chosen() -> None:
    five = with_worker(with_worker(THREE), "gpu")
    assert [m.name for m in five.machines] == ["m1", "m2", "m3", "m4", "gpu"]
    assert with_worker(without_worker(five, "m4")).machines[-1].ip == "10.89.0.14"


@pytest.mark.parametrize(
    ("name", "why"), [("m2", "a machine m2 already; .* sk8 machine start m2"), ("Big", "beginning and ending with")]
)
def test_a_name_that_cannot_be(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        with_worker(THREE, name)


def test_a_zone_is_a_label_of_the_node() -> None:
    """Regression: with another one its kubelet never registered."""
    assert with_worker(THREE, zone="eu-1.b_2").machines[-1].zone == "eu-1.b_2"
    for zone in ("rack 7", "-a", "a" * 64, "a\n"):
        with pytest.raises(ConfigError, match=r"zone .* must be a label's value"):
            with_worker(THREE, zone=zone)


def test_addresses_of_load_balancers_are_left_alone() -> None:
    taken = replace(THREE, load_balancer_pool="10.89.0.14-10.89.0.16")
    assert with_worker(taken).machines[-1].ip == "10.89.0.17"
    small = ClusterConfig.local(3, node_cidr="10.89.0.0/28", host_ip="10.89.0.1", load_balancer_pool="10.89.0.14")
    with pytest.raises(ConfigError, match="no address of node_cidr"):
        with_worker(small)


def test_control_planes_and_strangers_are_not_removed() -> None:
    with pytest.raises(ConfigError, match="m1 is a control plane"):
        without_worker(with_worker(THREE), "m1")
    with pytest.raises(ConfigError, match="no machine 'm9'"):
        without_worker(THREE, "m9")
