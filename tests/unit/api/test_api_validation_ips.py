"""Addresses of either family in objects that are not Services: what is refused, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import defaults, validation
from cluster.api.scheme import SCHEME

Obj = dict[str, Any]


def refusals(resource: str, obj: Obj) -> list[str]:
    info = SCHEME.named(resource)
    defaults.apply(info, obj)
    return [f"{cause.field}: {cause.message}" for cause in validation.create(info, obj)]


def status_refusals(resource: str, status: Obj) -> list[str]:
    old: Obj = {"metadata": {"name": "a", "namespace": "default"}, "spec": {}}
    causes = validation.update(SCHEME.named(resource), {**old, "status": status}, old, "status")
    return [f"{cause.field}: {cause.message}" for cause in causes]


def pod(**spec: Any) -> Obj:
    containers = [{"name": "c", "image": "i"}]
    return {"metadata": {"name": "a", "namespace": "default"}, "spec": {"containers": containers, **spec}}


def test_both_families_are_right_everywhere() -> None:
    aliases = [{"ip": "10.0.0.1", "hostnames": ["a"]}, {"ip": "fd00::1", "hostnames": ["b"]}]
    fine = pod(hostAliases=aliases, dnsPolicy="None", dnsConfig={"nameservers": ["9.9.9.9", "2620:fe::fe"]})
    assert refusals("pods", fine) == []
    node = {"metadata": {"name": "n"}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"]}}
    assert refusals("nodes", node) == []
    assert status_refusals("pods", {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}) == []
    assert status_refusals("services", {"loadBalancer": {"ingress": [{"ip": "fd00::1"}]}}) == []


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            {"hostAliases": [{"ip": "fd00::x"}]},
            'spec.hostAliases.ip: Invalid value: "fd00::x": must be valid IP address',
        ),
        (
            {"dnsConfig": {"nameservers": ["dns.example"]}},
            'spec.dnsConfig.nameservers[0]: Invalid value: "dns.example": must be valid IP address',
        ),
        (
            {"dnsPolicy": "None"},
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            {"dnsConfig": {"nameservers": ["::1", "::2", "::3", "::4"]}},
            'spec.dnsConfig.nameservers: Invalid value: ["::1","::2","::3","::4"]: '
            "must not have more than 3 nameservers",
        ),
    ],
)
def test_what_is_wrong_with_a_pods_addresses_is_said(spec: Obj, why: str) -> None:
    assert refusals("pods", pod(**spec)) == [why]


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"podIPs": [{"ip": "fd00::g"}]}, 'status.podIPs[0]: Invalid value: "fd00::g": must be a valid IP address'),
        (
            {"hostIPs": [{"ip": "fd00::1"}, {"ip": "fd00::2"}]},
            'status.hostIPs: Invalid value: [{"ip":"fd00::1"},{"ip":"fd00::2"}]: may specify no more than one IP for ',
        ),
    ],
)
def test_statuses_of_pods(status: Obj, why: str) -> None:
    (found,) = status_refusals("pods", status)
    assert found.startswith(why)


def test_statuses_of_services() -> None:
    ingress = [{"ip": "fd00::g"}, {"hostname": "fd00::1"}]
    found = status_refusals("services", {"loadBalancer": {"ingress": ingress}})
    assert found[0].startswith('status.loadBalancer.ingress[0].ip: Invalid value: "fd00::g"')
    assert found[-1].endswith('"fd00::1": must be a DNS name, not an IP address')


@pytest.mark.parametrize(
    ("cidrs", "why"),
    [
        (["fd00::/64", "fd01::/64"], "may specify no more than one CIDR for each IP family"),
        (["fd00::/129"], "must be a valid CIDR value"),
    ],
)
def test_what_is_wrong_with_a_nodes_ranges_is_said(cidrs: list[str], why: str) -> None:
    (found,) = refusals("nodes", {"metadata": {"name": "n"}, "spec": {"podCIDRs": cidrs}})
    assert why in found


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("::", "may not be unspecified (0.0.0.0 or ::)"),
        ("::1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        ("fe80::5", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("ff02::1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ],
)
def test_external_addresses(address: str, why: str) -> None:
    spec = {"ports": [{"port": 80}], "externalIPs": ["2001:db8::1", address]}
    found = refusals("services", {"metadata": {"name": "s", "namespace": "default"}, "spec": spec})
    assert found == [f'spec.externalIPs[1]: Invalid value: "{address}": {why}']


def test_a_slice_holds_addresses_of_its_own_type() -> None:
    slice_ = {
        "metadata": {"name": "s", "namespace": "default"},
        "addressType": "IPv6",
        "endpoints": [{"addresses": ["fd00::1"]}, {"addresses": ["10.0.0.1"]}],
    }
    assert refusals("endpointslices.discovery.k8s.io", slice_) == [
        'endpoints[1].addresses[0]: Invalid value: "10.0.0.1": must be a valid IPv6 address'
    ]
