"""The pod network by Debian's containernetworking-plugins, run by their conflist between network namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.node.cni import NetworkFailure
from cluster.node.cni_plugins import PluginNetwork, find_conflist
from cluster.node.host_port_rules import PortMapping
from cluster.node.runtime import PodRef
from tests.support.network_lab import PREFIX, Echo, inside, ip, tcp

BIN = "/usr/lib/cni"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not Path(BIN, "bridge").exists(), reason="Debian's containernetworking-plugins is missing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
Obj = dict[str, Any]
POD = PodRef("default", "p", "uid")
CIDR = "10.244.9.0/28"
MACHINE = "cni"


def conflist(directory: Path, kind: str, *more: Obj) -> Obj:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "{{.PodCIDR}}"}]], "dataDir": str(directory / "ipam")}
    main: Obj = {"type": kind, "ipam": ipam | {"routes": [{"dst": "0.0.0.0/0"}]}}
    if kind == "bridge":
        main |= {"bridge": "cni0", "isGateway": True, "hairpinMode": True}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [main, *more]}


class Machine:
    """A namespace in which a kubelet's network runs, and pods' namespaces beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = PluginNetwork(str(directory / "state"), str(directory / "net.d"), [BIN])

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Plugins are started from here, so they work on this machine."""
        return inside(MACHINE, lambda: asyncio.run(work()))

    def configure(self, content: Obj) -> None:
        (self.directory / "net.d").mkdir(exist_ok=True)
        (self.directory / "net.d" / "10-pods.conflist").write_text(json.dumps(content))
        self.run(lambda: self.network.setup(CIDR))

    def add(self, pod: str, *ports: PortMapping) -> str:
        netns = f"/run/netns/{PREFIX}{pod}"
        return str(self.run(lambda: self.network.add(pod, netns, POD, ports))[0])

    def leases(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "ipam" / "pods").glob("10.*"))

    def links(self) -> list[str]:
        shown = subprocess.run(
            ["ip", "-n", f"{PREFIX}{MACHINE}", "-j", "link"], check=True, capture_output=True, text=True
        ).stdout
        return sorted(link["ifname"] for link in json.loads(shown) if link["ifname"].startswith("veth"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with contextlib.ExitStack() as stack:
        for namespace in (MACHINE, "p1", "p2"):
            command = ["ip", "netns", "del", f"{PREFIX}{namespace}"]
            subprocess.run(command, check=False, capture_output=True)
            ip("netns", "add", f"{PREFIX}{namespace}")
            stack.callback(subprocess.run, command, check=False, capture_output=True)
            ip("link", "set", "lo", "up", ns=namespace)
        yield Machine(tmp_path)


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_pods_are_connected_checked_and_disconnected(machine: Machine, kind: str) -> None:
    machine.configure(conflist(machine.directory, kind))
    first, second = machine.add("p1"), machine.add("p2")
    assert machine.leases() == sorted([first, second])
    assert machine.add("p1") == first == machine.network.addresses("p1")[0]
    server = Echo("p2", 8080)
    try:
        assert tcp("p1", second, 8080) == f"p2 {first}"
        assert tcp(MACHINE, second, 8080).startswith("p2 ")
    finally:
        server.close()
    assert machine.run(lambda: machine.network.check("p1")) is True
    ip("addr", "flush", "dev", "eth0", ns="p1")
    assert machine.run(lambda: machine.network.check("p1")) is False
    for _ in range(2):
        machine.run(lambda: machine.network.delete("p1"))
    assert machine.leases() == [second]
    assert machine.run(lambda: machine.network.reconcile([])) == ["p2"]
    assert (machine.leases(), machine.links(), machine.network.addresses("p2")) == ([], [], ())


def test_a_chained_plugin_gets_the_host_ports(machine: Machine) -> None:
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    machine.configure(conflist(machine.directory, "bridge", portmap))
    assert machine.network.maps_ports
    machine.add("p1", PortMapping("tcp", 18080, 8080))
    machine.add("p2")
    server = Echo("p1", 8080)
    gateway = "10.244.9.1"
    try:
        assert tcp("p2", gateway, 18080).startswith("p1 ")
        machine.run(lambda: machine.network.delete("p1"))
        assert not tcp("p2", gateway, 18080).startswith("p1 ")
    finally:
        server.close()
    machine.run(lambda: machine.network.delete("p2"))


def test_a_failed_add_says_why_and_leaves_nothing(machine: Machine) -> None:
    machine.configure(conflist(machine.directory, "bridge", {"type": "vlan"}))  # cannot be chained: no master
    with pytest.raises(NetworkFailure, match=r'plugin type="vlan" failed \(add\)'):
        machine.add("p1")
    assert (machine.leases(), machine.links()) == ([], [])


def test_exhausted_addresses_are_the_plugins_own_words(machine: Machine) -> None:
    content = conflist(machine.directory, "bridge")
    content["plugins"][0]["ipam"]["ranges"] = [[{"subnet": "10.244.9.0/30"}]]
    machine.configure(content)
    machine.add("p1")
    with pytest.raises(NetworkFailure, match="no IP addresses available in range set"):
        machine.add("p2")
    machine.run(lambda: machine.network.delete("p1"))
    assert machine.add("p2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"cniVersion": "0.4.0", "name": "x", "plugins": []}', "each needs a type"),
        ('{"cniVersion": "9.9", "name": "x", "plugins": [{"type": "bridge"}]}', "cniVersion '9.9' is not spoken here"),
        ('{"cniVersion": "0.4.0", "plugins": [{"type": "bridge"}]}', "name: the network needs one"),
    ],
)
def test_a_conflist_that_cannot_work_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NetworkFailure, match="no networks found in"):
        find_conflist(tmp_path, CIDR)
    (tmp_path / "10-x.conflist").write_text(text)
    with pytest.raises(NetworkFailure, match=message):
        find_conflist(tmp_path, CIDR)


def test_a_plugin_that_is_not_installed_is_named(machine: Machine) -> None:
    with pytest.raises(NetworkFailure, match=r'failed to find plugin "cilium-cni" in path \[/usr/lib/cni\]'):
        machine.configure(conflist(machine.directory, "cilium-cni"))
    assert not machine.network.ready
