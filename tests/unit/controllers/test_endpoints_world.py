"""Endpoints of Services as whole controllers on the in-memory store, and the packing of slices as a pure function."""

from __future__ import annotations

from typing import Any

from cluster.controllers.endpoints import EndpointsController, EndpointSliceController
from cluster.controllers.endpoints_core import plan_slices
from cluster.machinery.client import Obj
from tests.support.controller_world import World

BOTH = (EndpointSliceController, EndpointsController)
SLICES = "endpointslices.discovery.k8s.io"


def service(name: str = "web", **spec: Any) -> Obj:
    body = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": body}


def pod(name: str, app: str = "web", port_name: str = "web") -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app, "tier": "x"}},
        "spec": {
            "terminationGracePeriodSeconds": 30,
            "containers": [
                {"name": "main", "image": "x", "ports": [{"name": port_name, "containerPort": 8080}]},
            ],
        },
    }


async def start(w: World, *names: str) -> None:
    await w.namespace()
    await w.node("n1")
    for name in names:
        await w.create("pods", pod(name))
    await w.kubelet()


async def conditions(w: World) -> dict[str, Any]:
    found = {}
    for s in await w.items(SLICES):
        for e in s.get("endpoints") or []:
            found[e["targetRef"]["name"]] = e["conditions"]
    return found


async def test_ready_pods_become_endpoints_and_legacy_endpoints() -> None:
    async with World(*BOTH) as w:
        await start(w, "a", "b")
        await w.create("services", service())
        await w.settle()
        (s,) = await w.items(SLICES)
        assert s["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
        assert s["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
        assert await conditions(w) == {n: {"ready": True, "serving": True, "terminating": False} for n in "ab"}
        (e,) = await w.items("endpoints")
        assert {a["targetRef"]["name"] for a in e["subsets"][0]["addresses"]} == {"a", "b"}
        before = w.store.revision
        for c in w.controllers:
            c.resync()
        await w.settle()
        assert w.store.revision == before


async def test_an_unready_and_a_terminating_pod_leave_ready() -> None:
    async with World(*BOTH) as w:
        await start(w, "a", "b", "c")
        await w.create("services", service())
        await w.settle()
        pods = {p["metadata"]["name"]: p for p in await w.items("pods")}
        await w.pod_status(pods["a"], ready=False)
        await w.client.delete("pods", "b", "default")
        await w.settle()
        assert await conditions(w) == {
            "a": {"ready": False, "serving": False, "terminating": False},
            "b": {"ready": False, "serving": True, "terminating": True},
            "c": {"ready": True, "serving": True, "terminating": False},
        }
        (e,) = await w.items("endpoints")
        (subset,) = e["subsets"]
        assert [x["targetRef"]["name"] for x in subset["addresses"]] == ["c"]
        assert [x["targetRef"]["name"] for x in subset["notReadyAddresses"]] == ["a"]
        await w.client.delete("pods", "b", "default", grace_period_s=0)
        await w.settle()
        assert set(await conditions(w)) == {"a", "c"}


async def test_not_ready_addresses_are_published_on_wish_and_headless_is_marked() -> None:
    async with World(*BOTH) as w:
        await start(w, "a")
        await w.pod_status((await w.items("pods"))[0], ready=False)
        await w.create("services", service(publishNotReadyAddresses=True, clusterIP="None"))
        await w.settle()
        assert (await conditions(w))["a"] == {"ready": True, "serving": False, "terminating": False}
        (s,) = await w.items(SLICES)
        assert s["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


async def test_a_named_target_port_is_looked_up_in_each_pod() -> None:
    async with World(*BOTH) as w:
        await start(w, "a")
        await w.create("services", service(ports=[{"port": 80, "targetPort": "web"}]))
        await w.settle()
        (s,) = await w.items(SLICES)
        assert s["ports"][0]["port"] == 8080


async def test_services_without_selector_and_foreign_slices_are_left_alone() -> None:
    async with World(*BOTH) as w:
        await start(w, "a")
        await w.create("services", service("kubernetes", selector=None))
        own = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.89.0.11"]}],
            "ports": [{"name": "https", "port": 6443}],
        }
        await w.create(SLICES, own)
        await w.settle()
        (s,) = await w.items(SLICES)
        assert s["endpoints"][0]["addresses"] == ["10.89.0.11"]
        assert await w.items("endpoints") == []


async def test_a_deleted_service_takes_its_endpoints_along() -> None:
    async with World(*BOTH) as w:
        await start(w, "a")
        await w.create("services", service())
        await w.settle()
        await w.client.delete("services", "web", "default")
        await w.settle()
        assert await w.items("endpoints") == []


def _running(i: int) -> Obj:
    return {
        "metadata": {"name": f"p{i}", "namespace": "default", "uid": f"u{i}"},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {
            "podIP": f"10.244.{i // 250}.{i % 250 + 1}",
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _named(created: tuple[Obj, ...]) -> list[Obj]:
    return [{**s, "metadata": {**s["metadata"], "name": f"s{i}"}} for i, s in enumerate(created)]


def test_slices_hold_at_most_the_limit_and_changes_touch_few() -> None:
    svc = service()
    svc["metadata"]["uid"] = "su"
    pods = [_running(i) for i in range(250)]
    plan = plan_slices(svc, pods, [], {})
    assert [len(s["endpoints"]) for s in plan.create] == [100, 100, 50]
    slices = _named(plan.create)
    assert plan_slices(svc, pods, slices, {}) == plan_slices(svc, pods, slices, {})
    same = plan_slices(svc, pods, slices, {})
    assert (same.create, same.update, same.delete) == ((), (), ())
    one_gone = plan_slices(svc, pods[1:], slices, {})
    assert [s["metadata"]["name"] for s in one_gone.update] == ["s0"]
    assert not one_gone.create and not one_gone.delete
    one_more = plan_slices(svc, [*pods, _running(250)], slices, {})
    assert [len(s["endpoints"]) for s in one_more.update] == [51] and not one_more.create
    none = plan_slices(svc, [], slices, {})
    assert len(none.update) + len(none.delete) == 3 and len(none.create) <= 1
