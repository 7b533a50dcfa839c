"""Cluster IPs and node ports: claimed in the Service's own transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.api.scheme import SCHEME
from cluster.registry.types import RegistryConfig
from tests.support.api_errors import refusal

SERVICES = SCHEME.named("services")
ADDRESSES = "/registry/networking.k8s.io/ipaddresses/"


async def test_allocates_and_releases(bench: Any, make: Any) -> None:
    made = (await bench.create("services", make.service(type="NodePort"))).obj["spec"]
    assert made["clusterIPs"] == [made["clusterIP"]]
    assert (made["ipFamilies"], made["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")
    port = made["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    assert bench.keys("/sk8/alloc/") == [f"/sk8/alloc/nodeports/{port}"]
    assert bench.keys(ADDRESSES) == [ADDRESSES + made["clusterIP"]]
    await bench.delete("services", "s")
    assert bench.keys("/sk8/alloc/") == bench.keys(ADDRESSES) == []


async def test_a_taken_address_or_port_is_refused(bench: Any, make: Any) -> None:
    fixed = {"type": "NodePort", "clusterIP": "10.96.0.10", "ports": [{"port": 80, "nodePort": 30080}]}
    await bench.create("services", make.service("a", **fixed))
    e = await refusal(bench.create("services", make.service("b", clusterIP="10.96.0.10")))
    assert e.message == (
        'Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.10"]: failed to allocate IP 10.96.0.10: '
        "provided IP is already allocated"
    )
    e = await refusal(bench.create("services", make.service("b", type="NodePort", ports=fixed["ports"])))
    assert e.message == (
        'Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated'
    )
    e = await refusal(bench.create("services", make.service("b", type="NodePort", ports=[{"port": 1, "nodePort": 99}])))
    assert "The range of valid ports is 30000-32767" in e.message
    assert (
        "not in the valid range" in (await refusal(bench.create("services", make.service(clusterIP="1.2.3.4")))).message
    )


async def test_two_registries_never_give_the_same_port(bench: Any, make: Any) -> None:
    config = RegistryConfig(node_port_range=(30000, 30009))
    two = [bench.another(config=config), bench.another(config=config)]  # the same seed: they guess alike
    made = await asyncio.gather(
        *(two[i % 2].create(bench.ctx, SERVICES, "default", make.service(f"s{i}", type="NodePort")) for i in range(10))
    )
    assert sorted(m.obj["spec"]["ports"][0]["nodePort"] for m in made) == list(range(30000, 30010))
    e = await refusal(two[0].create(bench.ctx, SERVICES, "default", make.service("more", type="NodePort")))
    assert "range is full" in e.message


async def test_updates_keep_add_and_release(bench: Any, make: Any) -> None:
    made = (await bench.create("services", make.service())).obj["spec"]

    async def change(**spec: Any) -> Any:
        stored = await bench.registry.modify(
            bench.ctx, SERVICES, "default", "s", lambda o: {**o, "spec": {**o["spec"], **spec}}
        )
        return stored.obj["spec"]

    exposed = await change(type="NodePort")
    assert exposed["clusterIP"] == made["clusterIP"]
    port = exposed["ports"][0]["nodePort"]
    kept = await change(ports=[{"port": 80, "targetPort": 8080}])
    assert kept["ports"][0]["nodePort"] == port
    inner = await change(type="ClusterIP")
    assert "nodePort" not in inner["ports"][0]
    assert bench.keys("/sk8/alloc/nodeports/") == []
    e = await refusal(change(clusterIP="10.96.9.9", clusterIPs=["10.96.9.9"]))
    assert "may not change once set" in e.message


async def test_headless_and_external(bench: Any, make: Any) -> None:
    spec = (await bench.create("services", make.service("h", clusterIP="None"))).obj["spec"]
    assert spec["clusterIPs"] == ["None"]
    external = {"metadata": {"name": "e"}, "spec": {"type": "ExternalName", "externalName": "a.example"}}
    assert "clusterIP" not in (await bench.create("services", external)).obj["spec"]
    assert bench.keys("/sk8/alloc/") == []


async def test_the_port_of_health_checks_comes_and_goes_with_the_local_policy(bench: Any, make: Any) -> None:
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    made = (await bench.create("services", make.service(**local))).obj["spec"]
    port = made["healthCheckNodePort"]
    assert 30000 <= port <= 32767 and port != made["ports"][0]["nodePort"]
    assert f"/sk8/alloc/nodeports/{port}" in bench.keys("/sk8/alloc/nodeports/")
    e = await refusal(bench.create("services", make.service("b", **local, healthCheckNodePort=port)))
    assert f"spec.healthCheckNodePort: Invalid value: {port}: provided port is already allocated" in e.message

    async def change(**spec: Any) -> Any:
        def changed(obj: Any) -> Any:
            return {**obj, "spec": {k: v for k, v in {**obj["spec"], **spec}.items() if v is not None}}

        return (await bench.registry.modify(bench.ctx, SERVICES, "default", "s", changed)).obj["spec"]

    assert (await change(healthCheckNodePort=None))["healthCheckNodePort"] == port, "an update that leaves it out"
    e = await refusal(change(healthCheckNodePort=port + 1))
    assert "spec.healthCheckNodePort: Invalid value" in e.message and "field is immutable" in e.message
    assert "healthCheckNodePort" not in await change(externalTrafficPolicy="Cluster")
    assert f"/sk8/alloc/nodeports/{port}" not in bench.keys("/sk8/alloc/nodeports/")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            "timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
        ),
        (
            {"loadBalancerSourceRanges": ["10.0.0.0/8"]},
            "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/99"]},
            "spec.loadBalancerSourceRanges[0]: Invalid value",
        ),
        ({"type": "LoadBalancer", "healthCheckNodePort": 30000}, "spec.healthCheckNodePort: Invalid value"),
        ({"trafficDistribution": "Far"}, "spec.trafficDistribution: Unsupported value"),
        ({"ipFamilies": ["IPv6"]}, "spec.ipFamilies[0]: Invalid value"),
    ],
)
async def test_what_does_not_go_together_is_refused(bench: Any, make: Any, spec: Any, message: str) -> None:
    assert message in (await refusal(bench.create("services", make.service(**spec)))).message
