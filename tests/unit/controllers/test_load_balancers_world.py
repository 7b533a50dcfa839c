"""Services of type LoadBalancer: an address of the pool each, kept, given back, and never two with one."""

from __future__ import annotations

from typing import Any

from cluster.cloud.local_balancers import AddressPool
from cluster.controllers.env import Outside
from cluster.controllers.load_balancers import FINALIZER, LoadBalancerController
from cluster.machinery.client import Obj
from tests.support.controller_world import World


def service(name: str, **spec: Any) -> Obj:
    meta = {"name": name, "namespace": "default"}
    return {"metadata": meta, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec}}


def world() -> World:
    return World(LoadBalancerController, outside=Outside(balancers=AddressPool(["10.9.0.1", "10.9.0.2"])))


async def address(w: World, name: str) -> str:
    found = (await w.client.get("services", name, "default"))["status"]["loadBalancer"].get("ingress") or []
    assert all(i["ipMode"] == "VIP" for i in found)
    return ",".join(i["ip"] for i in found)


async def reasons(w: World, name: str) -> list[str]:
    found = [e for e in await w.items("events") if e["involvedObject"]["name"] == name]
    return [e["reason"] for e in sorted(found, key=lambda e: int(e["metadata"]["resourceVersion"]))]


async def test_each_service_gets_an_address_of_its_own_and_gives_it_back() -> None:
    async with world() as w:
        await w.namespace()
        for name in ("a", "b"):
            await w.create("services", service(name))
        await w.settle()
        assert [await address(w, n) for n in "ab"] == ["10.9.0.1", "10.9.0.2"]
        assert (await w.client.get("services", "a", "default"))["metadata"]["finalizers"] == [FINALIZER]
        assert await reasons(w, "a") == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]
        await w.client.delete("services", "a", "default")
        await w.settle()
        assert [s["metadata"]["name"] for s in await w.items("services")] == ["b"]
        await w.create("services", service("c"))
        await w.settle()
        assert await address(w, "c") == "10.9.0.1"
        before = await w.revision()
        w.controllers[0].resync()
        await w.settle()
        assert w.store.revision == before


async def test_an_exhausted_pool_is_said_and_the_next_free_address_taken() -> None:
    async with world() as w:
        await w.namespace()
        for name in ("a", "b", "c"):
            await w.create("services", service(name))
        await w.churn()
        assert await address(w, "c") == "" and "SyncLoadBalancerFailed" in await reasons(w, "c")
        await w.client.delete("services", "b", "default")
        await w.settle()
        assert await address(w, "c") == "10.9.0.2"


async def test_a_service_that_is_no_load_balancer_any_more_loses_address_and_finalizer() -> None:
    async with world() as w:
        await w.namespace()
        await w.create("services", service("a"))
        await w.settle()
        await w.client.patch("services", "a", {"spec": {"type": "ClusterIP"}}, "default")
        await w.settle()
        found = await w.client.get("services", "a", "default")
        assert await address(w, "a") == "" and not found["metadata"].get("finalizers")
        assert (await reasons(w, "a"))[-2:] == ["DeletingLoadBalancer", "DeletedLoadBalancer"]


async def test_an_address_that_was_asked_for_and_a_class_of_somebody_else() -> None:
    async with world() as w:
        await w.namespace()
        await w.create("services", service("a", loadBalancerIP="10.9.0.2"))
        await w.create("services", service("other", loadBalancerClass="example.com/other"))
        await w.settle()
        assert await address(w, "a") == "10.9.0.2"
        other = await w.client.get("services", "other", "default")
        assert await address(w, "other") == "" and not other["metadata"].get("finalizers")
