"""Load balancers' addresses between two machines and a stranger: ARP, source ranges, health checks, fail-over."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.network import links
from cluster.network.announce import holder
from tests.support.network_lab import (
    MACHINES,
    SLICES,
    Lab,
    endpoints,
    eventually,
    inside,
    node,
    running_lab,
    service,
    tcp,
)

pytestmark = pytest.mark.root
Obj = dict[str, Any]
VIP = "10.89.77.120"
CLUSTER_IP = "10.96.3.1"
HEALTH = 31999
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ready(lab: Lab, name: str, is_ready: bool = True) -> None:
    address, prefix = MACHINES[name]
    obj = node(name, address, f"{prefix}.0/24")
    obj["status"]["conditions"] = [{"type": "Ready", "status": str(is_ready)}]
    lab.api.put("nodes", obj)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as made:
        for name in MACHINES:
            ready(made, name)
        yield made


def balance(lab: Lab, pods: list[str], **spec: Any) -> None:
    lab.api.put(SLICES, endpoints("lb", pods))
    obj = service("lb", CLUSTER_IP, type="LoadBalancer", **spec)
    obj["status"] = {"loadBalancer": {"ingress": [{"ip": VIP}]}}
    lab.api.put("services", obj)
    lab.wait()


def reached(lab: Lab, address: str = VIP) -> str:
    """What the stranger on the machines' link is told; he has nobody else to ask than ARP."""
    return tcp("out", address, 80)


def test_a_stranger_on_the_link_reaches_the_address(lab: Lab) -> None:
    balance(lab, ["a1", "b1"])
    eventually(lambda: reached(lab).split()[0] in ("a1", "b1"), "nobody answers for the address", 30.0)
    assert tcp("a1", VIP, 80).split()[0] in ("a1", "b1")
    assert tcp("out", VIP, 22) == "ConnectionRefusedError"


def test_source_ranges(lab: Lab) -> None:
    balance(lab, ["a1"], loadBalancerSourceRanges=["192.0.2.0/24", "10.89.77.200/32"])
    assert reached(lab) == "TimeoutError"
    assert tcp("a1", VIP, 80) == "TimeoutError"
    assert tcp("a1", CLUSTER_IP, 80).startswith("a1")
    balance(lab, ["a1"], loadBalancerSourceRanges=["10.89.77.0/24"])
    assert reached(lab).startswith("a1")
    balance(lab, ["a1"])
    assert tcp("b1", VIP, 80).startswith("a1")


def test_with_policy_local_the_machine_with_the_endpoint_answers_and_the_source_is_kept(lab: Lab) -> None:
    for pod in ("a1", "b1"):
        balance(lab, [pod], externalTrafficPolicy="Local", healthCheckNodePort=HEALTH)
        eventually(lambda p=pod: reached(lab) == f"{p} 10.89.77.1", "not with its own source", 30.0)  # type: ignore[misc]
        for machine in MACHINES:
            here = machine == pod[0]
            eventually(
                lambda m=machine, h=here: health(m) == (200 if h else 503, int(h)),  # type: ignore[misc]
                "the health check says something else",
                30.0,
            )
    balance(lab, ["a1"])
    eventually(lambda: health("a") is None, "the port of health checks still listens", 30.0)


def health(machine: str) -> tuple[int, int] | None:
    """(HTTP status, local endpoints), or None when nobody listens."""

    def get() -> tuple[int, int] | None:
        try:
            with DIRECT.open(f"http://{MACHINES[machine][0]}:{HEALTH}/healthz", timeout=30) as answer:
                return int(answer.status), int(json.load(answer)["localEndpoints"])
        except urllib.error.HTTPError as err:
            return err.code, int(json.load(err)["localEndpoints"])
        except OSError:
            return None

    return inside("out", get)


def test_when_the_holder_is_not_ready_another_machine_answers(lab: Lab) -> None:
    balance(lab, ["a1", "b1"])
    first = holder(VIP, MACHINES)
    eventually(lambda: holds(first), "the chosen machine does not hold the address", 30.0)
    ready(lab, first, False)
    (second,) = set(MACHINES) - {first}
    eventually(lambda: holds(second) and not holds(first), "no other machine took the address", 30.0)
    eventually(lambda: reached(lab).split()[0] in ("a1", "b1"), "the stranger still asks the old machine", 30.0)
    ready(lab, first)
    eventually(lambda: holds(first) and not holds(second), "it does not come back", 30.0)
    lab.api.remove("services", "default", "lb")
    eventually(lambda: not holds(first), "an address without a Service is still held", 30.0)


def holds(machine: str) -> bool:
    return inside(machine, lambda: VIP in links.local_addresses())
