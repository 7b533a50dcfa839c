"""ClusterConfig and MachineConfig: what is refused and why, JSON there and back, derived paths."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import orjson
import pytest

from cluster.machine.config import ClusterConfig, load_cluster, parse_settings, save_cluster
from cluster.machine.config_json import ConfigError
from cluster.machine.machine_config import MachineConfig, load_machine, save_machine


def test_defaults_are_those_of_the_contract() -> None:
    config = ClusterConfig.local().validate()
    assert [m.ip for m in config.machines] == ["10.89.0.11", "10.89.0.12", "10.89.0.13"]
    assert config.gcs_address == "10.89.0.11:6379"
    assert config.host_socket == Path("/run/sk8/host.sock")
    assert config.machine("m2").pki == Path("/var/lib/sk8/machines/m2/pki")
    assert config.machine("m2").ray_resource == "sk8:m2"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"machines": 4, "control_planes": 2}, "2 is even: a majority of 2 is 2"),
        ({"machines": 7, "control_planes": 7}, "must be 1, 3 or 5"),
        ({"pod_cidr": "10.89.0.0/16"}, "overlap"),
        ({"pod_cidr": "nonsense"}, "an IPv4 network such as"),
        ({"cni": "ebpf"}, "cni: 'ebpf' is not built; use one of routes"),
        ({"cni": "bgp", "bgp_asn": 0}, "bgp_asn: 0: must be between 1 and 4294967294"),
        ({"cni": "bgp", "bgp_routers": ("10.0.0.1",)}, "must be an IPv4 address and the number of its AS"),
        ({"cni": "bgp", "bgp_routers": ("10.0.0.1:64512",)}, "has the cluster's own AS"),
        ({"dual_stack": True, "cni": "bgp"}, "BGP announces IPv4 alone"),
        ({"dns_upstreams": ("nine",)}, "dns_upstreams: 'nine': must be an IPv4 address"),
        ({"dns_ip": "10.1.0.10"}, "is not an address of service_cidr"),
        ({"pod_cidr": "10.244.0.0/24"}, "fewer /24 networks than there are machines"),
        ({"dual_stack": True, "pod_cidr_ipv6": "10.1.0.0/16"}, "an IPv6 network such as fd00:10:244::/56 is needed"),
        ({"dual_stack": True, "pod_cidr_ipv6": "fd00:10:96::/56"}, "overlap"),
        ({"dual_stack": True, "service_cidr_ipv6": "fd00:10:96::/64"}, "too large; use a /108 or smaller"),
        ({"dual_stack": True, "pod_mask_ipv6": 80}, "must be between 56 and 72"),
        ({"dual_stack": True, "pod_cidr_ipv6": "fd00:10:244::/64"}, "fewer /64 networks than there are machines"),
        ({"dual_stack": True, "node_cidr_ipv6": "fd00:10:89::/126"}, "fewer addresses than node_cidr"),
        ({"dual_stack": True, "cni": "conflist"}, "use cni: routes or vxlan"),
        ({"dual_stack": True, "provider": "vm"}, "machines that sk8 up makes on this box alone"),
        ({"kubelet_port": 6443}, "port 6443 is also api_port"),
        ({"api_port": 0}, "a port is between 1 and 65535"),
        ({"profile": "slow"}, "must be fast or kubernetes"),
        ({"domain": "Cluster_Local"}, "must be a DNS name"),
        ({"base_dir": "/sk8"}, "two levels deep"),
        ({"ray_head": "m9"}, "use one of m1, m2, m3"),
        ({"ray_object_store_bytes": 1}, "Ray needs at least"),
        ({"store_engine": "etcd"}, "must be native or raftos"),
        ({"store_engine": "raftos"}, "loses acknowledged writes"),
        ({"store_engine": "raftos", "store_engine_unsafe": True, "control_planes": 1}, "needs 3 or 5"),
    ],
)
def test_refusals_say_what_would_be_right(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ClusterConfig.local(**change).validate()  # type: ignore[arg-type]


def test_more_control_planes_than_machines() -> None:
    with pytest.raises(ConfigError, match="5 of 4 machines: use at most 3"):
        ClusterConfig.local(4, 5)


def test_every_problem_is_told_at_once() -> None:
    problems = ClusterConfig.local(profile="slow", api_port=0).problems()
    assert len(problems) == 2


def test_load_balancers_have_the_last_quarter_of_the_node_network_or_what_was_chosen() -> None:
    own = ClusterConfig.local().load_balancer_addresses
    assert (own[0], own[-1], len(own)) == ("10.89.0.192", "10.89.0.254", 63)
    chosen = ClusterConfig.local(load_balancer_pool="10.89.0.100-10.89.0.101, 10.89.0.64/31").validate()
    expected = ("10.89.0.100", "10.89.0.101", "10.89.0.64", "10.89.0.65")
    assert chosen.load_balancer_addresses == expected
    for pool, complaint in (
        ("10.89.0.10-10.89.0.12", "10.89.0.11 is the address of machine m1; leave it out"),
        ("192.168.0.0/30", "192.168.0.0 is not an address of node_cidr 10.89.0.0/24"),
        ("10.89.0.9-10.89.0.1", "ends before it begins"),
        ("many", "needed are addresses such as"),
    ):
        assert any(complaint in p for p in ClusterConfig.local(load_balancer_pool=pool).problems()), pool


def test_machine_names_are_unique_and_fit_a_link_name() -> None:
    config = ClusterConfig.local()
    twice = replace(config, machines=(*config.machines, config.machines[0]))
    assert any("used twice" in p for p in twice.problems())
    long = replace(config, machines=(replace(config.machines[0], name="m" * 11), *config.machines[1:]))
    assert any("at most 10" in p for p in long.problems())


def test_the_default_clusters_machines_are_not_named_like_another_clusters() -> None:
    """`sk8a-1` is the label of machine 1's containers in the cluster with prefix sk8a."""

    def named(name: str, prefix: str) -> ClusterConfig:
        config = ClusterConfig.local(prefix=prefix)
        return replace(config, machines=(replace(config.machines[0], name=name), *config.machines[1:]), ray_head="m2")

    assert any("'sk8a-1'" in p and "begin with 'sk8a-'" in p for p in named("sk8a-1", "sk8").problems())
    for name, prefix in (("sk8a-1", "sk8b"), ("sk8-1", "sk8"), ("sk8a1", "sk8"), ("sk8ab-1", "sk8")):
        assert named(name, prefix).problems() == []


def test_json_round_trip(tmp_path: Path) -> None:
    config = ClusterConfig.local(5, 3, base_dir=str(tmp_path / "a"), cluster_id="77", ensure_command=("/bin/true",))
    assert ClusterConfig.from_json(config.to_json()) == config
    (tmp_path / "a").mkdir()
    save_cluster(config)
    assert load_cluster(tmp_path / "a") == config
    assert (tmp_path / "a" / "cluster.json").stat().st_mode & 0o777 == 0o600
    machine = config.first_machine("m2")
    machine.disk.mkdir(parents=True)
    save_machine(machine)
    assert load_machine(tmp_path / "a", "m2") == machine


def test_a_setting_that_came_later_is_written_when_it_is_chosen(tmp_path: Path) -> None:
    """Regression: after sk8 configure the release that had made the cluster could not read it any more."""
    config, file = ClusterConfig.local(base_dir=str(tmp_path)), tmp_path / "cluster.json"
    save_cluster(config)
    born = orjson.loads(file.read_bytes())
    assert set(born) == {"format", *(item.name for item in fields(ClusterConfig))}, "other defaults change nothing"
    del born["dual_stack"], born["tracing"]
    file.write_bytes(orjson.dumps(born))
    save_cluster(replace(load_cluster(tmp_path), max_pods=50))
    assert orjson.loads(file.read_bytes()) == born | {"max_pods": 50}
    chosen = replace(load_cluster(tmp_path), max_pods=config.max_pods, dual_stack=True)
    save_cluster(chosen)
    assert orjson.loads(file.read_bytes()) == born | {"dual_stack": True}
    assert load_cluster(tmp_path) == chosen


def test_other_formats_and_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="format 2"):
        ClusterConfig.from_json(b'{"format": 2, "machines": []}')
    with pytest.raises(ConfigError, match="unknown setting colour"):
        MachineConfig.from_json(b'{"format": 1, "colour": "red"}')
    with pytest.raises(ConfigError, match="not JSON"):
        ClusterConfig.from_json(b"{")
    with pytest.raises(ConfigError, match="unknown setting colour"):
        parse_settings({"colour": "red"})


def test_only_the_first_start_makes_state_members() -> None:
    """A wiped machine must never come back with its old member id, or found a cluster out of an empty directory."""
    config = ClusterConfig.local(4, 3)
    first = config.first_machine("m2")
    assert (first.state_member_id, first.state_bootstrap) == (2, True)
    again = config.machine("m2")
    assert (again.state_member_id, again.state_bootstrap) == (0, False)
    assert [m.id for m in again.state_members] == [1, 2, 3]
    worker = config.first_machine("m4")
    assert (worker.state_member_id, worker.state_bootstrap) == (0, False)


def test_a_machines_ipv6_address_has_the_number_of_its_ipv4_address() -> None:
    config = ClusterConfig.local(dual_stack=True).validate()
    assert [config.ipv6_of(ip) for ip in (config.host_ip, config.machines[1].ip)] == ["fd00:10:89::1", "fd00:10:89::c"]
    assert config.pod_cidrs == ("10.244.0.0/16", "fd00:10:244::/56")
    assert ClusterConfig.local().ipv6_of("10.89.0.11") == ""
    assert ClusterConfig.local().service_cidrs == ("10.96.0.0/12",)
