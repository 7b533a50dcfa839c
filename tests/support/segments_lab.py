"""Three machines on two routed segments, a pod on each, as network namespaces (names begin with sk8t-net).

a1 - [a 10.89.77.11] --- r --- [b 10.89.78.12] - b1
c1 - [c 10.89.77.13] ---/
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.network_lab import PREFIX, Echo, inside, ip, node

Obj = dict[str, Any]
MACHINES = {"a": ("10.89.77.11", "10.244.1"), "b": ("10.89.78.12", "10.244.2"), "c": ("10.89.77.13", "10.244.3")}
NAMESPACES = ("r", "a", "b", "c", "a1", "b1", "c1")
NODES = [node(name, address, f"{prefix}.0/24") for name, (address, prefix) in MACHINES.items()]


def build() -> None:
    for namespace in NAMESPACES:
        ip("netns", "add", f"{PREFIX}{namespace}")
        ip("link", "set", "lo", "up", ns=namespace)
        inside(namespace, lambda: forward())
    for name, segment in (("br77", "77"), ("br78", "78")):
        ip("link", "add", name, "type", "bridge", ns="r")
        ip("addr", "add", f"10.89.{segment}.1/24", "dev", name, ns="r")
        ip("link", "set", name, "up", ns="r")
    for machine, (address, prefix) in MACHINES.items():
        segment = address.split(".")[2]
        ip("link", "add", "eth0", "type", "veth", "peer", "name", machine, "netns", f"{PREFIX}r", ns=machine)
        ip("link", "set", "dev", machine, "master", f"br{segment}", "up", ns="r")
        ip("addr", "add", f"{address}/24", "dev", "eth0", ns=machine)
        ip("link", "set", "eth0", "up", ns=machine)
        ip("route", "add", "default", "via", f"10.89.{segment}.1", ns=machine)
        pod = f"{machine}1"
        ip("link", "add", "eth0", "type", "veth", "peer", "name", f"veth{pod}", "netns", f"{PREFIX}{machine}", ns=pod)
        ip("addr", "add", f"{prefix}.2/32", "dev", "eth0", ns=pod)
        ip("link", "set", "eth0", "up", ns=pod)
        ip("route", "add", "default", "via", f"{prefix}.1", "dev", "eth0", "onlink", ns=pod)
        ip("addr", "add", f"{prefix}.1/32", "dev", f"veth{pod}", ns=machine)
        ip("link", "set", f"veth{pod}", "up", ns=machine)
        ip("route", "add", f"{prefix}.2/32", "dev", f"veth{pod}", ns=machine)


def forward() -> None:
    with open("/proc/sys/net/ipv4/ip_forward", "w") as setting:
        setting.write("1")


@pytest.fixture
def segments() -> Iterator[None]:
    if os.geteuid():
        pytest.skip("needs root")
    with contextlib.ExitStack() as stack:
        for namespace in NAMESPACES:
            command = ["ip", "netns", "del", f"{PREFIX}{namespace}"]
            subprocess.run(command, check=False, capture_output=True)
            stack.callback(subprocess.run, command, check=False, capture_output=True)
        build()
        for pod in ("a1", "b1", "c1"):
            stack.callback(Echo(pod, 8080).close)
        yield


def links(machine: str) -> dict[str, Obj]:
    shown = subprocess.run(
        ["ip", "-n", f"{PREFIX}{machine}", "-j", "link"], check=True, capture_output=True, text=True
    ).stdout
    return {link["ifname"]: link for link in json.loads(shown)}


def route(machine: str, cidr: str) -> Obj:
    shown = subprocess.run(
        ["ip", "-n", f"{PREFIX}{machine}", "-j", "-6" if ":" in cidr else "-4", "route", "show", cidr],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: list[Obj] = json.loads(shown)
    return found[0] if found else {}
