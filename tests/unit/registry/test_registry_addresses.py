"""IPAddress and ServiceCIDR: the claim is the object, from whichever ranges are ready (KEP-1880)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.api.scheme import SCHEME
from cluster.registry import bootstrap
from cluster.registry.store import delete
from tests.support.api_errors import refusal

SERVICES = SCHEME.named("services")
ADDRESSES = SCHEME.named("ipaddresses.networking.k8s.io")
CIDRS = "servicecidrs.networking.k8s.io"
READY = {"type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"}


async def _why(call: Any) -> str:
    return (await refusal(call)).message


async def _range(bench: Any, name: str, *cidrs: str, ready: bool = True) -> None:
    await bench.create(CIDRS, {"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}, "")
    if ready:
        await _mark(bench, name, READY)


async def _mark(bench: Any, name: str, condition: dict[str, str]) -> None:
    info, status = SCHEME.named(CIDRS), {"conditions": [condition]}
    await bench.registry.modify(bench.ctx, info, "", name, lambda o: {**o, "status": status}, subresource="status")


async def test_an_allocated_address_is_shown_as_kubernetes_shows_it(bench: Any, make: Any) -> None:
    ip = (await bench.create("services", make.service())).obj["spec"]["clusterIP"]
    shown = (await bench.get(ADDRESSES.name, ip, "")).obj
    assert shown["spec"] == {"parentRef": {"resource": "services", "namespace": "default", "name": "s"}}
    assert shown["metadata"]["labels"] == {
        "ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    }
    assert shown["metadata"]["managedFields"][0]["manager"] == "kube-apiserver"


async def test_an_address_that_someone_made_is_not_given_out(bench: Any, make: Any) -> None:
    parent = {"group": "g.example", "resource": "things", "name": "n"}
    await bench.create(ADDRESSES.name, {"metadata": {"name": "10.96.0.9"}, "spec": {"parentRef": parent}}, "")
    assert "already allocated" in await _why(bench.create("services", make.service(clusterIP="10.96.0.9")))
    await bench.delete(ADDRESSES.name, "10.96.0.9", "")
    await bench.create("services", make.service(clusterIP="10.96.0.9"))


async def test_an_address_removed_under_its_service_is_made_again(bench: Any, make: Any) -> None:
    await bench.create("services", make.service(clusterIP="10.96.0.9"))
    before = (await bench.get(ADDRESSES.name, "10.96.0.9", "")).uid
    await bench.delete(ADDRESSES.name, "10.96.0.9", "")
    assert (await bench.get(ADDRESSES.name, "10.96.0.9", "")).uid != before
    assert "already allocated" in await _why(bench.create("services", make.service("t", clusterIP="10.96.0.9")))


async def test_a_further_range_is_used_once_it_is_ready(bench: Any, make: Any) -> None:
    await _range(bench, "kubernetes", "10.96.0.0/29")
    await _range(bench, "more", "10.200.0.0/29", ready=False)
    for i in range(6):
        await bench.create("services", make.service(f"s{i}"))
    assert "range is full" in await _why(bench.create("services", make.service("late")))
    assert "not in the valid range" in await _why(bench.create("services", make.service(clusterIP="10.200.0.1")))
    await _mark(bench, "more", READY)
    made = [await bench.create("services", make.service(f"t{i}")) for i in range(6)]
    assert sorted(m.obj["spec"]["clusterIP"] for m in made) == [f"10.200.0.{i}" for i in range(1, 7)]
    assert "range is full" in await _why(bench.create("services", make.service("last")))


async def test_racing_registries_fill_a_range_exactly(bench: Any, make: Any) -> None:
    await _range(bench, "kubernetes", "10.96.0.0/28")
    two = [bench.another(), bench.another()]  # the same seed: they guess alike
    made = await asyncio.gather(
        *(two[i % 2].create(bench.ctx, SERVICES, "default", make.service(f"s{i}")) for i in range(14))
    )
    assert {m.obj["spec"]["clusterIP"] for m in made} == {f"10.96.0.{i}" for i in range(1, 15)}


async def test_no_address_of_a_range_that_is_going(bench: Any, make: Any) -> None:
    await _range(bench, "kubernetes", "10.96.0.0/24")
    body = {"metadata": {"name": "more", "finalizers": ["example.com/held"]}, "spec": {"cidrs": ["10.200.0.0/24"]}}
    await bench.create(CIDRS, body, "")
    await _mark(bench, "more", READY)
    await bench.create("services", make.service("a", clusterIP="10.200.0.1"))
    await bench.delete(CIDRS, "more", "")
    assert "not in the valid range" in await _why(bench.create("services", make.service(clusterIP="10.200.0.2")))


@pytest.mark.parametrize(
    ("cidrs", "why"),
    [
        ([], "spec.cidrs: Required value: at least one CIDR required"),
        (["10.0.0.1/24"], 'spec.cidrs[0]: Invalid value: "10.0.0.1/24": must be in canonical form ("10.0.0.0/24")'),
        (["10.0.0.0"], "spec.cidrs[0]: Invalid value"),
        (["10.0.0.0/24", "10.1.0.0/24"], "may specify no more than one IP for each IP family"),
        (["10.0.0.0/24", "fd00::/64", "10.1.0.0/24"], "may only hold up to 2 values"),
    ],
)
async def test_bad_ranges(bench: Any, cidrs: list[str], why: str) -> None:
    assert why in await _why(_range(bench, "r", *cidrs))


async def test_a_range_stays_what_it_is(bench: Any) -> None:
    await _range(bench, "r", "10.0.0.0/24")
    info = SCHEME.named(CIDRS)

    async def change(*cidrs: str) -> Any:
        return await bench.registry.modify(bench.ctx, info, "", "r", lambda o: {**o, "spec": {"cidrs": list(cidrs)}})

    assert "spec.cidrs[0]: Invalid value" in await _why(change("10.1.0.0/24"))
    assert (await change("10.0.0.0/24", "fd00::/64")).obj["metadata"]["generation"] == 2
    assert "field is immutable" in await _why(change("10.0.0.0/24"))


async def test_an_addresses_name_is_its_one_spelling(bench: Any) -> None:
    def named(name: str) -> Any:
        parent = {"resource": "services", "name": "n"}
        return bench.create(ADDRESSES.name, {"metadata": {"name": name}, "spec": {"parentRef": parent}}, "")

    assert 'must be in canonical form ("fd00::1")' in await _why(named("fd00:0::1"))
    assert "must be a valid IP address" in await _why(named("a.b"))
    await named("fd00::1")
    orphan = bench.create(ADDRESSES.name, {"metadata": {"name": "10.0.0.1"}}, "")
    assert "spec.parentRef: Required value" in await _why(orphan)


@pytest.mark.parametrize("change", ["deleted", "labelled"])
async def test_a_service_that_changes_meanwhile_leaves_no_address_behind(
    bench: Any, make: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Between the reading of the Services and the making of the addresses that an older version had not."""
    ip = (await bench.create("services", make.service())).obj["spec"]["clusterIP"]
    await bench.store.txn([], [delete(f"/registry/networking.k8s.io/ipaddresses/{ip}".encode())], [])
    real, listed = bench.registry.list, []

    async def listing(ctx: Any, info: Any) -> Any:
        found = await real(ctx, info)
        if info is SERVICES and not listed:
            listed.append(found)
            if change == "deleted":
                await bench.delete("services", "s")
            else:
                label = {"labels": {"a": "b"}}
                await bench.registry.modify(
                    bench.ctx, SERVICES, "default", "s", lambda o: {**o, "metadata": {**o["metadata"], **label}}
                )
        return found

    monkeypatch.setattr(bench.registry, "list", listing)
    await bootstrap.ensure(bench.registry, bench.registry.config)
    names = {s.obj["metadata"]["name"] for s in (await real(bench.ctx, ADDRESSES)).items}
    assert listed and names == {"10.96.0.1", "10.96.0.10"} | ({ip} if change == "labelled" else set())


async def test_a_cluster_begins_with_its_range_and_with_the_addresses_in_use(bench: Any, make: Any) -> None:
    ip = (await bench.create("services", make.service())).obj["spec"]["clusterIP"]
    key = f"/registry/networking.k8s.io/ipaddresses/{ip}".encode()
    await bench.store.txn([], [delete(key)], [])  # as an older version left it
    await bootstrap.ensure(bench.registry, bench.registry.config)
    cidr = (await bench.get(CIDRS, "kubernetes", "")).obj
    assert cidr["spec"] == {"cidrs": ["10.96.0.0/12"]}
    assert cidr["status"]["conditions"][0]["status"] == "True"
    names = {s.obj["metadata"]["name"] for s in (await bench.registry.list(bench.ctx, ADDRESSES)).items}
    assert names == {ip, "10.96.0.1", "10.96.0.10"}
