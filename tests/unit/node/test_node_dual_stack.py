"""A pod with an address of each family, as its status, environment and files say it; and where they come from."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from cluster.machinery.registry_client import RegistryClient
from cluster.node import core_events as ev
from cluster.node.config import KubeletConfig
from cluster.node.core import PodCore
from cluster.node.cri.cni_server import result
from cluster.node.ipam import AddressBook
from cluster.node.node_agent import NodeAgent
from cluster.node.node_status import MachineFacts
from cluster.node.pod_config import hosts_file
from cluster.node.pod_env import EnvContext, field_value
from cluster.node.runtime import ImageEntry
from cluster.registry.context import MASTERS, RequestContext
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from tests.support.fake_clock import FakeClock
from tests.support.memory_store import MemoryStore
from tests.support.pod_driver import Driver, make_pod

IPS = ("10.244.1.5", "fd00:10:244:1::5")
NODE_IPS = ("10.89.0.11", "fd00:10:89::11")


def test_the_status_lists_the_addresses_of_pod_and_machine() -> None:
    d = Driver(make_pod(), auto=False)
    d.core = PodCore(d.pod, NODE_IPS[0], d.now, node_ipv6=NODE_IPS[1])
    for event in (ev.Adopt(None), ev.VolumesReady(), ev.SandboxReady("s", *IPS)):
        d.send(event)
    assert d.status["podIP"] == IPS[0]
    assert [item["ip"] for item in d.status["podIPs"]] == list(IPS)
    assert [item["ip"] for item in d.status["hostIPs"]] == list(NODE_IPS)


def test_a_kubelet_that_starts_again_finds_both() -> None:
    d = Driver(make_pod(), adopt=ev.Adopt(ev.SeenSandbox("s", True, IPS[0], 0, IPS[1])))
    assert [item["ip"] for item in d.core.status()["podIPs"]] == list(IPS)


def test_a_single_stack_pod_lists_one() -> None:
    d = Driver(make_pod())
    assert d.status["podIPs"] == [{"ip": "10.244.0.5"}] and d.status["hostIPs"] == [{"ip": "10.89.0.11"}]


def test_the_downward_api_joins_them_with_a_comma() -> None:
    context = EnvContext(make_pod(), IPS[0], NODE_IPS[0], IPS[1], NODE_IPS[1])
    assert field_value("status.podIPs", context) == ",".join(IPS)
    assert field_value("status.hostIPs", context) == ",".join(NODE_IPS)
    assert field_value("status.podIP", context) == IPS[0]
    assert field_value("status.podIPs", EnvContext(make_pod(), IPS[0], NODE_IPS[0])) == IPS[0]


def test_the_hosts_file_names_both() -> None:
    lines = hosts_file(make_pod(), IPS, "cluster.local").splitlines()
    assert lines[-2:] == [f"{IPS[0]}\tp", f"{IPS[1]}\tp"]


def test_what_a_cri_runtime_is_told() -> None:
    told = result("0.4.0", IPS, {"CNI_IFNAME": "eth0", "CNI_NETNS": "/n"})
    assert [(ip["address"], ip["version"]) for ip in told["ips"]] == [(f"{IPS[0]}/32", "4"), (f"{IPS[1]}/128", "6")]
    assert [route["dst"] for route in told["routes"]] == ["0.0.0.0/0", "::/0"]


async def reported(client: RegistryClient, node_ipv6: str) -> list[dict[str, str]]:
    """The Node's addresses after another life of its kubelet."""
    config = KubeletConfig("m1", NODE_IPS[0], "/k", "c", "k", "a", node_ipv6=node_ipv6)
    facts = MachineFacts(4, 8 << 30, 100 << 30, "mid", "uuid", "boot", "6.1", "Debian", "amd64")
    clock = FakeClock(1e9)
    agent = NodeAgent(
        config,
        facts,
        client,
        Engine(),  # type: ignore[arg-type]
        network_problem=lambda: "",
        clock=clock,
        monotonic=clock,
    )
    await agent.try_write_status()
    return list((await client.get("nodes", "m1"))["status"]["addresses"])


@pytest.fixture
async def client() -> RegistryClient:
    """Of an API with the Node m1."""
    registry = Registry(MemoryStore(), RegistryConfig(), clock=time.time, rng=random.Random(7))
    made = RegistryClient(registry, lambda: RequestContext(user=MASTERS, field_manager="test"))
    await made.create("nodes", {"metadata": {"name": "m1"}})
    return made


async def test_a_machine_has_an_internal_ip_of_each_family_however_often_it_says_so(client: RegistryClient) -> None:
    """Merged by type, as the schema has it, the second would take the first one's place."""
    for _ in range(2):
        assert [item["address"] for item in await reported(client, NODE_IPS[1])] == [*NODE_IPS, "m1"]


async def test_what_a_cloud_said_of_the_address_outside_stays(client: RegistryClient) -> None:
    own = await reported(client, "")
    outside = {"type": "ExternalIP", "address": "198.51.100.7"}
    await client.patch("nodes", "m1", {"status": {"addresses": [*own, outside]}}, subresource="status")
    again = await reported(client, "")
    assert outside in again and all(item in again for item in own) and len(again) == 3


class Engine:
    async def version(self) -> str:
        return "docker://1"

    async def images(self) -> list[ImageEntry]:
        return []


@pytest.mark.parametrize("cidr", ["10.244.1.0/24", "fd00:10:244:1::/64"])
def test_addresses_of_a_range_are_given_kept_and_given_again(tmp_path: Path, cidr: str) -> None:
    book = AddressBook(tmp_path / "book.json", cidr)
    first, second = book.allocate("a"), book.allocate("b")
    assert len({first, second, book.gateway}) == 3
    again = AddressBook(tmp_path / "book.json", cidr)
    assert again.address("b") == second and again.gateway == book.gateway
    again.release("a")
    assert again.allocate("c") not in (first, second), "a freed address is used as late as possible"
