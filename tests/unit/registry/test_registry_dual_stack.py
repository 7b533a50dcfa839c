"""Families of Services on dual-stack and single-stack clusters: who gets which addresses, who is refused, and how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry import bootstrap
from cluster.registry.types import RegistryConfig

SERVICES = SCHEME.named("services")
ADDRESSES = "/registry/networking.k8s.io/ipaddresses/"
DUAL = RegistryConfig(service_cidr_ipv6="fd00:10:96::/112")
Obj = dict[str, Any]
Change = Callable[..., Awaitable[Obj]]


@pytest.fixture
async def dual(bench: Any) -> Any:
    """The same bench on a cluster with both families."""
    bench.registry = bench.another(config=DUAL)
    return bench


@pytest.fixture
def change(dual: Any) -> Change:
    """Replace fields of Service s; None leaves a field out."""

    async def make(**spec: Any) -> Obj:
        def changed(obj: Obj) -> Obj:
            return {**obj, "spec": {k: v for k, v in {**obj["spec"], **spec}.items() if v is not None}}

        stored = await dual.registry.modify(dual.ctx, SERVICES, "default", "s", changed)
        return dict(stored.obj["spec"])

    return make


async def _made(bench: Any, obj: Obj) -> tuple[list[str], str, list[str]]:
    """(families, policy, the family of each address) of a new Service."""
    spec = (await bench.create("services", obj)).obj["spec"]
    assert spec["clusterIP"] == spec["clusterIPs"][0]
    shapes = ["None" if ip == "None" else "IPv6" if ":" in ip else "IPv4" for ip in spec["clusterIPs"]]
    return spec["ipFamilies"], spec["ipFamilyPolicy"], shapes


async def _refusal(awaitable: Awaitable[Any]) -> str:
    with pytest.raises(ApiError) as e:
        await awaitable
    assert e.value.code == 422
    return e.value.message


@pytest.mark.parametrize(
    ("spec", "families", "policy"),
    [
        ({}, ["IPv4"], "SingleStack"),
        ({"ipFamilies": ["IPv6"]}, ["IPv6"], "SingleStack"),
        ({"ipFamilyPolicy": "PreferDualStack"}, ["IPv4", "IPv6"], "PreferDualStack"),
        ({"ipFamilyPolicy": "RequireDualStack"}, ["IPv4", "IPv6"], "RequireDualStack"),
        ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, ["IPv6", "IPv4"], "RequireDualStack"),
        ({"clusterIP": "fd00:10:96::77"}, ["IPv6"], "SingleStack"),
    ],
)
async def test_families_and_addresses_of_a_new_service(
    dual: Any, make: Any, spec: Obj, families: list[str], policy: str
) -> None:
    assert await _made(dual, make.service(**spec)) == (families, policy, families)


async def test_headless_services(dual: Any, make: Any) -> None:
    assert await _made(dual, make.service("a", clusterIP="None")) == (["IPv4"], "SingleStack", ["None"])
    both = make.service("b", clusterIP="None", ipFamilyPolicy="PreferDualStack")
    assert await _made(dual, both) == (["IPv4", "IPv6"], "PreferDualStack", ["None"])
    bare = make.service("c", clusterIP="None", selector=None)
    assert await _made(dual, bare) == (["IPv4", "IPv6"], "RequireDualStack", ["None"])


async def test_a_single_stack_cluster(bench: Any, make: Any) -> None:
    assert await _made(bench, make.service("a", ipFamilyPolicy="PreferDualStack")) == (
        ["IPv4"],
        "PreferDualStack",
        ["IPv4"],
    )
    assert await _refusal(bench.create("services", make.service("b", ipFamilyPolicy="RequireDualStack"))) == (
        'Service "b" is invalid: spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not '
        "configured for dual-stack services"
    )
    assert await _refusal(bench.create("services", make.service("b", ipFamilies=["IPv6"]))) == (
        'Service "b" is invalid: spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster'
    )
    assert await _refusal(bench.create("services", make.service("b", clusterIP="fd00::1"))) == (
        'Service "b" is invalid: spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster'
    )
    bare = make.service("c", clusterIP="None", selector=None)
    assert await _made(bench, bare) == (["IPv4", "IPv6"], "RequireDualStack", ["None"]), "whoever fills it knows"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"ipFamilies": ["IPv4", "IPv4"]}, 'spec.ipFamilies[1]: Duplicate value: "IPv4"'),
        (
            {"ipFamilies": ["IPv5"]},
            'spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"',
        ),
        (
            {"ipFamilyPolicy": "Both"},
            'spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", '
            '"SingleStack"',
        ),
        (
            {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"},
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when "
            "multiple IP families are specified",
        ),
        (
            {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:10:96::9"]},
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when "
            "multiple cluster IPs are specified",
        ),
        (
            {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "10.96.0.8"], "ipFamilyPolicy": "RequireDualStack"},
            'spec.clusterIPs: Invalid value: ["10.96.0.9","10.96.0.8"]: may specify no more than one IP for each IP '
            "family",
        ),
        (
            {"clusterIP": "10.96.0.9", "ipFamilies": ["IPv6"]},
            'spec.clusterIPs[0]: Invalid value: "10.96.0.9": expected an IPv6 value as indicated by `ipFamilies[0]`',
        ),
        (
            {"clusterIPs": ["10.96.0.9"]},
            'spec.clusterIPs: Invalid value: ["10.96.0.9"]: must be empty when `clusterIP` is not specified',
        ),
        (
            {"clusterIP": "None", "clusterIPs": ["None", "fd00:10:96::9"]},
            'spec.clusterIPs: Invalid value: ["None","fd00:10:96::9"]: \'None\' must be the first and only value',
        ),
        (
            {"clusterIP": "fd00::1"},
            'spec.clusterIPs: Invalid value: ["fd00::1"]: failed to allocate IP fd00::1: the provided IP (fd00::1) is '
            "not in the valid range. The range of valid IPs is fd00:10:96::/112",
        ),
    ],
)
async def test_refusals_in_kubernetes_words(dual: Any, make: Any, spec: Obj, why: str) -> None:
    assert await _refusal(dual.create("services", make.service(**spec))) == f'Service "s" is invalid: {why}'


async def test_a_second_family_comes_and_goes(dual: Any, make: Any, change: Change) -> None:
    first = (await dual.create("services", make.service())).obj["spec"]["clusterIP"]
    both = await change(ipFamilyPolicy="PreferDualStack")
    assert both["clusterIPs"][0] == first and both["ipFamilies"] == ["IPv4", "IPv6"]
    assert dual.keys(ADDRESSES) == sorted(ADDRESSES + ip for ip in both["clusterIPs"])
    kept = await change(clusterIPs=None, ipFamilies=None, ipFamilyPolicy=None)
    assert (kept["clusterIPs"], kept["ipFamilyPolicy"]) == (both["clusterIPs"], "PreferDualStack"), "an old client"
    one = await change(ipFamilyPolicy="SingleStack")
    assert (one["clusterIPs"], one["ipFamilies"]) == ([first], ["IPv4"])
    assert dual.keys(ADDRESSES) == [ADDRESSES + first]
    await dual.delete("services", "s")
    assert dual.keys(ADDRESSES) == []


async def test_what_may_not_change(dual: Any, make: Any, change: Change) -> None:
    await dual.create("services", make.service(ipFamilyPolicy="RequireDualStack"))
    have = await change()
    first, second = have["clusterIPs"]
    assert await _refusal(change(clusterIPs=[first])) == (
        'Service "s" is invalid: spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be \'SingleStack\' to '
        "release the secondary cluster IP"
    )
    assert "must be 'SingleStack' to release the secondary IP family" in await _refusal(change(ipFamilies=["IPv4"]))
    assert f'spec.clusterIPs[1]: Invalid value: ["{first}","fd00:10:96::9"]: may not change once set' in await _refusal(
        change(clusterIPs=[first, "fd00:10:96::9"])
    )
    swapped = change(clusterIP=second, clusterIPs=[second, first], ipFamilies=["IPv6", "IPv4"])
    assert "spec.clusterIPs[0]" in await _refusal(swapped)
    assert (await change())["clusterIPs"] == [first, second], "nothing was changed"


async def test_a_preference_is_not_acted_upon_by_an_update_of_something_else(
    bench: Any, make: Any, change: Change
) -> None:
    """Made while the cluster had one family, the Service keeps one until its owner says otherwise."""
    bench.registry = bench.another()
    await bench.create("services", make.service(ipFamilyPolicy="PreferDualStack"))
    bench.registry = bench.another(config=DUAL)
    assert len((await change(ports=[{"port": 81}]))["clusterIPs"]) == 1
    assert len((await change(ipFamilyPolicy="RequireDualStack"))["clusterIPs"]) == 2


async def test_addresses_are_claimed_under_one_spelling(dual: Any, make: Any) -> None:
    await dual.create("services", make.service("a", clusterIP="fd00:10:96:0::AB"))
    assert dual.keys(ADDRESSES) == [ADDRESSES + "fd00:10:96::ab"]
    claim = (await dual.get("ipaddresses.networking.k8s.io", "fd00:10:96::ab", "")).obj
    assert claim["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"] == "IPv6"
    assert "provided IP is already allocated" in await _refusal(
        dual.create("services", make.service("b", clusterIP="fd00:10:96::ab"))
    )


async def test_a_new_cluster_has_both_ranges_and_a_single_stack_kubernetes_service(dual: Any) -> None:
    await bootstrap.ensure(dual.registry, DUAL)
    cidr = (await dual.get("servicecidrs.networking.k8s.io", "kubernetes", "")).obj
    assert cidr["spec"]["cidrs"] == ["10.96.0.0/12", "fd00:10:96::/112"]
    spec = (await dual.get("services", "kubernetes")).obj["spec"]
    assert (spec["clusterIPs"], spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["10.96.0.1"], ["IPv4"], "SingleStack")
